"""What a compressed frame says of itself, read before a decoder sees it: its codec, its size, its bits.

A few bytes can announce gigabytes; and decoders believe them. The codestream, not the transfer syntax, tells its codec:
files that name the wrong one of the JPEG family are common, and theirs are no secrets. Sources: ITU-T T.81 annex B
(JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000), DICOM PS3.5 annex G (RLE).
"""

import struct
from dataclasses import dataclass
from typing import Literal

from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

_JPEG = b"\xff\xd8"
_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "
STARTS = (_JPEG + b"\xff", _J2K, _JP2)  # of what may be the first fragment of a frame
_END = b"\xff\xd9"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_DCT = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_LOSSLESS, _LS = 0xC3, 0xF7
_FRAMES = {*range(0xC0, 0xD0), _LS} - {0xC4, 0xC8, 0xCC}
_SOS, _COD = 0xDA, 0x52
_TILE = b"\xff\x90"
_MAX_TILES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Codestream:
    """codec: jpeg-8 is lossy and of 8 bits. data: without a file around it. signed: as the codestream says.

    coloured: what three components are, where the codestream tells; None leaves it to the data set. scan: where the
    first scan's data of a JPEG begin.
    """

    codec: Literal["jpeg-8", "jpeg", "jpeg-ls", "jpeg-2000"]
    data: bytes
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    lossless: bool = False
    coloured: Literal["RGB", "YBR"] | None = None
    scan: int = 0


def read(data: bytes) -> Codestream:
    """Raises Refused, if it is none of those read here or ends before it says enough."""
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data.startswith(_JP2):
        start = data.find(_J2K)
        data = data[start:] if start > 0 else data
    if data.startswith(_J2K):
        return _jpeg_2000(data)
    if len(data) < 4:
        raise Refused(Reason.TRUNCATED, f"a frame of {len(data)} bytes")
    raise Refused(Reason.DAMAGED, "a frame that begins like no codestream known here")


def check_rle(data: bytes, segments: int) -> None:
    """Holds the table of segments against the number that there must be; raises Refused."""
    if len(data) < 64:
        raise Refused(Reason.TRUNCATED, f"RLE: a frame of {len(data)} bytes, shorter than its table of segments")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != segments:
        raise Refused(Reason.DAMAGED, f"RLE: {count} segments, where the header calls for {segments}")
    used = offsets[:count]
    if used[0] != 64 or used != sorted(set(used)):
        raise Refused(Reason.DAMAGED, "RLE: the offsets of its segments do not ascend")
    if used[-1] >= len(data):
        raise Refused(Reason.TRUNCATED, "RLE: it ends before its last segment")


def _jpeg(data: bytes) -> Codestream:
    frame, process = b"", -1
    jfif, transform = False, -1
    position, marker = 2, -1
    while marker != _SOS:
        marker, start, position = _segment(data, position)
        body = data[start:position]
        if marker in _FRAMES:
            if frame:
                raise Refused(Reason.DAMAGED, "JPEG: two frame headers")
            frame, process = body, marker
        elif marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise Refused(Reason.DAMAGED, "JPEG: no whole frame header before its scan")
    precision, rows, columns, components = struct.unpack_from(">BHHB", frame)
    if process not in (*_DCT, _LOSSLESS, _LS) or (precision != 8 and process in _DCT - {0xC0, 0xC1}):
        raise Refused(Reason.UNSUPPORTED_MODE, f"JPEG: process {process:02X} of {precision} bits is not read")
    # Without it, CharLS may look for seconds for the end of a number that a cut codestream does not finish.
    if data.rfind(_END, position) < 0:
        raise Refused(Reason.TRUNCATED, "JPEG: it has no end-of-image marker")
    return Codestream(
        codec="jpeg-ls" if process == _LS else "jpeg-8" if process in _DCT and precision == 8 else "jpeg",
        data=data,
        rows=rows,
        columns=columns,
        components=components,
        precision=precision,
        lossless=process == _LOSSLESS,
        coloured=_coloured(frame[6::3][:components], jfif, transform) if process in _DCT else None,
        scan=position,
    )


