"""Siemens mosaics: cut into the slices they were made of, each in its place, or refused."""

import math
import struct

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid

from mri_ray.decode.dicom.csa import csa
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Slice

SIDE = 17


def slices_of(count: int, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """uint16 (count, rows, columns), no two alike, none constant."""
    return np.random.default_rng(count).integers(0, 4096, (count, rows, columns)).astype(np.uint16)


def tiled(slices: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(slices) - 1) + 1
    rows, columns = slices.shape[1:]
    frame = np.zeros((side * rows, side * columns), slices.dtype)
    for number, tile in enumerate(slices):
        top, left = number // side * rows, number % side * columns
        frame[top : top + rows, left : left + columns] = tile
    return frame


def header(tags: dict[str, list[str]], *, newer: bool = True) -> bytes:
    """A private header of Siemens."""
    first = len(next(iter(tags.values()))) if tags else 0
    out = struct.pack("<4sIII", b"SV10", 0, len(tags), 77) if newer else struct.pack("<II", len(tags), 77)
    for name, texts in tags.items():
        out += struct.pack("<64si4siii", name.encode(), 1, b"DS\0\0", 3, len(texts), 77)
        for text in texts:
            data = text.encode() + b"\0"
            length = len(data) if newer else len(data) + first
            out += struct.pack("<4i", *((0, len(data), 77, 0) if newer else (length, 0, 0, 0)))
            out += data + b"\0" * (-len(data) % 4)
    return out


def mosaic(
    dicom,
    slices: np.ndarray,
    *,
    normal: list[str] | None = None,
    counted: str = "both",
    told: int | None = None,
    newer: bool = True,
    **keywords: object,
) -> pydicom.Dataset:
    """counted: where the number of slices stands (tag, header, both, nowhere); told: what it says."""
    told = len(slices) if told is None else told
    plain = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        "ImagePositionPatient": [-100, -80, 12],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 3],
        "SpacingBetweenSlices": 4.5,
        "BitsStored": 12,
    }
    dataset = dicom.image(tiled(slices), **(plain | keywords))
    if counted in ("tag", "both"):
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", told)
    tags = {"SliceNormalVector": normal} if normal else {}
    if counted in ("header", "both"):
        tags["NumberOfImagesInMosaic"] = [str(told), ""]
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", header(tags, newer=newer))
    return dataset


UP = ["0.0", "0.0", "1.0"]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 30),
    rows=st.integers(16, 20),
    columns=st.integers(16, 20),
    counted=st.sampled_from(["tag", "header", "both"]),
    syntax=st.sampled_from([uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]),
    newer=st.booleans(),
)
def test_every_slice_comes_back_in_its_place(dicom, count, rows, columns, counted, syntax, newer):
    slices = slices_of(count, rows, columns)
    data = dicom.written(mosaic(dicom, slices, normal=UP, counted=counted, newer=newer), syntax)
    found = dicom.decoded(data)
    assert all(isinstance(item, Slice) for item in found)
    assert np.array_equal(np.stack([item.pixels for item in found]), slices)
    assert [item.frame for item in found] == list(range(count))
    assert all(item.flags == {Flag.MOSAIC} and item.bits == 12 for item in found)
    side = math.isqrt(count - 1) + 1
    corner = (-100 + 3 * (side - 1) * columns / 2, -80 + 2 * (side - 1) * rows / 2)
    assert [item.header.position_mm for item in found] == [(*corner, 12 + 4.5 * number) for number in range(count)]
    assert {item.header.normal for item in found} == {(0, 0, 1)}


def test_slices_may_follow_each_other_against_the_normal(dicom):
    found = dicom.decoded(dicom.written(mosaic(dicom, slices_of(3), normal=["0", "0", "-1"])))
    assert [item.header.position_mm[2] for item in found] == [12, 7.5, 3]


def test_rescale_and_black_for_white_hold_for_every_slice(dicom):
    slices = slices_of(5)
    dataset = mosaic(
        dicom, slices, normal=UP, RescaleSlope=2, RescaleIntercept=1, PhotometricInterpretation="MONOCHROME1"
    )
    found = dicom.decoded(dicom.written(dataset))
    expected = (1 + 4095 * 2 + 1) - (slices * np.float32(2) + 1)
    assert np.array_equal(np.stack([item.pixels for item in found]), expected)


def test_a_slice_without_anything_on_it_is_blank_alone(dicom):
    slices = slices_of(5)
    slices[2] = 0
    found = dicom.decoded(dicom.written(mosaic(dicom, slices, normal=UP)))
    assert [Flag.BLANK in item.flags for item in found] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"counted": "nowhere"},
        {"told": 0},
        {"told": 26},  # six in a row: 85 pixels cannot be divided
        {"told": 60_000},
    ],
)
def test_a_mosaic_that_cannot_be_cut_up_is_refused(dicom, options):
    failure = dicom.failure(dicom.written(mosaic(dicom, slices_of(25), normal=UP, **options)))
    assert failure.reason is Reason.MOSAIC


def test_two_numbers_of_slices_are_refused(dicom):
    dataset = mosaic(dicom, slices_of(25), normal=UP)
    dataset.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value = 24
    assert dicom.failure(dicom.written(dataset)).reason is Reason.MOSAIC


