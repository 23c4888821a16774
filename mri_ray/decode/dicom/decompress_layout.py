"""How a data set says that its pixels are stored, and what follows from it for the words of a frame.

Values are taken as they stand in the file: pydicom converts them with warnings, through filters that belong to the
whole process. Sources: DICOM PS3.3 C.7.6.3 (Image Pixel), PS3.5 chapter 8.
"""

import re
import struct
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from mri_ray.decode.limits import Refused, check_size
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """samples: 1 or 3. allocated, stored: bits a sample. floats: numbers that need no unpacking.

    photometric: of three samples, else empty. planar: stored one colour after the other.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    floats: bool
    photometric: str
    planar: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.allocated // 8


def layout(dataset: pydicom.Dataset, keyword: str, config: DecodeConfig) -> Layout:
    """Of the pixels in the element `keyword`; raises Refused if there is none that is read, or beyond the limits."""
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    check_size(columns, rows, config)
    frames = _whole(dataset, "NumberOfFrames", 1) or 1
    if frames > config.max_frames:
        raise Refused(Reason.TOO_MANY_FRAMES, f"{frames} frames, at most {config.max_frames} are allowed")
    floats = keyword != "PixelData"
    samples = _whole(dataset, "SamplesPerPixel", 1)
    allocated = _whole(dataset, "BitsAllocated", {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword))
    stored = allocated if floats else _whole(dataset, "BitsStored", allocated)
    if samples not in (1, 3) or allocated not in ((32, 64) if floats else (8, 16, 32)) or (floats and samples == 3):
        raise Refused(Reason.UNSUPPORTED_MODE, f"{samples} samples of {allocated} bits a pixel")
    if not 1 <= stored <= allocated or frames < 0:
        raise Refused(Reason.DAMAGED_HEADER, f"{stored} bits stored in {allocated}, {frames} frames")
    photometric = _text(dataset, "PhotometricInterpretation") if samples == 3 else ""
    if samples == 3 and photometric not in _COLOURS:
        raise Refused(Reason.UNSUPPORTED_MODE, "three samples a pixel in a colour space that is not read")
    return Layout(
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        allocated=allocated,
        stored=stored,
        high_bit=_whole(dataset, "HighBit", stored - 1),
        signed=samples == 1 and _whole(dataset, "PixelRepresentation", 0) == 1,
        floats=floats,
        photometric=photometric,
        planar=samples == 3 and _whole(dataset, "PlanarConfiguration", 0) == 1,
    )


def pixel_keyword(dataset: pydicom.Dataset) -> str:
    """Which element holds the pixels; raises Refused if none does."""
    for keyword in _PIXELS:
        if keyword in dataset:
            return keyword
    raise Refused(Reason.NO_PIXELS, "a data set without pixels")


def value(dataset: pydicom.Dataset, keyword: str) -> object:
    """A value as it stands in the file (bytes) or as it was set."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return dataset.get_item(tag).value if tag in dataset else None


def unpacked(words: np.ndarray, layout: Layout) -> np.ndarray:
    """Words of `allocated` unsigned bits -> the values stored in them: other bits (overlays) off, sign extended."""
    # A high bit that cannot be is a common fault, and does no harm to others.
    possible = layout.stored - 1 <= layout.high_bit < layout.allocated
    above = layout.allocated - 1 - (layout.high_bit if possible else layout.stored - 1)
    values = words.view(f"i{words.itemsize}") if layout.signed else words
    if layout.stored == layout.allocated:
        return values
    return (values << above) >> (layout.allocated - layout.stored)


def fitted(values: np.ndarray, precision: int, layout: Layout) -> np.ndarray:
    """What a codec gave, numbers of `precision` bits, -> the values stored in them.

    A codestream knows nothing of signs (JPEG, JPEG-LS) or may be wrong about them (JPEG 2000): the data set decides.
    Where both differ in bits only numbers are taken that mean the same either way; raises Refused for others.
    """
    if values.size and (values.max() >= 1 << precision or values.min() < -(1 << precision - 1)):
        raise Refused(Reason.DAMAGED, f"values beyond the {precision} bits that they have by the pixels' own header")
    kind = np.dtype(f"{'i' if layout.signed else 'u'}{layout.allocated // 8}")
    signed = values.dtype.kind == "i"
    if precision == layout.stored:
        cast = values.astype(kind, copy=False)
        spare = layout.allocated - precision
        return (cast << spare) >> spare if spare and signed != layout.signed else cast
    if layout.signed and not signed:
        values = _with_sign(values, precision, layout.stored)
    low, high = (-(1 << layout.stored - 1), 1 << layout.stored - 1) if layout.signed else (0, 1 << layout.stored)
    if values.min() < low or values.max() >= high:
        raise Refused(Reason.DAMAGED, f"{precision} bits do not fit the {layout.stored} that the header stores")
    return values.astype(kind, copy=False)


def rgb(samples: np.ndarray, bits: int) -> np.ndarray:
    """YBR_FULL (rows, columns, 3) -> RGB of the same type. Source: DICOM PS3.3 C.7.6.3.1.2."""
    half, top = 1 << bits - 1, (1 << bits) - 1
    y, cb, cr = (samples[..., place].astype(np.float32) for place in range(3))
    cb, cr = cb - half, cr - half
    mixed = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(mixed), 0, top).astype(samples.dtype)


def _with_sign(values: np.ndarray, precision: int, stored: int) -> np.ndarray:
    """Patterns of `precision` bits as signed numbers: of `stored` bits with nothing above them, else of `precision`."""
    wide = values.astype(np.int64)
    top = wide.max()
    if precision < stored and top >= 1 << precision - 1:
        raise Refused(Reason.DAMAGED, f"{precision} bits, of signed numbers of {stored}: which are negative is open")
    bits = stored if top < 1 << stored else precision
    wide[wide >= 1 << bits - 1] -= 1 << bits
    return wide


def _whole(dataset: pydicom.Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number; raises Refused if it is none, or if it is missing and has no default."""
    tag = tag_for_keyword(keyword)
    found = dataset.get_item(tag) if tag is not None and tag in dataset else None
    content = found.value if found is not None else None
    if isinstance(found, RawDataElement) and isinstance(content, bytes) and keyword != "NumberOfFrames":
        order = "<" if found.is_little_endian else ">"
        content = struct.unpack(f"{order}H", content)[0] if len(content) == 2 else content
    if isinstance(content, bytes):
        content = content.decode("latin-1").strip(" \0")
    if content in (None, "") and default is not None:
        return default
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", str(content)):
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {keyword} is missing or no whole number")
    return int(str(content))


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    content = value(dataset, keyword)
    return (content.decode("latin-1") if isinstance(content, bytes) else str(content or "")).strip(" \0").upper()
