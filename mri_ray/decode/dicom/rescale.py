"""Stored values -> float32 pixels in the file's units, brighter is more signal.

Padding is taken out first, then the modality's table, or slope and intercept, then MONOCHROME1 is turned around;
padding and what is no number become the darkest value. The window (VOI LUT) is not applied: `prepare` makes its own.
Nor are the private slopes of Philips (2005,100E), which make the values of several series comparable: a window that
goes by percentiles takes them out again.

Source: DICOM PS3.3, C.7.5.1.1.2 (padding), C.11.1 (modality), C.7.6.3.1.2 (photometric interpretation).
"""

from dataclasses import dataclass

import numpy as np

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.colour import to_grey
from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.dicom.groups import Groups
from mri_ray.decode.dicom.pixels import MONOCHROME, Stored
from mri_ray.decode.dicom.tables import Table, modality_table, palette
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason
from mri_ray.records import Flag

_WHOLE_WORDS = 0x10000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescale:
    """What makes pixels of a frame's stored values. padding: least and greatest value that stands for no pixel."""

    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    padding: tuple[float, float] | None = None

    @property
    def changes(self) -> bool:
        """Whether the pixels are others than the stored values."""
        return self.table is not None or (self.slope, self.intercept) != (1.0, 0.0)

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """float64 of the same shape, in the file's units."""
        if self.table is not None:
            return self.table(stored).astype(np.float64)
        wide = stored * np.float64(self.slope)
        wide += self.intercept
        return wide


def rescale_of(dataset: DataSet, groups: Groups, frame: int, found: Stored) -> Rescale:
    """The frame's own transformation, else the object's. Raises Refused where it cannot be read."""
    if found.photometric not in MONOCHROME:
        return Rescale()
    padding = _padding(dataset, found)
    own = groups.find(frame, "PixelValueTransformationSequence")
    if own is None and not found.floats and (item := next(dataset.items("ModalityLUTSequence"), None)) is not None:
        return Rescale(table=modality_table(item, signed=found.signed), padding=padding)
    told = own or dataset
    slope, intercept = _factor(told, "RescaleSlope", 1.0), _factor(told, "RescaleIntercept", 0.0)
    if slope == 0:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: RescaleSlope is 0, which leaves nothing of the picture")
    return Rescale(slope=slope, intercept=intercept, padding=padding)


def to_pixels(
    stored: np.ndarray, dataset: DataSet, found: Stored, rescale: Rescale
) -> tuple[np.ndarray, int, frozenset[Flag]]:
    """A decoded frame -> float32 (H, W), the bits it has, flags. Raises Refused where nothing is left."""
    if found.photometric == "PALETTE COLOR":
        stored = palette(dataset, signed=found.signed)(stored)
    if stored.ndim == 3:
        if stored.dtype not in (np.uint8, np.uint16):
            raise Refused(Reason.UNSUPPORTED_MODE, f"DICOM: colour of {found.bits} bits a channel, or signed")
        bits = 8 if stored.dtype == np.uint8 else found.bits
        grey, coloured = to_grey(stored, found.bits)
        pixels, flags = grey.astype(np.float32), {Flag.COLOUR} if coloured else set()
    else:
        # Levels of a display, which `prepare` keeps, are only what 8 bits are themselves.
        bits = 16 if found.bits == 8 and rescale.changes else found.bits
        pixels, masked = _monochrome(stored, found, rescale)
        flags = {Flag.MASKED} if masked else set()
    if pixels.min() == pixels.max():
        flags.add(Flag.BLANK)
    return pixels, bits, frozenset(flags)


def _monochrome(stored: np.ndarray, found: Stored, rescale: Rescale) -> tuple[np.ndarray, bool]:
    """Pixels, and whether some had to be replaced."""
    hidden = None
    if rescale.padding is not None:
        hidden = (stored >= rescale.padding[0]) & (stored <= rescale.padding[1])
    with np.errstate(all="ignore"):
        if rescale.changes or found.floats or found.photometric == "MONOCHROME1":
            wide = rescale(stored)
            if found.photometric == "MONOCHROME1":
                wide = _turned(wide, found, rescale, hidden)
            pixels = wide.astype(np.float32)
        else:
            pixels = stored.astype(np.float32)
    lost = ~np.isfinite(pixels) if rescale.changes or found.floats else np.zeros(pixels.shape, bool)
    if hidden is not None:
        lost |= hidden
    if not lost.any():
        return pixels, False
    if not lost.all():
        pixels[lost] = pixels[~lost].min()
    elif hidden is not None and hidden.all():
        pixels[:] = 0
    else:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: its values, rescaled, are no finite numbers")
    return pixels, True


def _turned(wide: np.ndarray, found: Stored, rescale: Rescale, hidden: np.ndarray | None) -> np.ndarray:
    """Black for white, within the range that the values can have: 8 bits stay 0 to 255.

    Floats have no such range: it is that of the picture.
    """
    if found.floats:
        seen = wide[np.isfinite(wide) if hidden is None else np.isfinite(wide) & ~hidden]
        ends = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    elif rescale.table is not None:
        ends = (float(rescale.table.entries.min()), float(rescale.table.entries.max()))
    else:
        low, high = rescale(np.array(found.possible, np.float64))
        ends = (float(low), float(high))
    return (ends[0] + ends[1]) - wide


def _factor(told: DataSet, keyword: str, absent: float) -> float:
    if not (told.raw(keyword) or b"").strip(b" \0"):
        return absent
    found = values.number(told, keyword)
    if found is None or not np.isfinite(found):
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {keyword} is no number")
    return found


def _padding(dataset: DataSet, found: Stored) -> tuple[float, float] | None:
    """The range of values that stand for no pixel; None where there is none, or none that can be read."""
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    if found.floats:
        kind = "Float" if found.allocated == 32 else "DoubleFloat"
        names = (f"{kind}PixelPaddingValue", f"{kind}PixelPaddingRangeLimit")
    ends = []
    for name in names:
        value = values.number(dataset, name, signed=found.signed)
        if value is None or not np.isfinite(value):
            break
        if not found.floats:  # written as unsigned where it is signed, or the other way, by some
            wrapped = value % _WHOLE_WORDS
            value = wrapped - _WHOLE_WORDS if found.signed and wrapped >= _WHOLE_WORDS // 2 else wrapped
        ends.append(value)
    return (min(ends), max(ends)) if ends else None
