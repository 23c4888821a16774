"""The structure of a JPEG: its frame, where its scan ends, and a copy that holds nothing but the picture.

libjpeg fills the rest of a scan that ends early with mid-grey and only counts a warning, which Pillow does not show; so
the ends are checked here. Source: ITU-T T.81 annex B, Exif 2.32 for the orientation.
"""

import re
from dataclasses import dataclass

from mri_ray.decode.limits import Refused
from mri_ray.decode.tiff import orientation
from mri_ray.errors import Reason

SIGNATURE = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_SOS = 0xDA
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to RST7, SOI
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; Huffman or arithmetic
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}  # lossless, hierarchical, JPEG-LS
_PROGRESSIVE = {0xC2, 0xCA}
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # APP1 to APP15 and comments; APP14 names the colour space
_BETWEEN_SCANS = {_SOS, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_SCANS = 200  # each costs a pass over the whole picture, however few bytes it has
_NOISE = b"\x5a\xa5\x36" * 300  # more than a block needs, and not what libjpeg feeds on itself: zeros
_FILLER = _NOISE + b"".join(b"\xff%c" % restart + _NOISE for restart in range(0xD0, 0xD8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Jpeg:
    """data: the file without its metadata. is_ycc: the first component is the grey. scan: its first byte in data."""

    data: bytes
    width: int
    height: int
    components: int
    is_ycc: bool
    progressive: bool
    orientation: int
    scan: int


def parse(data: bytes) -> Jpeg:
    """Reads the segments before the first scan and looks for the end of the last; raises Refused."""
    kept = [data[:2]]
    frame = b""
    process = 0
    upright = 1
    jfif, transform = False, -1
    position = 2
    while True:
        start, marker, end = _segment(data, position)
        body = data[start + 4 : end]
        if marker in _FRAMES:
            process, frame = marker, body
        elif marker in _OTHER_FRAMES:
            raise Refused(Reason.UNSUPPORTED_FORMAT, f"JPEG: process {marker:02X} is not read")
        elif marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            upright = orientation(body[6:])
        if marker not in _METADATA:
            kept.append(data[start:end])
        position = end
        if marker == _SOS:
            break
    if len(frame) < 6:
        raise Refused(Reason.DAMAGED, "JPEG: no frame header before the first scan")
    progressive = process in _PROGRESSIVE
    if progressive or not data.endswith(_END):
        _scan_end(data, position)
    components = frame[5]
    if frame[0] != 8 or components not in (1, 3, 4):
        raise Refused(Reason.UNSUPPORTED_MODE, f"JPEG: {components} components of {frame[0]} bits")
    scan = sum(map(len, kept))
    return Jpeg(
        data=data if scan == position else b"".join([*kept, data[position:]]),
        width=int.from_bytes(frame[3:5], "big"),
        height=int.from_bytes(frame[1:3], "big"),
        components=components,
        is_ycc=components == 3 and (jfif or transform == 1),
        progressive=progressive,
        orientation=upright,
        scan=scan,
    )


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Where the next segment starts, its marker, and where it ends; what lies before its marker is skipped."""
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise Refused(Reason.TRUNCATED, "JPEG: it ends before its first scan")
        start, marker = match.start(), data[match.end() - 1]
        if marker not in _ALONE:
            break
        position = match.end()
    if marker == 0xD9:
        raise Refused(Reason.TRUNCATED, "JPEG: it ends before its first scan")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    end = start + 2 + length
    if start + 4 > len(data) or end > len(data):
        raise Refused(Reason.TRUNCATED, "JPEG: it ends within a segment")
    if length < 2:
        raise Refused(Reason.DAMAGED, f"JPEG: the segment at byte {start} has no length")
    return start, marker, end


def _scan_end(data: bytes, position: int) -> int:
    """Where the last scan ends: the first marker that does not lead on to another."""
    scans = 1
    while (match := _MARKER.search(data, position)) is not None:
        marker = data[match.end() - 1]
        if marker not in _BETWEEN_SCANS:
            return match.start()
        scans += marker == _SOS
        if scans > _MAX_SCANS:
            raise Refused(Reason.DAMAGED, f"JPEG: more than {_MAX_SCANS} scans")
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    raise Refused(Reason.TRUNCATED, "JPEG: it has no end-of-image marker")


def refilled(jpeg: Jpeg) -> bytes:
    """The same picture with noise behind its last scan: it decodes alike if no block needs more bits than are there."""
    scan = jpeg.data[: _scan_end(jpeg.data, jpeg.scan)].rstrip(b"\xff")  # fill bytes may stand before a marker
    return scan + _FILLER + _END