def _coloured(names: bytes, jfif: bool, transform: int) -> Literal["RGB", "YBR"] | None:
    """As libjpeg has it, except where it guesses. transform: of Adobe's segment, negative without one."""
    if jfif or transform == 1:
        return "YBR"
    return "RGB" if transform == 0 or (transform < 0 and names == b"RGB") else None


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """The next segment's marker, where its body starts, and where it ends."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            raise Refused(Reason.TRUNCATED, "JPEG: it ends before its first scan")
        marker = data[position + 1]
        if marker not in (0x00, 0xFF, *_ALONE):
            break
        position += 1 if marker == 0xFF else 2
    if marker == 0xD9:
        raise Refused(Reason.TRUNCATED, "JPEG: it ends before its first scan")
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    if length < 2:
        raise Refused(Reason.DAMAGED, "JPEG: a segment without a length")
    end = position + 2 + length
    if end > len(data):
        raise Refused(Reason.TRUNCATED, "JPEG: it ends within a segment")
    return marker, position + 4, end


def _jpeg_2000(data: bytes) -> Codestream:
    if len(data) < 42 or len(data) < 4 + int.from_bytes(data[4:6], "big"):
        raise Refused(Reason.TRUNCATED, "JPEG 2000: it ends within its header")
    _, _, right, lower, left, upper, width, height, tile_left, tile_upper, count = struct.unpack_from(">HH8IH", data, 4)
    components = [data[at : at + 3] for at in range(42, 42 + 3 * count, 3)]
    if not components or len(set(components)) > 1 or len(components[0]) < 3 or components[0][1:] != b"\1\1":
        raise Refused(Reason.UNSUPPORTED_MODE, f"JPEG 2000: {count} components that differ in depth or size")
    if not (width and height and left >= tile_left and upper >= tile_upper):
        raise Refused(Reason.DAMAGED, "JPEG 2000: tiles without a size or a place")
    tiles = -(-(right - tile_left) // width) * -(-(lower - tile_upper) // height)
    if tiles > _MAX_TILES:
        raise Refused(Reason.DAMAGED, f"JPEG 2000: {tiles} tiles, at most {_MAX_TILES} are read")
    first, mixed = _main_header(data)
    _check_tiles(data, first, tiles)
    depth = components[0][0]
    return Codestream(
        codec="jpeg-2000",
        data=data,
        rows=lower - upper,
        columns=right - left,
        components=count,
        precision=(depth & 0x7F) + 1,
        signed=depth > 0x7F,
        coloured="RGB" if count == 3 and mixed else None,
    )


def _main_header(data: bytes) -> tuple[int, bool]:
    """Where the first tile starts; whether the decoder undoes a colour transform, so that the result is RGB."""
    position, mixed = 2, False
    while data[position : position + 2] != _TILE:
        if position + 4 > len(data):
            raise Refused(Reason.TRUNCATED, "JPEG 2000: it ends within its header")
        if data[position] != 0xFF:
            raise Refused(Reason.DAMAGED, "JPEG 2000: its header holds something else")
        if data[position + 1] == _COD:
            mixed = data[position + 8 : position + 9] == b"\1"
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position, mixed


def _check_tiles(data: bytes, position: int, count: int) -> None:
    """Whether every tile is there, to its end: OpenJPEG gives zeros for those that are not."""
    found = set()
    while data[position : position + 2] == _TILE and position + 12 <= len(data):
        tile, length = struct.unpack_from(">HI", data, position + 4)
        end = position + length if length else max(position + 12, data.rfind(_END, position))
        if end > len(data) or (length and length < 14):
            raise Refused(Reason.TRUNCATED, f"JPEG 2000: it ends within tile {tile}")
        found.add(tile)
        position = end
    if len(found) < count or max(found, default=0) >= count:
        raise Refused(Reason.TRUNCATED, f"JPEG 2000: {len(found)} of {count} tiles are there")
