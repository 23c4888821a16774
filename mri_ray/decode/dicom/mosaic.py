"""Mosaics: the slices of a volume, tiled in one frame, by Siemens and by United Imaging (UIH).

n slices fill a square of ceil(sqrt(n)) tiles a side, row by row; the rest is black. The position in the header is that
of a slice as large as the whole mosaic around the first slice's centre; the slices follow each other along the normal
of the private header, which may point against row x column. Siemens does not publish it; the rule and its
check against phantoms: https://nipy.org/nibabel/dicom/dicom_mosaic.html
UIH's has no more rows of tiles than it needs, and tells each slice's position (dcm2niix, UIH/README.md; no real file
was at hand).
"""

import math
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.csa import csa
from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.dicom.pixels import Stored
from mri_ray.decode.dicom.plane import Vector, directions_of, dot, moved, normal_of, position_of, spacing_of
from mri_ray.decode.limits import Refused, check_size
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Header

_COUNT, _NORMAL = "NumberOfImagesInMosaic", "SliceNormalVector"
_UIH = "Image Private Header"
_PARALLEL = 0.99
_MAX_SLICES = 4096  # of one volume


@dataclass(frozen=True, kw_only=True, slots=True)
class Mosaic:
    """count slices of rows x columns pixels, `side` in a row. first: position of the first; step_mm: to the next."""

    count: int
    side: int
    rows: int
    columns: int
    first: Vector | None
    step_mm: Vector | None

    def tile(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """A slice of the frame (H, W)."""
        row, column = divmod(number, self.side)
        rows = slice(row * self.rows, (row + 1) * self.rows)
        return pixels[rows, column * self.columns : (column + 1) * self.columns]

    def header(self, header: Header, number: int) -> Header:
        """The header of a slice."""
        if self.first is None or self.step_mm is None:
            return replace(header, position_mm=None)
        return replace(header, position_mm=moved(self.first, (float(number), self.step_mm)))


def mosaic_of(dataset: DataSet, found: Stored, config: DecodeConfig) -> Mosaic | None:
    """How the frame is tiled; None if it is one picture.

    Raises Refused: MOSAIC where the tags do not tell, or a limit's reason.
    """
    grid = _grid(dataset)
    named = grid is not None or "MOSAIC" in values.codes(dataset, "ImageType")
    private = csa(_private(dataset, 0x0029, "SIEMENS CSA HEADER", 0x10)[1], frozenset({_COUNT, _NORMAL}))
    count = grid or _count(dataset, private, named=named)
    if count is None:
        return None
    side = math.isqrt(count - 1) + 1
    rows, row_rest = divmod(found.rows, side if grid is None else -(-count // side))
    columns, column_rest = divmod(found.columns, side)
    fits = not row_rest and not column_rest and found.frames == 1
    if not named and not (fits and columns in _matrix(dataset)):
        return None  # cut up by others already: the private header still tells of the mosaic it was
    if not fits:
        detail = f"DICOM: {count} slices do not fill {found.columns} x {found.rows} pixels, {found.frames} frames"
        raise Refused(Reason.MOSAIC, detail)
    check_size(columns, rows, config)
    if count > config.max_frames:
        raise Refused(Reason.TOO_MANY_FRAMES, f"DICOM: {count} slices, at most {config.max_frames} are allowed")
    first, step = _place(dataset, private, found, rows, columns) if grid is None else _grid_place(dataset)
    return Mosaic(count=count, side=side, rows=rows, columns=columns, first=first, step_mm=step)


def _grid(dataset: DataSet) -> int | None:
    """How many slices a mosaic of UIH holds; None for what is none."""
    tag, _ = _private(dataset, 0x0065, _UIH, 0x50)
    count = values.whole(dataset, tag, kind="DS") if tag and "VFRAME" in values.codes(dataset, "ImageType") else None
    return count if count is not None and 1 < count <= _MAX_SLICES else None


def _grid_place(dataset: DataSet) -> tuple[Vector | None, Vector | None]:
    """As `_place`, of a mosaic of UIH."""
    tag, _ = _private(dataset, 0x0065, _UIH, 0x51)
    items = islice(dataset.items(tag), 2) if tag else ()
    first, second = (*(position_of(item) for item in items), None, None)[:2]
    if first is None or second is None:
        return None, None
    return first, moved(second, (-1.0, first))


def _count(dataset: DataSet, private: dict[str, tuple[str, ...]], *, named: bool) -> int | None:
    """How many slices there are; None for a picture that is no mosaic."""
    tag, _ = _private(dataset, 0x0019, "SIEMENS MR HEADER", 0x0A)
    text = private.get(_COUNT, ())
    by_tag = values.whole(dataset, tag, kind="US") if tag else None
    by_header = int(text[0]) if text and text[0].isdecimal() and len(text[0]) < 6 else None
    told = {count for count in (by_tag, by_header) if count}
    if len(told) == 1 and 0 < (count := told.pop()) <= _MAX_SLICES:
        return count if named or count > 1 else None
    if named:
        raise Refused(Reason.MOSAIC, "DICOM: a mosaic, and its private tags do not tell of how many slices")
    return None


def _place(
    dataset: DataSet, private: dict[str, tuple[str, ...]], found: Stored, rows: int, columns: int
) -> tuple[Vector | None, Vector | None]:
    """Position of the first slice, and the step to the next; None for what the tags do not tell."""
    corner, axes, spacing = position_of(dataset), directions_of(dataset), spacing_of(dataset)
    computed, apart = normal_of(dataset), values.number(dataset, "SpacingBetweenSlices")
    if corner is None or axes is None or spacing is None or computed is None:
        return None, None
    across, down = (found.columns - columns) / 2 * spacing[1], (found.rows - rows) / 2 * spacing[0]
    first = moved(corner, (across, axes[0]), (down, axes[1]))
    try:
        x, y, z = (float(text) for text in private.get(_NORMAL, ()))
    except ValueError:
        return first, None
    along = dot((x, y, z), computed)
    if not apart or not _PARALLEL < abs(along) < 1 / _PARALLEL:
        return first, None
    return first, moved((0.0, 0.0, 0.0), (math.copysign(abs(apart), along), computed))


def _matrix(dataset: DataSet) -> set[int]:
    """Sides that one slice can have, by the matrix that was acquired, as it is or interpolated."""
    acquired = values.numbers(dataset, "AcquisitionMatrix") or ()
    return {times * int(side) for side in acquired if 0 < side < 0xFFFF for times in (1, 2)}


def _private(dataset: DataSet, group: int, creator: str, number: int) -> tuple[int, bytes]:
    """Tag and value of an element in the block that a private creator has reserved; 0 and nothing without one."""
    for owner in dataset.elements:
        block = owner - (group << 16)
        if 0x10 <= block <= 0xFF and (dataset.raw(owner) or b"").decode("latin-1").strip(" \0") == creator:
            tag = group << 16 | block << 8 | number
            return (tag, dataset.raw(tag) or b"") if tag in dataset else (0, b"")
    return 0, b""