@pytest.mark.parametrize(
    "lacking",
    [
        {"normal": None},
        {"normal": ["0", "1", "0"]},  # not along row x column
        {"normal": ["0", "0"]},
        {"normal": ["up", "0", "0"]},
        {"normal": UP, "SpacingBetweenSlices": None},
        {"normal": UP, "ImagePositionPatient": None},
        {"normal": UP, "ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"normal": UP, "PixelSpacing": None},
    ],
)
def test_slices_without_all_that_tells_their_place_have_none(dicom, lacking):
    slices = slices_of(4)
    found = dicom.decoded(dicom.written(mosaic(dicom, slices, **lacking)))
    assert np.array_equal(np.stack([item.pixels for item in found]), slices)
    assert {item.header.position_mm for item in found} == {None}


def test_slices_that_others_have_cut_out_already_stay_as_they_are(dicom):
    """Their private header still tells of the mosaic."""
    picture = slices_of(1)[0]
    dataset = mosaic(dicom, slices_of(4), normal=UP, ImageType=["DERIVED", "PRIMARY", "M", "ND"])
    dataset.Rows, dataset.Columns, dataset.PixelData = *picture.shape, picture.tobytes()
    found = dicom.slice(dicom.written(dataset))
    assert np.array_equal(found.pixels, picture)
    assert found.flags == frozenset()


def test_a_mosaic_that_does_not_call_itself_one(dicom):
    slices = slices_of(4)
    dataset = mosaic(dicom, slices, normal=UP, ImageType=["ORIGINAL", "PRIMARY"], AcquisitionMatrix=[SIDE, 0, 0, SIDE])
    found = dicom.decoded(dicom.written(dataset))
    assert np.array_equal(np.stack([item.pixels for item in found]), slices)


def test_limits_hold_for_slices(dicom):
    data = dicom.written(mosaic(dicom, slices_of(9), normal=UP))
    assert dicom.failure(data, DecodeConfig(max_frames=8)).reason is Reason.TOO_MANY_FRAMES
    assert dicom.failure(data, DecodeConfig(min_side=SIDE + 1)).reason is Reason.TOO_SMALL


@pytest.mark.filterwarnings("ignore")  # nibabel's own, of how experimental it is
def test_positions_agree_with_nibabel(dicom, real):
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    path = real / "encodings/In/1.dcm"
    found = dicom.decoded(path.read_bytes())
    other = wrapper_from_file(path)
    assert len(found) == other.n_mosaic
    # Their affine has the voxels' axes transposed: columns first, then rows, then slices.
    affine = other.affine
    for item in found:
        assert item.header.position_mm == pytest.approx(affine[:3, 3] + item.frame * affine[:3, 2], abs=1e-3)
    volume = other.get_data()
    assert all(np.array_equal(item.pixels, volume[..., item.frame]) for item in found)


@given(st.binary(max_size=400), st.booleans())
def test_any_private_header_is_read_or_left(noise, newer):
    names = frozenset({"SliceNormalVector"})
    csa((b"SV10\4\3\2\1" if newer else b"") + noise, names)
    whole = header({"Other": ["1", "2"], "SliceNormalVector": UP}, newer=newer)
    assert csa(whole, names) == {"SliceNormalVector": tuple(UP)}
    for size in range(0, len(whole), 3):
        assert csa(whole[:size], names).keys() <= names


def test_failures_of_a_mosaic_carry_its_header(dicom):
    (item,) = dicom.decoded(dicom.written(mosaic(dicom, slices_of(4), counted="nowhere", PatientID="id-1")))
    assert isinstance(item, Failure)
    assert item.header.patient == "id-1"
    assert "id-1" not in item.detail


def grid(dicom, slices: np.ndarray, **keywords: object) -> pydicom.Dataset:
    """A mosaic of UIH, as dcm2niix describes it: no more rows of tiles than it needs."""
    frame = tiled(slices)
    rows = slices.shape[1]
    side = frame.shape[0] // rows
    frame = frame[: -(-len(slices) // side) * rows]
    dataset = dicom.image(
        frame, **({"ImageType": ["ORIGINAL", "PRIMARY", "EPI", "VFRAME"], "BitsStored": 12} | keywords)
    )
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(len(slices)))
    places = []
    for number in range(len(slices)):
        place = pydicom.Dataset()
        place.ImagePositionPatient = [-10.0, 5.0, 4.5 * number]
        places.append(place)
    block.add_new(0x51, "SQ", places)
    return dataset


@pytest.mark.parametrize("count", [2, 5, 7, 9, 12])
def test_a_grid_of_uih_is_cut_up_too(dicom, count):
    slices = slices_of(count)
    found = dicom.decoded(dicom.written(grid(dicom, slices), uid.ExplicitVRLittleEndian))
    assert all(isinstance(item, Slice) for item in found)
    assert np.array_equal(np.stack([item.pixels for item in found]), slices)
    assert all(item.flags == {Flag.MOSAIC} for item in found)
    assert [item.header.position_mm for item in found] == [(-10, 5, 4.5 * number) for number in range(count)]


def test_a_grid_whose_tiles_do_not_fill_it_is_refused(dicom):
    dataset = grid(dicom, slices_of(5))
    dataset[0x0065, 0x1050].value = "11"
    (found,) = dicom.decoded(dicom.written(dataset, uid.ExplicitVRLittleEndian))
    assert (type(found), found.reason) == (Failure, Reason.MOSAIC)
