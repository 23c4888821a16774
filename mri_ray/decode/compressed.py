"""The native decoders of compressed pixels, one function a codec; they run in the child of `isolated`.

All of them are in imagecodecs: libjpeg-turbo, CharLS and OpenJPEG. What a codestream announces was checked before (see
`decode.dicom.decompress_codestream`). Imported by the child, so this module imports little.
"""

from collections.abc import Callable
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import numpy as np

from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

PACKAGE = "imagecodecs"
_TAIL = 8  # samples; the odds that true ones have equal steps are small, and cost but time
_LEFT = 1  # the predictor that takes the sample to the left
_END = b"\xff\xd9"
_NOISE = b"\x5a\xa5\x36" * 300
_FILLER = b"".join([_NOISE, *(b"\xff%c" % restart + _NOISE for restart in range(0xD0, 0xD8)), _END])


def _raises_refused(codec: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    @wraps(codec)
    def wrapped(*args: Any) -> np.ndarray:
        try:
            return codec(*args)
        except (Refused, MemoryError):
            raise
        except ImportError as exc:
            raise Refused(Reason.TRANSFER_SYNTAX, f"{PACKAGE} is missing, or was built without this codec") from exc
        except Exception as exc:  # a codec's own words may quote the input
            raise Refused(Reason.DAMAGED, f"{codec.__name__}: {type(exc).__name__}") from exc

    return wrapped


@_raises_refused
def jpeg(data: bytes, scan: int, components: int, lossless: bool) -> np.ndarray:
    """A lossless or 12-bit JPEG whose (last) scan's data begin at byte `scan`: components as they are stored.

    libjpeg makes up what is missing at the end and tells nobody. In lossless ones whose samples are predicted from the
    left that leaves equal steps at the end; what has those, and all else, is decoded again with other bits behind its
    end, which must make no difference.
    """
    from imagecodecs import jpeg8_decode

    decode = partial(jpeg8_decode, colorspace="RGB", outcolorspace="RGB") if components == 3 else jpeg8_decode
    pixels = decode(data)
    steps = np.diff(pixels[-1, -_TAIL:], axis=0)
    suspect = not lossless or data[scan - 3] != _LEFT or bool(np.all(steps == steps[:1]))
    if suspect and not _is_whole(decode, data, pixels):
        raise Refused(Reason.TRUNCATED, "JPEG: its scan ends before the last pixel")
    return pixels


@_raises_refused
def jpeg_ls(data: bytes) -> np.ndarray:
    """Lossless or near lossless."""
    from imagecodecs import jpegls_decode

    return jpegls_decode(data)


@_raises_refused
def jpeg_2000(data: bytes) -> np.ndarray:
    """A codestream without a file around it, in which colours might be converted; high-throughput ones, too."""
    from imagecodecs import jpeg2k_decode

    return jpeg2k_decode(data, numthreads=1)


@_raises_refused
def rle(data: bytes, rows: int, columns: int, samples: int, depth: int) -> np.ndarray:
    """Unsigned words of `depth` bytes, (rows, columns) or (rows, columns, samples). Source: DICOM PS3.5, annex G."""
    from imagecodecs import packbits_decode

    count = rows * columns
    offsets = [int(offset) for offset in np.frombuffer(data, "<u4", samples * depth, 4)] + [len(data)]
    planes = np.empty((samples, count, depth), np.uint8)  # little endian
    for number, (start, stop) in enumerate(pairwise(offsets)):
        plane = np.frombuffer(packbits_decode(data[start:stop]), np.uint8)
        if plane.size < count:
            raise Refused(Reason.TRUNCATED, f"RLE: a segment of {plane.size} bytes, where {count} are announced")
        sample, place = divmod(number, depth)
        planes[sample, :, depth - 1 - place] = plane[:count]  # the most significant byte comes first
    words = planes.view(f"<u{depth}")[..., 0].reshape(samples, rows, columns)
    return words[0] if samples == 1 else np.moveaxis(words, 0, -1)


def refilled(data: bytes) -> bytes:
    """A JPEG with noise behind its last scan: it decodes alike if no pixel needs more bits than are there."""
    return data[: data.rfind(_END)].rstrip(b"\xff") + _FILLER  # bytes of ones may fill up the space before a marker


def _is_whole(decode: Callable[[bytes], np.ndarray], data: bytes, pixels: np.ndarray) -> bool:
    try:
        return np.array_equal(decode(refilled(data)), pixels)
    except Exception:  # more was read, and it made no sense
        return False
