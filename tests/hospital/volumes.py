"""NIfTI: the slices of a study as a volume, in any storage order that its affine explains."""

import gzip
import io
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from hospital.context import Series
from hospital.source import Picture
from hospital.truth import Frame
from mri_ray.records import Header

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes <-> NIfTI's


def volume(
    series: Series,
    pictures: Sequence[Picture],
    *,
    gzipped: bool,
    scaled: bool = False,
    flips: tuple[bool, bool, bool] = (False, False, False),
    order: tuple[int, int, int] = (0, 1, 2),
    repeats: int = 1,
) -> tuple[bytes, list[Frame]]:
    """A file, and its axial slices from foot to head: rows from front to back, columns from right to left.

    scaled: int16 with slope and intercept, else uint8. flips, order: which of the axes right, front, head are stored
    reversed, and in which order. repeats: volumes of a 4-D series; the later ones hold other values than the truth.
    """
    stack = np.stack([picture.pixels[::-1, ::-1].T for picture in pictures], axis=-1)  # right, front, head
    affine = _affine(series, pictures, stack.shape)
    if scaled:
        stack = stack.astype(np.int16) * 4 - 100
    stored, affine = _rearranged(stack, affine, flips, order)
    if repeats > 1:
        stored = np.stack([stored, *(np.roll(stored, 5 * turn, 0) for turn in range(1, repeats))], axis=-1)
    image = nib.Nifti1Image(stored, affine, dtype=stored.dtype)
    header = image.header
    header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    header["descrip"] = series.who.comment.encode("latin-1", "replace")[:79]
    header["aux_file"] = series.who.patient_id.encode()[:23]
    header["db_name"] = series.who.accession.encode()[:17]
    header["intent_name"] = series.who.private.encode()[:15]
    comment = f"{series.who.folder}; {series.who.comment}; {series.study_uid}".encode()
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment))
    data = _bytes(image, scaled)
    if gzipped:
        target = io.BytesIO()
        with gzip.GzipFile(f"{series.who.folder}.nii", "wb", 3, target, mtime=0) as file:
            file.write(data)
        data = target.getvalue()
    normal, spacing = series.normal, series.spacing_mm
    nx, ny, nz = (float(v) for v in normal)
    return data, [
        Frame(
            origin=picture.origin,
            header=Header(position_mm=series.position(picture.origin.number), normal=(nx, ny, nz), spacing_mm=spacing),
        )
        for picture in pictures
    ]


def _affine(series: Series, pictures: Sequence[Picture], shape: tuple[int, ...]) -> np.ndarray:
    """Of the array (right, front, head) -> world: NIfTI's, in mm to the right, the front, the head."""
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    first = np.array(series.position(pictures[0].origin.number))  # of the pixel that the last voxels of i and j hold
    affine = np.eye(4)
    affine[:3, 0] = -row * series.spacing_mm[1]
    affine[:3, 1] = -column * series.spacing_mm[0]
    affine[:3, 2] = series.normal * series.gap_mm
    affine[:3, 3] = first - affine[:3, 0] * (shape[0] - 1) - affine[:3, 1] * (shape[1] - 1)
    return LPS @ affine


def _rearranged(
    stack: np.ndarray, affine: np.ndarray, flips: tuple[bool, bool, bool], order: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same volume stored otherwise, with the affine that says so."""
    back = np.eye(4)  # from the new indices to the old ones
    for axis, flipped in enumerate(flips):
        if flipped:
            stack = np.flip(stack, axis)
            back[axis, axis], back[axis, 3] = -1, stack.shape[axis] - 1
    swap = np.zeros((4, 4))
    for new, old in enumerate(order):
        swap[old, new] = 1
    swap[3, 3] = 1
    return np.ascontiguousarray(stack.transpose(order)), affine @ back @ swap


def _bytes(image: nib.Nifti1Image, scaled: bool) -> bytes:
    """nibabel rescales what it is told to rescale, so the stored numbers and their scale are put in by hand."""
    data = bytearray(image.to_bytes())
    slope, intercept = (0.25, 25.0) if scaled else (1.0, 0.0)
    data[112:120] = np.array([slope, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    return bytes(data)
