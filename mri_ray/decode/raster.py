"""JPEG, PNG, TIFF and BMP -> slices, by Pillow and, for the common kinds of JPEG, libjpeg-turbo in imagecodecs.

Each file is first read by its structure (`jpeg`, `png`, `tiff`): limits are checked before a pixel is decoded, a
missing end is found, and Pillow is given the picture without its metadata. So Pillow does not warn, none of its
settings for the whole process is changed, and what others set there (truncated files, bomb limits) has no effect here.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mri_ray.decode import jpeg, png, tiff
from mri_ray.decode.chroma import CELL, has_chroma, is_coloured
from mri_ray.decode.limits import Refused, check_size
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Slice

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PAGE_PIXELS_A_BYTE = 64  # thousands of pages may share one strip of zeros: a small file, hours of work
_CUT_SCAN = "JPEG: its scan ends before the last block"
_MID_GREY = 128  # what libjpeg fills missing blocks with
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by Exif orientation
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: pixels.T[:, ::-1],
    7: lambda pixels: pixels.T[::-1, ::-1],
    8: lambda pixels: pixels.T[::-1],
}


def recognise(head: bytes) -> str | None:
    """Which of the formats read here an object's first bytes (at least 32, if there are) announce."""
    if head.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if head.startswith(png.SIGNATURE):
        return "png"
    if head.startswith(tiff.SIGNATURES):
        return "tiff"
    # Text may begin with "BM" too: the size of the second header tells.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return None


def decode(kind: str, data: bytes, uri: str, config: DecodeConfig) -> Iterator[Slice | Failure]:
    """A slice a page, or why there is none; `kind` is what `recognise` says. Never raises for bad content."""
    if kind == "tiff":
        yield from _tiff(data, uri, config)
    else:
        decoder = {"jpeg": _jpeg, "png": _png, "bmp": _bmp}[kind]
        yield _attempt(partial(decoder, data, config), kind, uri)


def _attempt(step: Callable[[], Slice], kind: str, uri: str, frame: int | None = None) -> Slice | Failure:
    try:
        return step()
    except Refused as refused:
        reason, detail = refused.reason, refused.detail
    except Exception as exc:  # Pillow raises nearly anything for damaged content
        detail = f"{kind.upper()}: {exc}"[:200]
        reason = Reason.TRUNCATED if "truncated" in detail else Reason.DAMAGED
        if "unknown pixel mode" in detail:
            reason = Reason.UNSUPPORTED_MODE
    return Failure(reason=reason, where=uri, detail=detail, frame=frame)


def _jpeg(data: bytes, config: DecodeConfig) -> Slice:
    found = jpeg.parse(data)
    check_size(found.width, found.height, config)
    if found.components > 1 and not found.is_ycc:
        return _colour_jpeg(found)
    samples = _samples(found, found.data)
    grey = _first(samples)
    # Where missing blocks would show, it is decoded once more.
    if (found.progressive or _ends_in(grey, _MID_GREY)) and not _is_whole(found, grey):
        raise Refused(Reason.TRUNCATED, _CUT_SCAN)
    if not found.is_ycc:
        return _slice(grey, 8, found.orientation, mode="L")
    return _slice(grey, 8, found.orientation, mode="RGB", coloured=is_coloured(samples))


def _samples(found: jpeg.Jpeg, data: bytes) -> np.ndarray:
    """Grey (H, W) or YCbCr (H, W, 3), as stored. Pillow would decode twice, for the grey and for the colour."""
    return imagecodecs.jpeg8_decode(data, outcolorspace="YCBCR" if found.is_ycc else None)


def _first(samples: np.ndarray) -> np.ndarray:
    return samples if samples.ndim == 2 else cv2.extractChannel(samples, 0)


def _is_whole(found: jpeg.Jpeg, grey: np.ndarray) -> bool:
    """Whether other bits behind the scan leave the picture as it is."""
    try:
        return np.array_equal(_first(_samples(found, jpeg.refilled(found))), grey)
    except imagecodecs.Jpeg8Error:
        return False


def _ends_in(grey: np.ndarray, value: int) -> bool:
    """Whether the block of 8 x 8 at the lower right is of this value alone."""
    height, width = grey.shape
    return bool((grey[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :] == value).all())


def _colour_jpeg(found: jpeg.Jpeg) -> Slice:
    """RGB, CMYK and what else is rare: missing blocks cannot be told from others."""
    image = JpegImageFile(io.BytesIO(found.data))
    image.load()
    again = JpegImageFile(io.BytesIO(jpeg.refilled(found)))
    try:
        again.load()
    except OSError as exc:
        raise Refused(Reason.TRUNCATED, _CUT_SCAN) from exc
    if again.tobytes() != image.tobytes():
        raise Refused(Reason.TRUNCATED, _CUT_SCAN)
    return _finish(image, bits=8, orientation=found.orientation)


