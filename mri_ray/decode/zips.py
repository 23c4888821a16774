"""zip -> its entries, in the order stored, whatever the order of its directory."""

import io
import stat
import zlib
from array import array
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import BinaryIO

from mri_ray.decode.limits import Refused
from mri_ray.decode.unpack import BZIP2, DEFLATE, INPUT_BYTES, LZMA, STORED, Budget, Entry, unpacked
from mri_ray.decode.zip_directory import (
    LOCAL,
    End,
    Listed,
    contradicts,
    find_end,
    is_count_wrong,
    is_self_contained,
    local,
    parse,
    read_at,
)
from mri_ray.errors import Reason

_SPLIT = b"PK\7\x08"
_SINGLE = b"PK00"  # before the first member of a zip that was to be split, and fitted into one file
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 93: "zstandard", 95: "xz", 96: "jpeg", 98: "ppmd"}
_READ = (STORED, DEFLATE, BZIP2, LZMA)


def entries(source: BinaryIO, budget: Budget) -> Iterator[Entry]:
    """Where the directory is missing or useless, those before the first damage are found by their own headers.

    Raises Refused for what concerns the pack as a whole, after the entries that it leaves.
    """
    start = read_at(source, 0, 4)
    if start == _SPLIT:
        raise Refused(Reason.UNSUPPORTED_FORMAT, "a part of a zip that is split over several files")
    first = len(_SINGLE) if start == _SINGLE else 0
    try:
        end = find_end(source)
        budget.announce(end.members)
        directory = read_at(source, end.start, end.size)
        places, trouble = _order(directory, end.shift, budget)
        if trouble is not None and not places:
            raise trouble
    except Refused as refused:
        if refused.reason in (Reason.TRUNCATED_PACK, Reason.DAMAGED_PACK):
            yield from _walked(source, first, budget)
        raise
    yield from _listed(source, directory, places, end, budget)
    if trouble is not None:
        raise trouble
    if is_count_wrong(end, len(places)):
        detail = f"the zip's directory lists {len(places)} members, its end record {end.members}"
        raise Refused(Reason.DAMAGED_PACK, detail)
    hides = parse(directory, places[0], end.shift).offset > first if places else start == LOCAL
    if hides:
        raise Refused(Reason.DAMAGED_PACK, "the zip's directory does not list the member at its start")


def _listed(source: BinaryIO, directory: bytes, places: "array[int]", end: End, budget: Budget) -> Iterator[Entry]:
    found = None
    for place in chain(places, (None,)):
        following = None if place is None else parse(directory, place, end.shift)
        if found is not None:
            limit = end.start if following is None else min(end.start, following.offset)
            yield _entry(source, found, limit, budget)
        found = following


def _order(directory: bytes, shift: int, budget: Budget) -> tuple["array[int]", Refused | None]:
    """Where in the directory members are described, in the order of their content; and what is wrong from there on."""
    places, offsets = array("Q"), array("Q")
    at, trouble = 0, None
    while at < len(directory):
        try:
            found = parse(directory, at, shift)
            budget.announce(len(places) + 1)
        except Refused as refused:
            if refused.reason is not Reason.DAMAGED_PACK:
                raise
            trouble = refused
            break
        places.append(at)
        offsets.append(found.offset)
        at = found.end
    if any(offsets[i] > offsets[i + 1] for i in range(len(offsets) - 1)):
        places = array("Q", (places[i] for i in sorted(range(len(places)), key=offsets.__getitem__)))
    return places, trouble


def _walked(source: BinaryIO, offset: int, budget: Budget) -> Iterator[Entry]:
    """Members from the first on, as long as each tells where the next begins and is there as a whole."""
    size = source.seek(0, io.SEEK_END)
    while True:
        try:
            found, start = local(source, offset)
        except Refused:
            return
        if not is_self_contained(found) or start + found.packed > size:
            return
        offset = start + found.packed
        yield _entry(source, found, offset, budget)


def _entry(source: BinaryIO, found: Listed, limit: int, budget: Budget) -> Entry:
    """limit: the byte at which something else begins."""
    refusal = None
    try:
        _check(found, limit, budget)
    except Refused as refused:
        refusal = refused
    return Entry(
        name=found.name,
        size=found.size,
        content=partial(_content, source, found, limit, budget),
        is_folder=found.is_folder,
        refusal=refusal,
    )


def _check(found: Listed, limit: int, budget: Budget) -> None:
    """Whether a member may be read, by its description alone; raises Refused."""
    if found.mode not in (0, stat.S_IFREG) or found.raw_name.endswith((b"/", b"\\")):
        raise Refused(Reason.UNSAFE_MEMBER, "a link or a device, or a folder with content")
    if found.is_encrypted:
        raise Refused(Reason.ENCRYPTED, "encrypted")
    if found.method not in _READ:
        name = _METHODS.get(found.method, "unknown")
        raise Refused(Reason.UNSUPPORTED_COMPRESSION, f"compression method {found.method} ({name})")
    if found.method == STORED and found.packed != found.size:
        raise Refused(Reason.DAMAGED_PACK, "the zip's directory gives two sizes for a member that is not compressed")
    if found.offset + 30 + len(found.raw_name) + found.packed > limit:
        raise Refused(Reason.DAMAGED_PACK, "it overlaps what follows it")
    budget.check_ratio(found.size, found.packed)


def _content(source: BinaryIO, found: Listed, limit: int, budget: Budget) -> Iterator[bytes]:
    header, start = local(source, found.offset)
    if contradicts(header, found):
        raise Refused(Reason.DAMAGED_PACK, "its own header contradicts the zip's directory")
    if start + found.packed > limit:
        raise Refused(Reason.DAMAGED_PACK, "it overlaps what follows it")
    size = checksum = 0
    for piece in unpacked(found.method, _packed(source, start, found.packed), found.size):
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
        budget.spend(len(piece))
        budget.check_ratio(size, found.packed)
        if size > found.size or (size == found.size and checksum != found.checksum):
            raise Refused(Reason.DAMAGED, "its content does not have the length or the checksum that it should have")
        yield piece
    if size < found.size:
        raise Refused(Reason.DAMAGED, f"it ends after {size} of {found.size} bytes")


def _packed(source: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    for offset in range(start, start + size, INPUT_BYTES):
        yield read_at(source, offset, min(INPUT_BYTES, start + size - offset))
