"""The structure of a TIFF: its pages, each checked against the file's length and handed on as a file of its own.

A page is given to Pillow behind a directory written anew, which holds only what the picture needs: so a damaged page
does not take its siblings along, and no metadata is parsed. Source: TIFF 6.0; BigTIFF; Exif 2.32 for the orientation.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _FORMAT, _SUBSAMPLING = 322, 323, 324, 325, 339, 530
_SINGLE = {
    _WIDTH,
    _HEIGHT,
    _COMPRESSION,
    _PHOTOMETRIC,
    266,
    _SAMPLES,
    _STRIP_ROWS,
    _PLANAR,
    317,
    _TILE_WIDTH,
    _TILE_HEIGHT,
}
_OPAQUE = {292, 347, 532}  # fax options, JPEG tables, reference black and white: passed on unread
_KEPT = {*_SINGLE, *_OPAQUE, _BITS, _STRIPS, _STRIP_BYTES, 320, _TILES, _TILE_BYTES, 338, _FORMAT, _SUBSAMPLING}
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TYPE_BYTES = {1: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000, 50001}
_MAX_ENTRIES = 512  # a directory of a picture has about 20
_YCBCR = 6


class _Layout(NamedTuple):
    order: str
    big: bool
    first: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """bits: a sample. white_is_zero: of deep greys, which Pillow leaves as stored. directory: of this page alone."""

    width: int
    height: int
    bits: int
    orientation: int
    white_is_zero: bool
    unsigned: bool
    directory: bytes


def directories(data: bytes, max_pages: int) -> Iterator[int | Refused]:
    """Where each page's directory lies; a chain that breaks ends with what is wrong. Raises Refused for too many."""
    layout = _layout(data)
    offset, found = layout.first, dict[int, None]()
    broken = None
    while offset and broken is None:
        if len(found) == max_pages:
            raise Refused(Reason.TOO_MANY_FRAMES, f"TIFF: more than {max_pages} pages")
        if offset in found:
            broken = Refused(Reason.DAMAGED, "TIFF: its pages are chained in a circle")
            break
        try:
            following = _span(data, layout, offset)[2]
            found[offset] = None
            offset = following
        except Refused as refused:
            broken = refused
    if not found:
        raise broken or Refused(Reason.DAMAGED, "TIFF: it has no page")
    yield from found
    if broken is not None:
        yield broken


def page(data: bytes, directory: int, max_pixels: int) -> Page:
    """Reads and checks one directory; raises Refused."""
    layout = _layout(data)
    tags, kept = _entries(data, layout, directory)
    width, height = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0)
    bits = tags.get(_BITS, (1,))
    form = tags.get(_FORMAT, (1,))
    photometric = _one(tags, _PHOTOMETRIC, 0)
    _check_kind(tags, bits, form, photometric)
    if 0 < width * height <= max_pixels:  # a larger one is refused by its size, before anything else
        _check_extent(tags, width, height, len(data), max_pixels)
    counter, link = ("Q", "Q") if layout.big else ("H", "I")
    entries = b"".join(kept[tag] for tag in sorted(kept) if tag != _ORIENTATION)
    count = len(entries) // (20 if layout.big else 12)
    return Page(
        width=width,
        height=height,
        bits=max(bits),
        orientation=_orientation(tags),
        white_is_zero=photometric == 0 and max(bits) > 8,
        unsigned=form[0] == 1,
        directory=struct.pack(layout.order + counter, count) + entries + struct.pack(layout.order + link, 0),
    )


def isolate(stream: io.BytesIO, length: int, found: Page) -> None:
    """Makes `stream`, which holds a TIFF of `length` bytes, a file of this page alone; its pixels stay in place."""
    stream.seek(0)
    layout = _layout(stream.read(16))
    link = layout.order + ("Q" if layout.big else "I")
    place = length + length % 2
    stream.seek(8 if layout.big else 4)
    stream.write(struct.pack(link, place))
    stream.truncate(length)
    stream.seek(place)
    stream.write(found.directory)
    stream.seek(0)


def orientation(exif: bytes) -> int:
    """The orientation that an Exif block gives, 1 to 8; 1 where it gives none or is damaged."""
    try:
        layout = _layout(exif)
        return _orientation(_entries(exif, layout, layout.first, {_ORIENTATION})[0])
    except Refused:
        return 1


def _layout(data: bytes) -> _Layout:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        return _Layout(order, big, struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])
    except struct.error:
        raise Refused(Reason.TRUNCATED, "TIFF: it ends within its header") from None


def _span(data: bytes, layout: _Layout, directory: int) -> tuple[int, int, int]:
    """Of a directory: where its entries start, how many there are, and where the next directory lies."""
    counter, step, link = ("Q", 20, "Q") if layout.big else ("H", 12, "I")
    start = directory + struct.calcsize(counter)
    if start > len(data):
        raise Refused(Reason.TRUNCATED, f"TIFF: the directory at byte {directory} lies beyond the end")
    (count,) = struct.unpack_from(layout.order + counter, data, directory)
    if not 0 < count <= _MAX_ENTRIES:
        raise Refused(Reason.DAMAGED, f"TIFF: the directory at byte {directory} announces {count} entries")
    end = start + count * step
    if end + struct.calcsize(link) > len(data):
        raise Refused(Reason.TRUNCATED, f"TIFF: the directory at byte {directory} reaches beyond the end")
    return start, count, struct.unpack_from(layout.order + link, data, end)[0]


