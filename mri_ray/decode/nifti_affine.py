"""How the axes of a NIfTI volume lie in the patient: which of them slices, rows and columns follow, and where they are.

Source: the comments of nifti1.h. World coordinates there run to the right, front and head (RAS); DICOM's, which leave
this module, to the left, back and head (LPS).
"""

import math
from dataclasses import dataclass

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import io_orientation
from nibabel.quaternions import quat2mat

from mri_ray.records import Header

_MM = {1: 1000.0, 3: 0.001}  # a metre, a micron; whatever else `xyzt_units` says is taken as millimetres, as by all
_LONGEST_MM = 1e6
_SHORTEST_MM = 1e-9
_LEAST_VOLUME = 0.01  # of a voxel's axes as unit vectors; 1 where they stand upright on each other
_LONGEST_QUATERNION = 1.01  # its three stored parts, squared; above 1 by rounding only
# Where slices, rows and columns go, as a radiologist sees them: axis (right, front, head) and direction.
_DISPLAY = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, 1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}

_Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """matrix: (4, 4) from stored indices to mm, RAS. known: of which axes the file tells the voxel's length, those of
    one voxel aside. placed: whether it tells where the volume lies, and not only how large a voxel is."""

    matrix: np.ndarray
    known: tuple[bool, ...]
    placed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """LPS, mm; None where the file does not tell. origin: the first pixel of slice 0. step: from slice to slice."""

    spacing: tuple[float, float] | None = None
    normal: _Triple | None = None
    origin: _Triple | None = None
    step: _Triple = (0.0, 0.0, 0.0)

    def header(self, position: int) -> Header:
        """Of the slice at a position along their axis, counted in the whole volume."""
        place = None
        if self.origin is not None:
            place = _triple(np.array(self.origin) + position * np.array(self.step))
        return Header(position_mm=place, normal=self.normal, spacing_mm=self.spacing)


def affine(header: Nifti1Header, shape: tuple[int, int, int]) -> Affine | None:
    """The sform, else the qform; one that is announced and makes no sense gives way to the other.

    Where neither is announced, the axes are taken as by nibabel, SPM and FSL, to the left, front and head, since the
    standard attaches no orientation to them. None where what is announced makes no sense.
    """
    unit = _MM.get(int(header["xyzt_units"]) & 7, 1.0)
    candidates = []
    if int(header["sform_code"]) > 0:
        candidates.append(_sform(header, unit, shape))
    if int(header["qform_code"]) > 0:
        candidates.append(_qform(header, unit))
    if not candidates:
        scale, known = _lengths(header, unit)
        return Affine(matrix=np.diag([-scale[0], scale[1], scale[2], 1.0]), known=known, placed=False)
    return next((found for found in candidates if found is not None and _is_sound(found.matrix)), None)


def _lengths(header: Nifti1Header, unit: float) -> tuple[list[float], tuple[bool, ...]]:
    """Of a voxel, mm, as by `pixdim`, 1 where it makes no sense; and where it makes sense."""
    lengths = [float(length) * unit for length in header["pixdim"][1:4]]
    known = tuple(_SHORTEST_MM < length < _LONGEST_MM for length in lengths)
    return [length if fit else 1.0 for length, fit in zip(lengths, known, strict=True)], known


def _sform(header: Nifti1Header, unit: float, shape: tuple[int, int, int]) -> Affine | None:
    rows = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)
    if not (np.abs(rows) < _LONGEST_MM / unit).all():
        return None
    matrix = np.vstack([rows * unit, [0, 0, 0, 1]])
    known = tuple(bool(matrix[:3, axis].any()) for axis in range(3))
    for axis in range(3):
        if shape[axis] == 1 and not known[axis]:  # a single picture, and nobody thought of its thickness
            upright = np.cross(matrix[:3, axis - 2], matrix[:3, axis - 1])
            matrix[:3, axis] = upright / (np.linalg.norm(upright) or 1.0)
    return Affine(matrix=matrix, known=known, placed=True)


def _qform(header: Nifti1Header, unit: float) -> Affine | None:
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    offset = np.array([float(header[f"qoffset_{name}"]) for name in "xyz"])
    square = b * b + c * c + d * d
    if not (square < _LONGEST_QUATERNION and (np.abs(offset) < _LONGEST_MM / unit).all()):
        return None
    # Half a turn has a = 0; the root of what rounding leaves there would tilt it by hundredths of a degree.
    a = math.sqrt(1 - square) if 1 - square > abs(float(header.quaternion_threshold)) else 0.0
    scale, known = _lengths(header, unit)
    matrix = np.eye(4)
    matrix[:3, :3] = quat2mat((a, b, c, d)) * scale
    matrix[:3, 3] = offset * unit
    if float(header["pixdim"][0]) < 0:  # 0 counts as 1
        matrix[:3, 2] *= -1
    return Affine(matrix=matrix, known=known, placed=True)


def _is_sound(matrix: np.ndarray) -> bool:
    """Whether three axes of sensible lengths span a space."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (lengths.min() > _SHORTEST_MM and lengths.max() < _LONGEST_MM):
        return False
    return abs(float(np.linalg.det(matrix[:3, :3] / lengths))) > _LEAST_VOLUME


def display(found: Affine, plane: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The stored axes nearest to those that slices, rows and columns of a plane follow, and which run the other way."""
    nearest = [(int(world), int(sign)) for world, sign in io_orientation(found.matrix)]
    axes, flipped = [], []
    for world, direction in _DISPLAY[plane]:
        axis = next(stored for stored in range(3) if nearest[stored][0] == world)
        axes.append(axis)
        flipped.append(nearest[axis][1] != direction)
    return (axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2])


def placement(
    found: Affine,
    shape: tuple[int, int, int],
    axes: tuple[int, int, int],
    flipped: tuple[bool, bool, bool],
) -> Placement:
    """Where slices lie whose own axis, rows and columns follow the stored `axes`, some of them from the end."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.matrix
    slices, rows, columns = (matrix[:3, axis] * (-1 if flip else 1) for axis, flip in zip(axes, flipped, strict=True))
    spacing = None
    if found.known[axes[1]] and found.known[axes[2]]:
        spacing = (float(np.linalg.norm(rows)), float(np.linalg.norm(columns)))
    if not found.placed:
        return Placement(spacing=spacing)
    # A row runs in the direction in which the column's number rises, and the other way round.
    normal = np.cross(columns / np.linalg.norm(columns), rows / np.linalg.norm(rows))
    origin = None
    if all(known or size == 1 for known, size in zip(found.known, shape, strict=True)):
        first = np.zeros(3)
        for axis, flip in zip(axes, flipped, strict=True):
            first[axis] = shape[axis] - 1 if flip else 0
        origin = _triple(matrix[:3, :3] @ first + matrix[:3, 3])
    return Placement(
        spacing=spacing, normal=_triple(normal / np.linalg.norm(normal)), origin=origin, step=_triple(slices)
    )


def _triple(vector: np.ndarray) -> _Triple:
    x, y, z = (float(value) for value in vector)
    return x, y, z
