"""Encapsulated pixels -> the compressed bytes of each frame: which fragments belong to which.

A frame may be in several fragments, and the table that tells them apart may be missing, or wrong. Where the fragments
do not settle it nothing is guessed, since each frame has a place of its own in space. Source: DICOM PS3.5, A.4.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from mri_ray.decode.dicom.decompress_codestream import STARTS
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_MAX_FRAGMENTS = 100_000
_CUT = Refused(Reason.TRUNCATED, "the pixels end within this frame")


class _Fragment(NamedTuple):
    """Where an item and its value stand; whole: the value does not reach beyond the end."""

    item: int
    start: int
    end: int
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Items:
    """table: the offsets' item. fragments: those after it. stop: where reading ended. fault: why, if too early."""

    table: _Fragment
    fragments: list[_Fragment]
    stop: int
    fault: Refused | None


def frames(
    data: bytes, count: int, extended: bytes | None = None, *, single: bool = False
) -> Iterator[bytes | Refused]:
    """The compressed bytes of `count` frames in order; a Refused for each that is not there, or not whole.

    extended: the Extended Offset Table's value. single: no frame is in more than one fragment. What the stream holds
    beyond them is one more Refused. Raises Refused if it is no such stream, or if its frames cannot be told apart.
    """
    items = _read(data)
    offsets = _offsets(data, items, count, extended)
    if offsets is not None:
        for start, stop in zip(offsets, [*offsets[1:], None], strict=True):
            yield _at(data, items, start, stop)
        return
    groups = _grouped(data, items, count, single=single)
    for group in groups[:count]:
        yield _joined(data, group)
    for _ in range(count - len(groups)):
        yield items.fault or Refused(Reason.TRUNCATED, f"{len(groups)} frames are there, {count} are announced")
    if len(groups) > count:
        yield Refused(Reason.DAMAGED, f"{len(groups)} frames are there, {count} are announced")


def _read(data: bytes) -> _Items:
    if not data.startswith(_ITEM):
        raise Refused(Reason.DAMAGED, "compressed pixels that are not in fragments")
    found: list[_Fragment] = []
    position, fault = 0, Refused(Reason.TRUNCATED, "the pixels end without a delimiter")
    while position + 8 <= len(data):
        tag = data[position : position + 4]
        if tag == _END:
            return _items(found, position, None)
        if tag != _ITEM or len(found) > _MAX_FRAGMENTS:
            fault = Refused(Reason.DAMAGED, "among the fragments of its pixels stands something else")
            break
        start = position + 8
        end = start + int.from_bytes(data[position + 4 : start], "little")
        found.append(_Fragment(position, start, min(end, len(data)), end <= len(data)))
        position = end
    # Who reads the element may have taken off the delimiter that ends it.
    return _items(found, position, None if position == len(data) else fault)


def _items(found: list[_Fragment], stop: int, fault: Refused | None) -> _Items:
    if not found:
        raise Refused(Reason.TRUNCATED, "the pixels end before their first fragment")
    return _Items(table=found[0], fragments=found[1:], stop=stop, fault=fault)


def _offsets(data: bytes, items: _Items, count: int, extended: bytes | None) -> list[int] | None:
    """Where the frames' first items stand, by the first table that agrees with the fragments as far as they go."""
    base = items.table.end
    known = {fragment.item for fragment in items.fragments}
    for table, kind in ((extended or b"", "Q"), (data[items.table.start : items.table.end], "I")):
        size = struct.calcsize(kind)
        if count * size > len(table) or len(table) >= (count + 1) * size:
            continue
        offsets = [base + offset for offset in struct.unpack_from(f"<{count}{kind}", table)]
        ascend = offsets[0] == base and all(a < b for a, b in pairwise(offsets))
        if ascend and all(offset in known or offset >= items.stop for offset in offsets):
            return offsets
    return None


def _at(data: bytes, items: _Items, start: int, stop: int | None) -> bytes | Refused:
    """The frame whose fragments stand from `start` to `stop`, to the end for None."""
    end = len(data) if stop is None else stop
    if start >= len(data):
        return items.fault or Refused(Reason.TRUNCATED, "the pixels end before this frame")
    group = []
    while start < end and data[start : start + 4] != _END:
        value = start + 8
        length = int.from_bytes(data[start + 4 : value], "little")
        if value + length > len(data):
            return _CUT
        if data[start : start + 4] != _ITEM or value + length > end:
            return Refused(Reason.DAMAGED, "the fragments of this frame do not follow each other")
        group.append(_Fragment(start, value, value + length, True))
        start = value + length
    return _joined(data, group)


def _joined(data: bytes, group: list[_Fragment]) -> bytes | Refused:
    if not all(fragment.whole for fragment in group):
        return _CUT
    return b"".join(data[fragment.start : fragment.end] for fragment in group)


def _grouped(data: bytes, items: _Items, count: int, *, single: bool) -> list[list[_Fragment]]:
    """Fragments a frame, without a table: as many frames as there are."""
    fragments = items.fragments
    alone = [[fragment] for fragment in fragments]
    if single or len(fragments) == count:
        return alone
    starts = [at for at, fragment in enumerate(fragments) if data.startswith(STARTS, fragment.start)]
    if count == 1 and len(starts) < 2:
        return [fragments] if fragments else []
    # Fewer frames than announced are the first ones when the pixels are cut, or when each is in one fragment.
    if starts[:1] == [0] and (len(starts) >= count or items.fault or len(starts) == len(fragments)):
        return [fragments[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    if len(fragments) < count:
        return alone
    raise Refused(
        Reason.DAMAGED, f"{len(fragments)} fragments, of which it is not settled how they make {count} frames"
    )
