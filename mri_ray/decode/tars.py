"""tar and tar.gz -> their entries, read forward.

Not by `tarfile.open`: it takes a damaged header for the end, and holds what an extended header announces. One header
at a time it reads well. Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, cast

from mri_ray.decode.limits import Refused
from mri_ray.decode.unpack import PIECE_BYTES, Budget, Entry, Gunzip, reader
from mri_ray.errors import Reason

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(_BLOCK)
_MAX_EXTENSION_BYTES = 2**20
_MAX_EXTENSIONS = 16  # headers about one member; four kinds are known
_EXTENSION_WORK = 8 * 2**10  # such a header takes as long as so many bytes of content, and each byte in it as 16
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = (b"x", b"X"), b"g", b"L", b"K"
_FILES = (b"0", b"\0", b"7")
_NO_FILES = (b"1", b"2", b"3", b"4", b"6")  # links, devices and pipes: none has content
_FOLDERS = (b"5", b"D", b"V")  # D: what was in a folder, by GNU tar; V: the archive's label
_SPARSE, _CONTINUED = b"S", b"M"


def recognise(head: bytes) -> bool:
    """Whether a block is a tar's first: by its magic, or by the checksum where the format is older."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


def entries(source: BinaryIO, budget: Budget, *, gzipped: bool) -> Iterator[Entry]:
    """Tars one after another in one object are read as one.

    Raises Refused for what concerns the pack as a whole, after the entries that it leaves.
    """
    tape = _Tape(source, budget, gzipped=gzipped)
    has_ended = False
    about = _About()
    while block := tape.block(may_be_cut=has_ended):
        if block == _ZEROS:
            if about.name is not None:
                raise Refused(Reason.DAMAGED_PACK, "the tar ends between a member's two headers")
            has_ended = True
            continue
        tape.mark()
        header = _header(block, has_ended=has_ended)
        has_ended = False
        if header.type in (*_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            about = _extended(tape, header, about)
            continue
        if header.type == _SPARSE:
            _pass_map(tape, block)
        entry = _entry(tape, header, about)
        end = tape.position + _padded(entry.size)
        yield entry
        tape.skip(end - tape.position)
        about = _About()
    if not has_ended:
        raise Refused(Reason.TRUNCATED_PACK, "the tar ends without its end mark")


def _header(block: bytes, *, has_ended: bool) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        detail = "what follows the tar's end mark is no member" if has_ended else "the tar has a damaged header"
        raise Refused(Reason.DAMAGED_PACK, f"{detail}; from there on nothing was read") from exc
    if header.size < 0:
        raise Refused(Reason.DAMAGED_PACK, "the tar has a header with a negative size; from there on nothing was read")
    return header


def _entry(tape: "_Tape", header: tarfile.TarInfo, about: "_About") -> Entry:
    size = header.size if about.size is None else about.size
    size = 0 if header.type in (*_NO_FILES, b"5") else size
    name = header.name if about.name is None else about.name
    refusal = None
    if header.type in _NO_FILES:
        refusal = Refused(Reason.UNSAFE_MEMBER, "a link or a device")
    elif header.type == _CONTINUED:
        refusal = Refused(Reason.UNSAFE_MEMBER, "the end of a file that begins in another tar")
    elif header.type == _SPARSE or about.is_sparse:
        refusal = Refused(Reason.UNSUPPORTED_COMPRESSION, "stored without its stretches of zeros (sparse)")
    is_folder = header.type in _FOLDERS or (header.type in _FILES and not size and name.endswith("/"))
    # Of any other type it is read as a file, as the standard asks.
    return Entry(name=name, size=size, content=partial(_content, tape, size), is_folder=is_folder, refusal=refusal)


def _content(tape: "_Tape", size: int) -> Iterator[bytes]:
    while size:
        piece = tape.read(min(size, PIECE_BYTES))
        size -= len(piece)
        yield piece


def _pass_map(tape: "_Tape", header: bytes) -> None:
    """Where a sparse file's stretches lie, as far as it does not fit into its header."""
    more = header[482]
    while more:
        more = tape.read(_BLOCK)[504]


@dataclass(frozen=True, kw_only=True, slots=True)
class _About:
    """What headers before a member's own say of it. count: how many they are."""

    count: int = 0
    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def _extended(tape: "_Tape", header: tarfile.TarInfo, about: _About) -> _About:
    about = replace(about, count=about.count + 1)
    tape.work(_EXTENSION_WORK)
    if about.count > _MAX_EXTENSIONS:
        raise Refused(Reason.DAMAGED_PACK, f"the tar has more than {_MAX_EXTENSIONS} headers about one member")
    if header.type in (_PAX_GLOBAL, _LONG_LINK):
        tape.skip(_padded(header.size))
        return about
    if header.size > _MAX_EXTENSION_BYTES:
        raise Refused(Reason.DAMAGED_PACK, f"the tar has a header of {header.size} bytes about one member")
    data = tape.read(_padded(header.size))[: header.size]
    tape.work(16 * header.size)
    if header.type == _LONG_NAME:
        return replace(about, name=_text(data.partition(b"\0")[0]))
    records = _pax(data)
    if (size := records.get(b"size")) is not None:
        about = replace(about, size=_number(size))
    if any(key.startswith(b"GNU.sparse.") for key in records):
        about = replace(about, is_sparse=True)
    path = records.get(b"GNU.sparse.name", records.get(b"path"))
    return about if path is None else replace(about, name=_text(path))


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records of the form "length key=value\\n", where the length is that of the whole record."""
    records = {}
    at = 0
    while at < len(data) and data[at]:  # some writers fill up with zeros
        space = data.find(b" ", at, at + 21)
        end = at + _number(data[at:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if space < 0 or end > len(data) or not equals or data[end - 1 : end] != b"\n":
            raise Refused(Reason.DAMAGED_PACK, "the tar has a damaged extended header")
        records[key] = value
        at = end
    return records


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise Refused(Reason.DAMAGED_PACK, "the tar has an extended header with a damaged number")
    return int(digits)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class _Tape:
    """A tar's bytes, forward. position: of the next one, unpacked."""

    def __init__(self, source: BinaryIO, budget: Budget, *, gzipped: bool) -> None:
        self.position = 0
        self._budget = budget
        self._gunzip = Gunzip(source) if gzipped else None
        self._source = source if self._gunzip is None else cast(BinaryIO, reader(iter(self._gunzip)))
        self._size = None
        if self._source.seekable():
            self._size = self._source.seek(0, io.SEEK_END)
            self._source.seek(0)
        self._mark = (0, 0)

    def mark(self) -> None:
        """From here on the ratio of unpacked to packed is counted."""
        self._mark = (self.position, self._taken())

    def block(self, *, may_be_cut: bool) -> bytes:
        """The next one; b"" at the end. After the end mark it may be cut off. Raises Refused."""
        data = self._source.read(_BLOCK)
        self._advance(len(data))
        if 0 < len(data) < _BLOCK:
            if may_be_cut and not data.strip(b"\0"):
                return b""
            raise _cut()
        return data

    def read(self, length: int) -> bytes:
        data = self._source.read(length)
        self._advance(len(data))
        if len(data) < length:
            raise _cut()
        return data

    def work(self, size: int) -> None:
        """What takes the time of so many bytes. Raises Refused."""
        self._budget.spend(0, work=size)

    def skip(self, length: int) -> None:
        """Without reading, where the source can be sought in."""
        if self._size is None:
            while length:
                length -= len(self.read(min(length, PIECE_BYTES)))
        elif self.position + length > self._size:
            raise _cut()
        else:
            self._source.seek(self.position + length)
            self._advance(length)

    def _advance(self, length: int) -> None:
        self.position += length
        self._budget.spend(length)
        if self._gunzip is not None:
            position, taken = self._mark
            self._budget.check_ratio(self.position - position, self._taken() - taken)

    def _taken(self) -> int:
        return 0 if self._gunzip is None else self._gunzip.taken


def _cut() -> Refused:
    return Refused(Reason.TRUNCATED_PACK, "the tar ends too early")
