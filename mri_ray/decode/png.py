"""The structure of a PNG: every chunk checked, and a copy that holds nothing but the picture.

Pillow does not check the pixels' own checksums, fills up a pixel stream that ends early with black, and inflates text
chunks. Source: the PNG specification, third edition.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from mri_ray.decode.limits import Refused
from mri_ray.decode.tiff import orientation
from mri_ray.errors import Reason

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Png:
    """data: the file without its metadata. depth: bits a sample. stream: the compressed pixels, piece by piece."""

    data: bytes
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    orientation: int
    stream: tuple[memoryview, ...]


def parse(data: bytes) -> Png:
    """Checks all chunks up to the end; raises Refused."""
    kept: list[bytes | memoryview] = [SIGNATURE]
    stream = []
    header: bytes = b""
    upright = 1
    for kind, body, chunk in _chunks(data):
        if not header:
            if kind != b"IHDR" or len(body) != 13:
                raise Refused(Reason.DAMAGED, "PNG: the first chunk is no header")
            header = bytes(body)
        if kind in _PICTURE:
            kept.append(chunk)
        elif kind == b"eXIf":
            upright = orientation(bytes(body))
        elif not kind[0] & 0x20:
            raise Refused(Reason.UNSUPPORTED_FORMAT, "PNG: it needs an extension that is not read")
        if kind == b"IDAT":
            stream.append(body)
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()):
        raise Refused(Reason.DAMAGED, f"PNG: no colour type {colour} with {depth} bits exists")
    if depth == 16 and colour:
        # Pillow would keep the upper 8 bits only, which are all black where 12 bits are stored in 16.
        raise Refused(Reason.UNSUPPORTED_MODE, "PNG: colour or alpha with 16 bits a channel")
    return Png(
        data=b"".join(kept),
        width=width,
        height=height,
        depth=depth,
        colour=colour,
        interlaced=bool(interlace),
        orientation=upright,
        stream=tuple(stream),
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Type, content and the whole of each chunk; each checksum holds, the last chunk is IEND."""
    view = memoryview(data)
    position = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise Refused(Reason.TRUNCATED, "PNG: it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Refused(Reason.TRUNCATED, "PNG: it ends within a chunk")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise Refused(Reason.DAMAGED, f"PNG: the checksum of the chunk at byte {position} does not hold")
        yield kind, view[position + 8 : end - 4], view[position:end]
        position = end


def is_complete(png: Png) -> bool:
    """Whether the compressed stream holds every row; inflates it block by block."""
    wanted = _raw_size(png)
    inflater = zlib.decompressobj()
    try:
        for piece in png.stream:
            pending: bytes | memoryview = piece
            while pending and wanted > 0:
                wanted -= len(inflater.decompress(pending, _BLOCK))
                pending = inflater.unconsumed_tail
        while wanted > 0 and (rest := inflater.decompress(b"", _BLOCK)):
            wanted -= len(rest)
    except zlib.error:
        return False
    return wanted <= 0


def _raw_size(png: Png) -> int:
    """Bytes of all rows with their filter bytes."""
    passes = _ADAM7 if png.interlaced else ((0, 0, 1, 1),)
    bits = png.depth * _SAMPLES[png.colour]
    total = 0
    for x, y, step_x, step_y in passes:
        columns = max(0, -(-(png.width - x) // step_x))
        rows = max(0, -(-(png.height - y) // step_y))
        if columns:
            total += rows * (1 + -(-columns * bits // 8))
    return total
