"""zip and tar -> their members, one after another, forward, with one piece of one member in memory."""

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from mri_ray.decode import tars, zips
from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.decode.member_names import (
    MemberNames,
    is_document,
    is_program,
    is_sidecar,
    is_system_file,
    is_unsafe,
    may_be_sidecar,
)
from mri_ray.decode.settings import DecodeConfig
from mri_ray.decode.unpack import INPUT_BYTES, Budget, Entry, reader
from mri_ray.errors import Reason
from mri_ray.records import Failure

__all__ = ["Budget", "Member", "members", "recognise"]

_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"PK00PK\3\4")  # a member, an empty one, parts of a split one
_TEXT_BYTES = 4096
_SPOOLED_IN_MEMORY = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in a pack. source: read forward only, until the next member is asked for; raises Refused."""

    name: str
    size: int
    source: io.BufferedReader


def recognise(head: bytes) -> str | None:
    """`zip` or `tar` by an object's first 512 bytes (inflated, for a tar in gzip)."""
    if head.startswith(_ZIP):
        return "zip"
    return "tar" if tars.recognise(head[: tarfile.BLOCKSIZE]) else None


def members(
    kind: str, source: BinaryIO, uri: str, config: DecodeConfig, budget: Budget, *, gzipped: bool = False
) -> Iterator[Member | Failure]:
    """The files in a pack in the order stored, or why one cannot be read (with its `member`), or the rest (without).

    `source` stands at the pack's first byte. Folders are passed over. Never raises for bad content; SourceLost from the
    source passes through. A checksum holds only for members that are read to their end.
    """
    names = MemberNames()
    is_empty = is_first = True
    try:
        with ExitStack() as stack:
            if source.seekable():
                size = source.seek(0, io.SEEK_END)
                source.seek(0)
                budget.packed = size if budget.packed is None else budget.packed
            elif kind == "zip":
                source = stack.enter_context(_spooled(source))
            entries = zips.entries(source, budget) if kind == "zip" else tars.entries(source, budget, gzipped=gzipped)
            for entry in entries:
                budget.count()
                if is_first and kind == "zip":
                    _refuse_document(entry)
                is_first = False
                if not entry.is_folder:
                    is_empty = False
                    yield _member(entry, names.give(entry.name), uri)
    except Refused as refused:
        detail = refused.detail
        if refused.reason in (Reason.PACK_BOMB, Reason.PACK_TOO_LARGE):
            detail += "; from there on nothing in it was read"
        yield Failure(reason=refused.reason, where=uri, detail=detail)
        return
    if is_empty:
        yield Failure(reason=Reason.EMPTY_PACK, where=uri, detail=f"a {kind} without a file")


def _refuse_document(first: Entry) -> None:
    if is_document(first.name):
        raise Refused(Reason.UNSUPPORTED_FORMAT, "an office document, a book or a Java archive")


def _member(entry: Entry, name: str, uri: str) -> Member | Failure:
    try:
        return Member(name=name, size=entry.size, source=_opened(entry))
    except Refused as refused:
        return Failure(reason=refused.reason, where=uri, detail=refused.detail, member=name)


def _opened(entry: Entry) -> io.BufferedReader:
    if is_unsafe(entry.name):
        raise Refused(Reason.UNSAFE_MEMBER, "its name points out of the pack, or is none")
    if is_system_file(entry.name):
        raise Refused(Reason.SKIPPED_SIDECAR, "a file of the operating system")
    if entry.refusal is not None:
        raise entry.refusal
    source = reader(entry.content())
    if is_program(source.peek(_TEXT_BYTES)):
        raise Refused(Reason.SKIPPED_SIDECAR, "a program, as viewers on discs are")
    if may_be_sidecar(entry.name) and is_sidecar(source.peek(_TEXT_BYTES)[:_TEXT_BYTES]):
        raise Refused(Reason.SKIPPED_SIDECAR, "text, or extra data of macOS")
    return source


@contextmanager
def _spooled(source: BinaryIO) -> Iterator[BinaryIO]:
    """A pack's content where it can be sought in: in memory when small, else in a file without a name."""
    with tempfile.SpooledTemporaryFile(_SPOOLED_IN_MEMORY) as spool:
        while piece := source.read(INPUT_BYTES):
            try:
                spool.write(piece)
            except OSError as exc:  # the disk's, whose kind must not be taken for the archive's
                raise SourceLost(OSError(f"no temporary file: {exc}")) from exc
        yield cast(BinaryIO, spool)