def _png(data: bytes, config: DecodeConfig) -> Slice:
    found = png.parse(data)
    check_size(found.width, found.height, config)
    image = PngImageFile(io.BytesIO(found.data))
    image.load()
    if found.colour == 0 and found.depth < 8 and "transparency" in image.info:
        image.info["transparency"] *= 255 // ((1 << found.depth) - 1)  # Pillow stretches the pixels, not the key
    last_row = image.crop((0, found.height - 1, found.width, found.height))
    if (found.interlaced or not any(last_row.tobytes())) and not png.is_complete(found):
        raise Refused(Reason.TRUNCATED, "PNG: its pixels end before the last row")
    return _finish(image, bits=max(8, found.depth), orientation=found.orientation)


def _bmp(data: bytes, config: DecodeConfig) -> Slice:
    image = BmpImageFile(io.BytesIO(data))
    check_size(*image.size, config)
    for codec, _, offset, args in image.tile:
        if codec == "raw" and isinstance(args, tuple) and offset + args[1] * image.height > len(data):
            raise Refused(Reason.TRUNCATED, "BMP: its pixels reach beyond the end")
    image.load()
    # Some writers announce an alpha channel, and then leave it empty.
    hidden = image.mode == "RGBA" and image.getchannel("A").getbbox() is None
    return _finish(image.convert("RGB") if hidden else image, bits=8, orientation=1)


def _tiff(data: bytes, uri: str, config: DecodeConfig) -> Iterator[Slice | Failure]:
    try:
        directories = list(tiff.directories(data, config.max_frames))
    except Refused as refused:
        yield Failure(reason=refused.reason, where=uri, detail=refused.detail)
        return
    stream = io.BytesIO(data)  # one for all pages: it is a copy as soon as it is written to
    budget = max(config.max_pixels, _PAGE_PIXELS_A_BYTE * len(data))
    for frame, directory in enumerate(directories):
        label = frame if len(directories) > 1 else None
        if budget <= 0:
            detail = "TIFF: its pages before this one fill the pixels allowed for a file of this length"
            yield Failure(reason=Reason.TOO_MANY_PIXELS, where=uri, detail=detail, frame=label)
            continue
        item = _attempt(partial(_page, data, stream, directory, frame, config), "tiff", uri, label)
        budget -= item.pixels.size if isinstance(item, Slice) else 0
        yield item


def _page(data: bytes, stream: io.BytesIO, directory: int | Refused, frame: int, config: DecodeConfig) -> Slice:
    if isinstance(directory, Refused):
        raise directory
    found = tiff.page(data, directory, config.max_pixels)
    check_size(found.width, found.height, config)
    tiff.isolate(stream, len(data), found)
    image = TiffImageFile(stream)
    # Pillow takes these pixels instead of new ones, which it would hold against its own bomb limit.
    image.im = Image.new(image.mode, (found.width, found.height)).im
    image.load()
    return _finish(
        image,
        bits=max(8, found.bits),
        orientation=found.orientation,
        frame=frame,
        white_is_zero=found.white_is_zero,
        unsigned=found.unsigned,
    )


def _finish(
    image: ImageFile.ImageFile | Image.Image,
    *,
    bits: int,
    orientation: int,
    frame: int = 0,
    white_is_zero: bool = False,
    unsigned: bool = True,
) -> Slice:
    """A loaded picture of any mode -> a slice."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if image.mode == "I" and unsigned:
            pixels = pixels.view(np.uint32)
        if white_is_zero:
            pixels = (1 << bits) - 1 - pixels.astype(np.float32)
        if image.mode == "F" and not np.isfinite(pixels).all():
            raise Refused(Reason.UNSUPPORTED_MODE, "some values are infinite or no numbers")
        key = image.info.get("transparency")
        if key is not None:
            pixels = np.where(pixels == key, 0, pixels)
        return _slice(pixels, bits, orientation, mode=image.mode, frame=frame)
    opaque = _opaque(image)
    if opaque.mode == "L":
        return _slice(np.asarray(opaque), bits, orientation, mode=image.mode, frame=frame)
    coloured = has_chroma(opaque.reduce(CELL).convert("YCbCr"))
    return _slice(np.asarray(opaque.convert("L")), bits, orientation, mode=image.mode, frame=frame, coloured=coloured)


def _opaque(image: Image.Image) -> Image.Image:
    """Modes of 8 bits and less -> L or RGB, over black where there is transparency."""
    if image.mode in ("1", "L", "RGB") and "transparency" not in image.info:
        return image.convert("L") if image.mode == "1" else image
    if "transparency" not in image.info and not image.mode.lower().endswith("a"):
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    layers = image.convert("RGBA")
    black = Image.new("RGB", image.size)
    black.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
    return black


def _slice(
    pixels: np.ndarray, bits: int, orientation: int, *, mode: str, frame: int = 0, coloured: bool = False
) -> Slice:
    kind = np.uint8 if pixels.dtype == np.uint8 and bits == 8 else np.float32
    upright = np.ascontiguousarray(_UPRIGHT[orientation](pixels), dtype=kind)
    flags = frozenset({Flag.COLOUR} if coloured else ())
    return Slice(pixels=upright, bits=bits, frame=frame, flags=flags, mode=mode)
