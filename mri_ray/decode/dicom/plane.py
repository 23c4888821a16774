"""Where a picture lies in the patient: position, directions, spacing, each checked before it is believed.

Coordinates are DICOM's: millimetres to the patient's left, back and head. Source: DICOM PS3.3, C.7.6.2.1.1.
"""

import math

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.elements import DataSet

Vector = tuple[float, float, float]

_OFF = 1e-3  # how far lengths of directions may be from 1, and their cosine from 0: files hold few digits
_FARTHEST_MM = 1e5
_WIDEST_MM = 1e3


def position_of(dataset: DataSet) -> Vector | None:
    """The centre of the first pixel."""
    found = values.numbers(dataset, "ImagePositionPatient")
    if found is None or len(found) != 3 or not all(abs(part) < _FARTHEST_MM for part in found):
        return None
    return found[0], found[1], found[2]


def directions_of(dataset: DataSet) -> tuple[Vector, Vector] | None:
    """Along a row and along a column; None unless both are of length 1 and at right angles."""
    found = values.numbers(dataset, "ImageOrientationPatient")
    if found is None or len(found) != 6 or not all(abs(part) < 2 for part in found):
        return None
    row, column = (found[0], found[1], found[2]), (found[3], found[4], found[5])
    if any(abs(math.hypot(*vector) - 1) > _OFF for vector in (row, column)) or abs(dot(row, column)) > _OFF:
        return None
    return row, column


def normal_of(dataset: DataSet) -> Vector | None:
    """Unit vector: row direction x column direction."""
    found = directions_of(dataset)
    return unit(cross(*found)) if found is not None else None


def spacing_of(dataset: DataSet) -> tuple[float, float] | None:
    """Between the centres of rows, and of columns."""
    found = values.numbers(dataset, "PixelSpacing")
    if found is None or len(found) != 2 or not all(0 < part < _WIDEST_MM for part in found):
        return None
    return found[0], found[1]


def cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Vector) -> Vector | None:
    length = math.hypot(*a)
    return (a[0] / length, a[1] / length, a[2] / length) if length > 0.5 else None


def moved(start: Vector, *steps: tuple[float, Vector]) -> Vector:
    """A position so many millimetres along each of the directions."""
    x, y, z = start
    for distance, (dx, dy, dz) in steps:
        x, y, z = x + distance * dx, y + distance * dy, z + distance * dz
    return x, y, z