def _entries(
    data: bytes, layout: _Layout, directory: int, wanted: frozenset[int] | set[int] = frozenset({*_KEPT, _ORIENTATION})
) -> tuple[dict[int, tuple[int, ...]], dict[int, bytes]]:
    """The wanted tags' values, and their entries as stored."""
    start, count, _ = _span(data, layout, directory)
    step, counter = (20, "Q") if layout.big else (12, "I")
    room = step - 4 - struct.calcsize(counter)
    tags: dict[int, tuple[int, ...]] = {}
    stored: dict[int, bytes] = {}
    for at in range(start, start + count * step, step):
        tag, kind, number = struct.unpack_from(f"{layout.order}HH{counter}", data, at)
        if tag not in wanted or tag in stored or kind not in _TYPE_BYTES or not number:
            continue
        if tag in _SINGLE and number != 1:
            raise Refused(Reason.DAMAGED, f"TIFF: tag {tag} has {number} values instead of one")
        size, place = number * _TYPE_BYTES[kind], at + step - room
        if size > room:
            (place,) = struct.unpack_from(layout.order + ("Q" if layout.big else "I"), data, place)
        if place + size > len(data):
            raise Refused(Reason.TRUNCATED, f"TIFF: the values of tag {tag} reach beyond the end")
        if kind in _WHOLE_NUMBERS:
            tags[tag] = struct.unpack_from(f"{layout.order}{number}{_WHOLE_NUMBERS[kind]}", data, place)
        elif tag not in _OPAQUE:
            raise Refused(Reason.DAMAGED, f"TIFF: tag {tag} holds no whole numbers")
        stored[tag] = data[at : at + step]
    return tags, stored


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    return tags.get(tag, (default,))[0]


def _orientation(tags: dict[int, tuple[int, ...]]) -> int:
    value = _one(tags, _ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _check_kind(
    tags: dict[int, tuple[int, ...]], bits: tuple[int, ...], form: tuple[int, ...], photometric: int
) -> None:
    """Refuses what Pillow does not read, or reads without telling that values are lost."""
    compression = _one(tags, _COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise Refused(Reason.UNSUPPORTED_FORMAT, f"TIFF: compression {compression} is not read")
    if max(bits) > 8 and max(len(bits), _one(tags, _SAMPLES, 1)) > 1:
        raise Refused(Reason.UNSUPPORTED_MODE, f"TIFF: several channels of {max(bits)} bits")
    if max(bits) <= 8 and form[0] == 2:
        raise Refused(Reason.UNSUPPORTED_MODE, "TIFF: signed 8-bit values")
    if photometric == 0 and form[0] != 1:
        raise Refused(Reason.UNSUPPORTED_MODE, "TIFF: white is zero, but the values are not unsigned")
    if photometric == _YCBCR and compression == 1 and tags.get(_SUBSAMPLING) != (1, 1):
        raise Refused(Reason.UNSUPPORTED_MODE, "TIFF: subsampled colour without compression")


def _check_extent(tags: dict[int, tuple[int, ...]], width: int, height: int, length: int, max_pixels: int) -> None:
    """Every strip or tile that the picture needs is there, and ends within the file."""
    tiled = _TILES in tags
    offsets = tags.get(_TILES if tiled else _STRIPS, ())
    sizes = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    piece_width = _one(tags, _TILE_WIDTH, 0) if tiled else width
    piece_height = _one(tags, _TILE_HEIGHT, 0) if tiled else min(height, _one(tags, _STRIP_ROWS, height))
    if not piece_width or not piece_height or (tiled and piece_width * piece_height > max_pixels):
        raise Refused(Reason.DAMAGED, f"TIFF: tiles of {piece_width} x {piece_height} pixels")
    bits = tags.get(_BITS, (1,))
    samples = max(_one(tags, _SAMPLES, 1), len(bits))
    planes = samples if _one(tags, _PLANAR, 1) == 2 else 1
    across = -(-width // piece_width)
    pieces = across * -(-height // piece_height) * planes
    rows = (-(-height // piece_height) * piece_height if tiled else height) * planes
    row_bits = piece_width * sum(bits if len(bits) == samples else bits[:1] * samples) // planes
    needed = across * rows * -(-row_bits // 8) if _one(tags, _COMPRESSION, 1) == 1 else pieces
    if not sizes and len(offsets) == 1 and _one(tags, _COMPRESSION, 1) == 1:
        sizes = (needed,)  # old writers leave the size out where it follows from the picture
    if len(offsets) < pieces or len(sizes) < pieces:
        raise Refused(Reason.DAMAGED, f"TIFF: {min(len(offsets), len(sizes))} strips or tiles instead of {pieces}")
    if max(map(int.__add__, offsets, sizes)) > length:
        raise Refused(Reason.TRUNCATED, "TIFF: a strip or tile reaches beyond the end")
    if sum(sizes) < needed:
        raise Refused(Reason.TRUNCATED, f"TIFF: {sum(sizes)} bytes of pixels instead of {needed}")
