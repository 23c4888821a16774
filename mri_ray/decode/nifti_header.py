"""A NIfTI header -> what of its file is read, from where, within which limits.

Source: the comments of nifti1.h and nifti2.h.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
from nibabel.nifti1 import Nifti1Header, data_type_codes
from nibabel.nifti2 import Nifti2Header

from mri_ray.decode.limits import Refused, check_size
from mri_ray.decode.nifti_affine import Placement, affine, display, placement
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

NIFTI1_BYTES, NIFTI2_BYTES = 348, 540
NIFTI1_MARK, NIFTI2_MARK = b"n+1\0", b"n+2\0"
_NEWLINES = b"\r\n\x1a\n"  # behind the mark of NIfTI-2, to show what a transfer as text does to it
_MAX_EXTENSIONS = 64 * 2**20  # bytes between header and voxels, as far as they are believed
_VECTORS = range(1003, 1011)  # intents of matrices, vectors, points: several numbers a voxel along dim[5]
_COMPUTED = (*range(2, 25), 1001, 1002)  # intents of statistics, estimates, labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Stored axes are 0, 1, 2, the first of them fastest; three values in a row are those of slices, rows, columns.

    offset: of the first voxel, bytes. scale: slope and intercept, None where there is none. axes: stored ones. flipped:
    whether they are walked from their end. first, last: slices read, counted in their order of display, last excluded.
    volumes: how many are read. total_bytes: of the whole file. computed: from other images.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    scale: tuple[float, float] | None
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    first: int
    last: int
    volumes: int
    total_bytes: int
    computed: bool
    placement: Placement

    @property
    def slices(self) -> int:
        """Of one whole volume."""
        return self.shape[self.axes[0]]

    @property
    def in_order(self) -> bool:
        """Whether the slices stand in the file one after another in the order of display."""
        return self.axes[0] == 2 and not self.flipped[0]

    @property
    def plane_bytes(self) -> int:
        """Of the two faster axes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def held_bytes(self) -> int:
        """Of the slices of one volume that are read."""
        return math.prod(self.shape) // self.slices * (self.last - self.first) * self.dtype.itemsize


def parse(raw: bytes, config: DecodeConfig) -> Layout:
    """The header's own bytes -> what to read; raises Refused."""
    header = _structure(raw)
    shape, volumes = _shape(header)
    dtype = _dtype(header)
    axes, flipped, placed = _orient(header, shape, config.nifti.axis)
    check_size(shape[axes[2]], shape[axes[1]], config)
    first, last = _selected(shape[axes[0]], config.nifti.first, config.nifti.last)
    offset = _offset(header, len(raw))
    layout = Layout(
        shape=shape,
        dtype=dtype,
        offset=offset,
        scale=None if dtype.names else _scale(header),
        axes=axes,
        flipped=flipped,
        first=first,
        last=last,
        volumes=volumes if config.nifti.volumes == "all" else 1,
        total_bytes=offset + math.prod(shape) * volumes * dtype.itemsize,
        computed=int(header["intent_code"]) in _COMPUTED,
        placement=placed,
    )
    _check(layout, config)
    return layout


def _check(layout: Layout, config: DecodeConfig) -> None:
    count = (layout.last - layout.first) * layout.volumes
    if count > config.max_frames:
        raise Refused(Reason.TOO_MANY_FRAMES, f"{count} slices, at most {config.max_frames} are allowed")
    held = layout.plane_bytes + (0 if layout.in_order else layout.held_bytes)
    if held > config.max_bytes:
        detail = f"{held} bytes to hold in memory at once, at most {config.max_bytes} are allowed"
        raise Refused(Reason.TOO_MANY_BYTES, detail)


def _structure(raw: bytes) -> Nifti1Header:
    for code in "<>":
        (size,) = struct.unpack_from(f"{code}i", raw)
        if size == NIFTI1_BYTES == len(raw) and raw[344:348] == NIFTI1_MARK:
            return Nifti1Header(raw, endianness=code, check=False)
        if size == NIFTI2_BYTES == len(raw) and raw[4:8] == NIFTI2_MARK:
            if raw[8:12] not in (_NEWLINES, bytes(4)):  # some programs leave it empty
                raise Refused(Reason.DAMAGED_HEADER, "NIfTI: it was transferred as text")
            return Nifti2Header(raw, endianness=code, check=False)
    raise Refused(Reason.DAMAGED_HEADER, "NIfTI: its mark and its header's size do not agree")


def _shape(header: Nifti1Header) -> tuple[tuple[int, int, int], int]:
    """The three stored axes, and how many volumes follow each other."""
    count, *dim = (int(value) for value in header["dim"])
    if not 1 <= count <= 7:
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: {count} dimensions")
    dim = [value if axis < count else 1 for axis, value in enumerate(dim)]
    dim[3:] = [value or 1 for value in dim[3:]]  # 0 for no time is a habit of some programs
    if min(dim) < 1:
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: dimensions {dim[:count]}")
    if math.prod(dim[4:]) > 1 and int(header["intent_code"]) in _VECTORS:
        raise Refused(Reason.UNSUPPORTED_MODE, "NIfTI: vectors or matrices, and no grey values")
    return (dim[0], dim[1], dim[2]), math.prod(dim[3:])


def _dtype(header: Nifti1Header) -> np.dtype:
    """Of whole and real numbers up to 64 bits; of fields R, G, B and perhaps A for colour."""
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code in (0, 255) or code not in data_type_codes.label:
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: no data type {code} exists")
    dtype = header.get_data_dtype()
    if not dtype.names and (dtype.kind not in "iuf" or dtype.itemsize > 8):
        raise Refused(Reason.UNSUPPORTED_MODE, f"NIfTI: voxels of type {data_type_codes.label[code]}")
    # One of the two is wrong, and with the wrong type any bytes make a picture.
    if bits not in (0, 8 * dtype.itemsize):
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: {bits} bits for type {data_type_codes.label[code]}")
    return dtype


def _offset(header: Nifti1Header, least: int) -> int:
    offset = float(header["vox_offset"])
    if not (least <= offset <= least + _MAX_EXTENSIONS and offset.is_integer()):
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: voxels from byte {offset} on")
    return int(offset)


def _scale(header: Nifti1Header) -> tuple[float, float] | None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return None
    if not math.isfinite(intercept):
        raise Refused(Reason.DAMAGED_HEADER, f"NIfTI: a slope of {slope} with an intercept of {intercept}")
    return None if (slope, intercept) == (1, 0) else (slope, intercept)


def _orient(
    header: Nifti1Header, shape: tuple[int, int, int], plane: str
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], Placement]:
    """The axes of slices, rows and columns, which of them run from their end, and where that puts them."""
    found = affine(header, shape)
    axes, flipped = (2, 1, 0), (False, False, False)
    if found is None:
        if plane != "stored":
            raise Refused(Reason.DAMAGED_HEADER, "NIfTI: what should tell its orientation makes no sense")
        return axes, flipped, Placement()
    if plane != "stored":
        axes, flipped = display(found, plane)
    return axes, flipped, placement(found, shape, axes, flipped)


def _selected(count: int, first: float, last: float) -> tuple[int, int]:
    """The slices whose middle lies between the two fractions, or the one nearest to the first."""
    start = min(math.ceil(first * count - 0.5), count - 1)
    return start, max(start + 1, math.ceil(last * count - 0.5))
