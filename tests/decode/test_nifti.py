"""Every volume comes out as a radiologist sees it, however it is stored; what is damaged gives a reason."""

import gzip
import io
import itertools
import math
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.orientations import apply_orientation, inv_ornt_aff
from PIL import Image

from mri_ray.decode import nifti
from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig, NiftiConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Header, Slice

URI = "s3://bucket/a/volume.nii.gz"
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
PLANES = ("axial", "coronal", "sagittal")
ORIENTATIONS = [
    tuple(zip(axes, signs, strict=True))
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
# A head in world axes (right, front, head), with no symmetry.
WORLD = (np.arange(7 * 6 * 5).reshape(7, 6, 5) % 97 + 100).astype("i2")
SMALL = DecodeConfig(min_side=1)


def config(**options: object) -> DecodeConfig:
    """Without a shortest side; the names of NiftiConfig's fields go there."""
    own = {name: options.pop(name) for name in list(options) if name in NiftiConfig.__dataclass_fields__}
    return DecodeConfig(**{"min_side": 1, "nifti": NiftiConfig(**own)} | options)


def nifti_bytes(
    volume: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    version: int = 1,
    order: str = "<",
    by: str = "sform",
    extension: bytes = b"",
    **fields: object,
) -> bytes:
    """A .nii of a volume (i, j, k, ...) as it is; `fields` overwrite those of the header."""
    header = (Nifti1Header if version == 1 else Nifti2Header)(endianness=order)
    header.set_data_shape(volume.shape)
    header.set_data_dtype(volume.dtype.newbyteorder("="))
    if affine is not None:
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
        (header.set_sform if by == "sform" else header.set_qform)(affine, code=1)
    header["vox_offset"] = (352 if version == 1 else 544) + len(extension)
    for name, value in fields.items():
        header[name] = value
    stored = volume.astype(volume.dtype.newbyteorder(order)).tobytes(order="F")
    return header.binaryblock + (b"\1\0\0\0" if extension else bytes(4)) + extension + stored


def decode(data: bytes, settings: DecodeConfig = SMALL, *, gzipped: bool | None = None) -> list[Slice | Failure]:
    gzipped = data[:2] == b"\x1f\x8b" if gzipped is None else gzipped
    return list(nifti.decode(io.BufferedReader(io.BytesIO(data), 4096), URI, settings, gzipped=gzipped))


def slices(data: bytes, settings: DecodeConfig = SMALL) -> list[Slice]:
    found = decode(data, settings)
    assert all(isinstance(item, Slice) for item in found), found
    return found


def refused(data: bytes, settings: DecodeConfig = SMALL) -> Failure:
    (item,) = decode(data, settings)
    assert isinstance(item, Failure)
    assert item.where == URI
    assert item.detail
    return item


def loaded(data: bytes) -> Nifti1Image:
    kind = Nifti1Image if data[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") else Nifti2Image
    return nibabel.as_closest_canonical(kind.from_bytes(data))


def displayed(canonical: np.ndarray, plane: str) -> list[np.ndarray]:
    """Pictures of a volume (right, front, head): rows from front or head, columns from the right or the front."""
    if plane == "axial":
        return [canonical[::-1, ::-1, k].T for k in range(canonical.shape[2])]
    if plane == "coronal":
        return [canonical[::-1, j, ::-1].T for j in range(canonical.shape[1])]
    return [canonical[i, ::-1, ::-1].T for i in reversed(range(canonical.shape[0]))]


def placed(affine: np.ndarray, shape: tuple[int, ...], plane: str, position: int) -> Header:
    """What the header of a slice of a canonical volume must say."""
    nx, ny, nz = (size - 1 for size in shape[:3])
    first = {
        "axial": (nx, ny, position),
        "coronal": (nx, position, nz),
        "sagittal": (nx - position, ny, nz),
    }[plane]
    rows, columns = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    lps = np.diag([-1, -1, 1, 1]) @ affine
    normal = np.cross(-lps[:3, columns], -lps[:3, rows])
    return Header(
        position_mm=tuple((lps @ [*first, 1])[:3]),
        normal=tuple(normal / np.linalg.norm(normal)),
        spacing_mm=(float(np.linalg.norm(lps[:3, rows])), float(np.linalg.norm(lps[:3, columns]))),
    )


def stored_as(world: np.ndarray, orientation: tuple[tuple[int, int], ...], affine: np.ndarray | None = None):
    """The same volume with its axes in another order and direction, and the affine that tells so."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine
    turned = apply_orientation(world, orientation)
    return turned, affine @ inv_ornt_aff(orientation, world.shape[:3])


# Orientation


@pytest.mark.parametrize("by", ["sform", "qform"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_a_head_looks_the_same_however_it_is_stored(orientation, by):
    data = nifti_bytes(*stored_as(WORLD, orientation), by=by)
    for plane in PLANES:
        found = slices(data, config(axis=plane))
        assert [item.frame for item in found] == list(range(len(found)))
        for item, picture in zip(found, displayed(WORLD, plane), strict=True):
            np.testing.assert_array_equal(item.pixels, picture)


def test_right_is_left_front_is_up_and_slices_rise():
    world = np.zeros((7, 6, 5), "u1")
    world[6, 5, 4] = 255  # the right, front, head corner
    affine = np.array([[2.0, 0, 0, -1], [0, 3, 0, -2], [0, 0, 4, -3], [0, 0, 0, 1]])
    data = nifti_bytes(world, affine)
    axial, coronal, sagittal = (slices(data, config(axis=plane)) for plane in PLANES)
    assert [item.pixels.shape for item in (axial[0], coronal[0], sagittal[0])] == [(6, 7), (5, 7), (5, 6)]
    for found, frame in ((axial, 4), (coronal, 5), (sagittal, 0)):
        assert [item.frame for item in found if item.pixels.any()] == [frame]
        assert found[frame].pixels[0, 0] == 255
    # The first pixel is the corner at x = 2 * 6 - 1, y = 3 * 5 - 2; to DICOM these are -11 to the left, -13 back.
    assert axial[0].header == Header(position_mm=(-11, -13, -3), normal=(0, 0, 1), spacing_mm=(3, 2))
    assert coronal[0].header == Header(position_mm=(-11, 2, 13), normal=(0, 1, 0), spacing_mm=(4, 2))
    assert sagittal[0].header == Header(position_mm=(-11, -13, 13), normal=(-1, 0, 0), spacing_mm=(4, 3))
    assert axial[4].header.position_mm == (-11, -13, 13)
    assert coronal[5].header.position_mm == (-11, -13, 13)
    assert sagittal[6].header.position_mm == (1, -13, 13)


def test_stored_planes_are_taken_as_they_are():
    volume, affine = stored_as(WORLD, ORIENTATIONS[27])
    found = slices(nifti_bytes(volume, affine), config(axis="stored"))
    for k, item in enumerate(found):
        np.testing.assert_array_equal(item.pixels, volume[:, :, k].T)
        np.testing.assert_allclose(item.header.position_mm, (np.diag([-1, -1, 1, 1]) @ affine @ [0, 0, k, 1])[:3])


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    """By degrees about the three axes, (4, 4)."""
    matrix = np.eye(4)
    for axis, degrees in enumerate((x, y, z)):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(4)
        turn[a, a] = turn[b, b] = math.cos(math.radians(degrees))
        turn[a, b] = -math.sin(math.radians(degrees))
        turn[b, a] = -turn[a, b]
        matrix = matrix @ turn
    return matrix


@st.composite
def _affines(draw):
    """Any way to store a volume, and any oblique position of it."""
    tilt = _rotation(*(draw(st.floats(-25, 25)) for _ in range(3)))
    tilt[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    zooms = [draw(st.floats(0.25, 8)) for _ in range(3)]
    return draw(st.sampled_from(ORIENTATIONS)), tilt @ np.diag([*zooms, 1])


@example(
    turned=(((1, -1), (0, -1), (2, 1)), np.diag([1.0, 1, 1, 1])),  # half a turn, which rounding may tilt
    by="qform",
    shape=(9, 9, 9),
    volumes=None,
    dtype="u1",
    version=1,
    order="<",
    plane="axial",
    gzipped=False,
    every=False,
    seed=0,
)
@settings(max_examples=250, deadline=None)
@given(
    turned=_affines(),
    by=st.sampled_from(["sform", "qform"]),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    volumes=st.sampled_from([None, 1, 3]),
    dtype=st.sampled_from(DTYPES),
    version=st.sampled_from([1, 2]),
    order=st.sampled_from("<>"),
    plane=st.sampled_from(PLANES),
    gzipped=st.booleans(),
    every=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_pixels_and_places_are_those_of_nibabel(
    turned, by, shape, volumes, dtype, version, order, plane, gzipped, every, seed
):
    rng = np.random.default_rng(seed)
    size = shape if volumes is None else (*shape, volumes)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        world = rng.normal(0, 1000, size).astype(kind)
    else:
        low, high = (0, 2**20) if kind.itemsize > 2 else (np.iinfo(kind).min, np.iinfo(kind).max)
        world = rng.integers(low, high, size, dtype=kind, endpoint=True)
    orientation, affine = turned
    data = nifti_bytes(*stored_as(world, orientation, affine), version=version, order=order, by=by)
    canonical = loaded(data)
    voxels = np.asarray(canonical.dataobj).reshape(*canonical.shape[:3], -1)
    read_volumes = range(voxels.shape[3] if every else 1)
    expected = [picture for volume in read_volumes for picture in displayed(voxels[..., volume], plane)]
    found = slices(gzip.compress(data, 1) if gzipped else data, config(axis=plane, volumes="all" if every else "first"))
    count = len(expected) // len(read_volumes)
    for index, (item, picture) in enumerate(zip(found, expected, strict=True)):
        assert item.frame == index
        assert item.bits == 8 * kind.itemsize
        assert item.pixels.dtype == np.float32
        assert item.pixels.flags.c_contiguous
        assert not item.flags
        np.testing.assert_array_equal(item.pixels, picture.astype(np.float32))
        place = placed(canonical.affine, canonical.shape, plane, index % count)
        for name in ("position_mm", "normal", "spacing_mm"):
            np.testing.assert_allclose(getattr(item.header, name), getattr(place, name), rtol=1e-5, atol=1e-4)
        assert item.header.modality is None
        assert item.header.instance_number is None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_nibabel_saves_is_found_by_its_content(tmp_path, name, version):
    volume = np.random.default_rng(0).normal(100, 20, (20, 18, 17)).astype("f4")
    kind = Nifti1Image if version == 1 else Nifti2Image
    image = kind(volume, np.diag([-1.0, 1, 2, 1]))
    image.set_data_dtype(np.int16)  # nibabel chooses a slope and an intercept
    nibabel.save(image, tmp_path / name)
    expected = displayed(nibabel.as_closest_canonical(nibabel.load(tmp_path / name)).get_fdata(), "axial")
    with (tmp_path / name).open("rb") as source:
        found = list(read(source, URI))
    for item, picture in zip(found, expected, strict=True):
        assert item.bits == 16
        np.testing.assert_array_equal(item.pixels, picture.astype(np.float32))


def test_real_files_are_read_as_by_nibabel():
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    names = ["anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "standard.nii.gz"]
    if not all((folder / name).exists() for name in names):
        pytest.skip("nibabel is installed without its test data")
    for name in names:
        canonical = nibabel.as_closest_canonical(nibabel.load(folder / name))
        voxels = canonical.get_fdata().reshape(*canonical.shape[:3], -1)
        for plane in PLANES:
            expected = [picture for volume in np.moveaxis(voxels, 3, 0) for picture in displayed(volume, plane)]
            found = slices((folder / name).read_bytes(), config(axis=plane, volumes="all"))
            for item, picture in zip(found, expected, strict=True):
                np.testing.assert_array_equal(item.pixels, picture.astype(np.float32))
                place = placed(canonical.affine, canonical.shape, plane, item.frame % (len(found) // voxels.shape[3]))
                np.testing.assert_allclose(item.header.position_mm, place.position_mm, rtol=1e-5, atol=1e-4)
                np.testing.assert_allclose(item.header.normal, place.normal, atol=1e-6)


def test_a_study_of_png_comes_back_from_a_volume_of_it(mri_data):
    folder = min((mri_data / "lgg").iterdir())
    paths = sorted(folder.glob("*.png"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    pictures = [np.asarray(Image.open(path)) for path in paths]
    volume = np.stack([picture.T for picture in pictures], axis=-1)  # columns to the left, rows to the back
    found = slices(gzip.compress(nifti_bytes(volume, np.diag([-0.9, -0.9, 5.0, 1.0])), 1), DecodeConfig())
    for item, picture in zip(found, pictures, strict=True):
        assert item.bits == 8
        np.testing.assert_array_equal(item.pixels, picture)
        assert item.header.spacing_mm == pytest.approx((0.9, 0.9))


# What else tells the position


def test_the_sform_goes_before_the_qform_and_a_senseless_one_gives_way():
    left, right = np.diag([-2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1])
    both = {"qform_code": 1, "quatern_b": 0, "quatern_c": 0, "quatern_d": 0, "pixdim": [1, 3, 3, 3, 0, 0, 0, 0]}
    assert slices(nifti_bytes(WORLD, left, **both))[0].header.spacing_mm == (2, 2)
    for row in ([0, 0, 0, 0], [np.nan, 0, 0, 0], [1e30, 0, 0, 0]):
        found = slices(nifti_bytes(WORLD, left, **both, srow_x=row))
        assert found[0].header.spacing_mm == (3, 3)
        np.testing.assert_array_equal(found[0].pixels, slices(nifti_bytes(WORLD, right, by="qform"))[0].pixels)


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [np.nan, 0, 0, 0]},
        {"srow_x": [np.inf, 0, 0, 0]},
        {"srow_x": [0, 0, 0, 5]},
        {"srow_x": [1, 1, 1, 0], "srow_y": [1, 1, 1, 0]},
        {"srow_x": [1e-20, 0, 0, 0]},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 1, "quatern_c": 1},
        {"sform_code": 0, "qform_code": 1, "quatern_b": np.nan},
        {"sform_code": 0, "qform_code": 1, "qoffset_x": np.inf},
    ],
    ids=str,
)
def test_an_affine_without_sense_is_a_reason_unless_planes_are_taken_as_stored(fields):
    data = nifti_bytes(WORLD, np.eye(4), **fields)
    assert refused(data).reason is Reason.DAMAGED_HEADER
    for k, item in enumerate(slices(data, config(axis="stored"))):
        np.testing.assert_array_equal(item.pixels, WORLD[:, :, k].T)
        assert item.header == Header()


def test_without_an_orientation_axes_are_taken_as_by_others_and_no_place_is_made_up():
    data = nifti_bytes(WORLD, pixdim=[1, 2, 3, 4, 0, 0, 0, 0])
    expected = displayed(loaded(data).get_fdata(), "axial")
    for item, picture in zip(slices(data), expected, strict=True):
        np.testing.assert_array_equal(item.pixels, picture)
        assert item.header == Header(spacing_mm=(3, 2))


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 | 8, 1), (3 | 16, 0.001)])
@pytest.mark.parametrize("by", ["sform", "qform", None])
def test_units_become_millimetres(code, factor, by):
    affine = np.diag([2.0, 3, 4, 1])
    affine[:3, 3] = (10, 20, 30)
    fields = {"xyzt_units": code, "pixdim": [1, 2, 3, 4, 0, 0, 0, 0]}
    header = slices(nifti_bytes(WORLD, affine if by else None, by=by or "", **fields))[1].header
    assert header.spacing_mm == pytest.approx((3 * factor, 2 * factor))
    if by:
        np.testing.assert_allclose(header.position_mm, np.array([-(10 + 12), -(20 + 15), 34]) * factor)


@pytest.mark.parametrize("length", [0, -2, np.nan, np.inf])
def test_a_voxel_without_a_length_is_said_to_have_none(length):
    fields = {"qform_code": 1, "quatern_d": 0, "pixdim": [1, 2, length, 4, 0, 0, 0, 0]}
    found = slices(nifti_bytes(WORLD, **fields))
    for item, picture in zip(found, displayed(WORLD, "axial"), strict=True):
        np.testing.assert_array_equal(item.pixels, picture)
        assert item.header == Header(normal=(0, 0, 1))
    assert slices(nifti_bytes(WORLD, **fields | {"qform_code": 0}))[0].header == Header()


@pytest.mark.parametrize("qfac", [0, 1, -1, np.nan])
def test_the_third_axis_turns_by_the_sign_of_qfac(qfac):
    fields = {"qform_code": 1, "pixdim": [qfac, 1, 1, 1, 0, 0, 0, 0]}
    expected = displayed(WORLD[:, :, ::-1] if qfac == -1 else WORLD, "axial")
    for item, picture in zip(slices(nifti_bytes(WORLD, **fields)), expected, strict=True):
        np.testing.assert_array_equal(item.pixels, picture)


# Shapes, ranges, volumes


@pytest.mark.parametrize(
    "shape", [(7, 6), (7, 6, 1), (7, 6, 1, 1), (7, 6, 5, 1, 1), (7, 6, 5, 1, 1, 1, 1), (7, 6, 5, 1, 3)]
)
def test_dimensions_of_one_are_no_obstacle(shape):
    volume = np.resize(WORLD, shape)
    found = slices(nifti_bytes(volume, np.eye(4), dim=[len(shape), *shape, *[0] * (7 - len(shape))]))
    first = volume.reshape(*(*shape, 1)[:3], -1)[..., 0]
    for item, picture in zip(found, displayed(first, "axial"), strict=True):
        np.testing.assert_array_equal(item.pixels, picture)
    every = slices(nifti_bytes(volume, np.eye(4)), config(volumes="all"))
    assert len(every) == len(found) * (3 if shape[-1] == 3 else 1)


@pytest.mark.parametrize("by", ["sform", "qform"])
def test_a_single_picture_needs_no_thickness(by):
    affine = np.diag([2.0, 3, 1, 1])
    affine[:3, 3] = (1, 2, 3)
    thin = {"srow_z": [0, 0, 0, 3], "pixdim": [1, 2, 3, 0, 0, 0, 0, 0]}
    (item,) = slices(nifti_bytes(WORLD[:, :, :1], affine, by=by, **thin))
    np.testing.assert_array_equal(item.pixels, displayed(WORLD, "axial")[0])
    assert item.header == Header(position_mm=(-13, -17, 3), normal=(0, 0, 1), spacing_mm=(3, 2))


def test_no_time_counts_as_one_point_of_it():
    assert len(slices(nifti_bytes(WORLD, np.eye(4), dim=[4, 7, 6, 5, 0, 0, 0, 0]))) == 5


@settings(max_examples=100, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    plane=st.sampled_from((*PLANES, "stored")),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True),
    volumes=st.sampled_from(["first", "all"]),
    gzipped=st.booleans(),
)
def test_ranges_share_out_the_slices_and_keep_their_numbers(orientation, plane, cuts, volumes, gzipped):
    data = nifti_bytes(*stored_as(np.resize(WORLD, (7, 6, 40, 2)), orientation))
    data = gzip.compress(data, 1) if gzipped else data
    whole = {item.frame: item for item in slices(data, config(axis=plane, volumes=volumes))}
    count = len(whole) // (2 if volumes == "all" else 1)
    seen: list[int] = []
    for first, last in itertools.pairwise(sorted({0.0, 1.0, *cuts})):
        found = slices(data, config(axis=plane, volumes=volumes, first=first, last=last))
        assert found
        for item in found:
            np.testing.assert_array_equal(item.pixels, whole[item.frame].pixels)
            assert item.header == whole[item.frame].header
        numbers = [item.frame for item in found]
        assert numbers == sorted(numbers)
        inside = [frame for frame in whole if first < (frame % count + 0.5) / count < last]
        assert set(inside) <= set(numbers)
        if len(inside) > 0:
            seen += numbers
    assert set(seen) <= set(whole)
    assert len(seen) == len(set(seen))


def test_a_range_of_the_middle():
    found = slices(nifti_bytes(np.resize(WORLD, (7, 6, 40)), np.eye(4)), config(first=0.25, last=0.75))
    assert [item.frame for item in found] == list(range(10, 30))
    assert found[0].header.position_mm == (-6, -5, 10)


def test_extensions_are_passed_over():
    data = nifti_bytes(WORLD, np.eye(4), extension=(64).to_bytes(4, "little") + bytes(60) + b"name of a patient")
    for item, picture in zip(slices(data), displayed(WORLD, "axial"), strict=True):
        np.testing.assert_array_equal(item.pixels, picture)


# Values


@pytest.mark.parametrize("dtype", DTYPES)
def test_slope_and_intercept(dtype):
    volume = np.arange(7 * 6 * 5).reshape(7, 6, 5).astype(dtype) // 2
    expected = displayed(volume.astype("f8") * np.float32(-0.3) + 7.5, "axial")
    for item, picture in zip(
        slices(nifti_bytes(volume, np.eye(4), scl_slope=-0.3, scl_inter=7.5)), expected, strict=True
    ):
        np.testing.assert_array_equal(item.pixels, picture.astype("f4"))
        # A byte that is scaled is no grey level that could be shown as it is.
        assert item.bits == (32 if dtype in ("u1", "i1") else 8 * np.dtype(dtype).itemsize)


@pytest.mark.parametrize(("slope", "intercept"), [(0, 5), (np.nan, np.nan), (np.nan, 3), (np.inf, 0), (1, 0)])
def test_without_a_slope_values_stay_as_stored(slope, intercept):
    volume = np.arange(7 * 6 * 5).reshape(7, 6, 5).astype("u1")
    for item, picture in zip(
        slices(nifti_bytes(volume, np.eye(4), scl_slope=slope, scl_inter=intercept)),
        displayed(volume, "axial"),
        strict=True,
    ):
        np.testing.assert_array_equal(item.pixels, picture)
        assert item.bits == 8


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_becomes_the_darkest(dtype, bad):
    world = WORLD.astype(dtype)
    world[1, 1, 2] = bad
    world[:, :, 3] = bad
    found = slices(nifti_bytes(world, np.eye(4)))
    assert [item.frame for item in found if Flag.MASKED in item.flags] == [2, 3]
    expected = displayed(WORLD, "axial")[2].astype("f4")
    darkest = np.delete(WORLD[:, :, 2].ravel(), 1 * 6 + 1).min()
    expected[5 - 1, 6 - 1] = darkest
    np.testing.assert_array_equal(found[2].pixels, expected)
    assert not found[3].pixels.any()


def test_what_float32_cannot_hold_is_masked_without_a_warning():
    world = WORLD.astype("f8")
    world[0, 0, 0] = 1e300
    found = slices(nifti_bytes(world, np.eye(4)))
    assert [Flag.MASKED in item.flags for item in found] == [True, False, False, False, False]
    assert all(np.isfinite(item.pixels).all() for item in found)
    steep = slices(nifti_bytes(WORLD, np.eye(4), scl_slope=3e38, scl_inter=0, version=2))
    assert all(Flag.MASKED in item.flags and not item.pixels.any() for item in steep)


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_becomes_grey(alpha):
    rng = np.random.default_rng(1)
    channels = rng.integers(0, 256, (7, 6, 5, 4), dtype="u1")
    channels[:, :, 2, :3] = channels[:, :, 2, :1]
    channels[:, :, :2, 3] = 255
    names = "RGBA" if alpha else "RGB"
    volume = np.zeros((7, 6, 5), [(name, "u1") for name in names])
    for index, name in enumerate(names):
        volume[name] = channels[..., index]
    found = slices(nifti_bytes(volume, np.eye(4), scl_slope=2, scl_inter=1))
    assert [item.bits for item in found] == [8] * 5
    for k in (0, 1):
        shown = np.ascontiguousarray(channels[::-1, ::-1, k, :3].swapaxes(0, 1))
        np.testing.assert_array_equal(found[k].pixels, np.asarray(Image.fromarray(shown).convert("L")))
        assert found[k].flags == {Flag.COLOUR}
    assert not found[2].flags
    if alpha:
        shade = channels[..., 3][::-1, ::-1, 3].T
        assert (found[3].pixels <= shade).all()


def test_statistics_and_labels_are_flagged_as_computed():
    for code, flags in ((0, set()), (3, {Flag.DERIVED}), (1002, {Flag.DERIVED}), (2001, set())):
        assert slices(nifti_bytes(WORLD, np.eye(4), intent_code=code))[0].flags == flags


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_numbers_have_no_grey_value(dtype):
    failure = refused(nifti_bytes(WORLD.astype(dtype), np.eye(4)))
    assert failure.reason is Reason.UNSUPPORTED_MODE
    assert "complex" in failure.detail


# Headers without sense, and limits

HEADERS = [
    ({"dim": [0] * 8}, Reason.DAMAGED_HEADER),
    ({"dim": [8, 7, 6, 5, 1, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [-3, 7, 6, 5, 1, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [3, 7, 0, 5, 1, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [4, 7, 6, 5, -2, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [3, -1, 1, 1, 1, 1, 1, 1]}, Reason.DAMAGED_HEADER),
    ({"dim": [3, 32767, 32767, 5, 1, 1, 1, 1]}, Reason.TOO_MANY_PIXELS),
    ({"dim": [3, 7, 6, 32767, 1, 1, 1, 1]}, Reason.TOO_MANY_FRAMES),
    ({"datatype": 0}, Reason.DAMAGED_HEADER),
    ({"datatype": 5}, Reason.DAMAGED_HEADER),
    ({"datatype": 255}, Reason.DAMAGED_HEADER),
    ({"datatype": -4}, Reason.DAMAGED_HEADER),
    ({"datatype": 8}, Reason.DAMAGED_HEADER),
    ({"datatype": 1, "bitpix": 1}, Reason.UNSUPPORTED_MODE),
    ({"datatype": 1536, "bitpix": 128}, Reason.UNSUPPORTED_MODE),
    ({"datatype": 2048, "bitpix": 256}, Reason.UNSUPPORTED_MODE),
    ({"bitpix": 12}, Reason.DAMAGED_HEADER),
    ({"vox_offset": 0}, Reason.DAMAGED_HEADER),
    ({"vox_offset": -352}, Reason.DAMAGED_HEADER),
    ({"vox_offset": 344}, Reason.DAMAGED_HEADER),
    ({"vox_offset": 2**30}, Reason.DAMAGED_HEADER),
    ({"vox_offset": 352 + 999}, Reason.TRUNCATED),
    ({"scl_slope": 2, "scl_inter": np.nan}, Reason.DAMAGED_HEADER),
    ({"dim": [5, 7, 6, 5, 1, 3, 1, 1], "intent_code": 1007}, Reason.UNSUPPORTED_MODE),
]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("fields", "reason"), HEADERS, ids=str)
def test_a_header_without_sense_is_a_reason(fields, reason, version, order):
    fields = dict(fields)
    if version == 2 and fields.get("vox_offset") in (344, 352 + 999):
        fields["vox_offset"] += 192
    data = nifti_bytes(WORLD, np.eye(4), version=version, order=order, **fields)
    found = decode(data)
    assert isinstance(found[-1], Failure)
    assert found[-1].reason is reason
    assert not any(isinstance(item, Slice) for item in found) or reason is Reason.TRUNCATED


@pytest.mark.parametrize("value", [np.nan, np.inf, 352.5])
def test_an_offset_is_a_whole_number(value):
    assert refused(nifti_bytes(WORLD, np.eye(4), vox_offset=value)).reason is Reason.DAMAGED_HEADER


def test_numbers_of_64_bits_do_not_overflow_the_limits():
    huge = 2**62
    for dim in ([3, huge, huge, huge], [3, 7, 6, huge], [3, huge, 6, 5], [7, 7, 6, 5, huge, huge, huge, huge]):
        data = nifti_bytes(WORLD, np.eye(4), version=2, dim=dim + [1] * (8 - len(dim)))
        for plane in PLANES:
            found = decode(data, config(axis=plane, volumes="all"))
            assert isinstance(found[-1], Failure)
            assert found[-1].reason in (Reason.TOO_MANY_PIXELS, Reason.TOO_MANY_FRAMES)


def test_a_transfer_as_text_is_told():
    data = nifti_bytes(WORLD, np.eye(4), version=2)
    assert slices(data[:8] + bytes(4) + data[12:])
    assert "text" in refused(data[:8] + b"\n\x1a\n\0" + data[12:]).detail


def test_sizes_are_held_against_the_limits():
    data = nifti_bytes(WORLD, np.eye(4))
    assert refused(data, config(max_pixels=41)).reason is Reason.TOO_MANY_PIXELS
    assert refused(data, config(min_side=7)).reason is Reason.TOO_SMALL
    assert refused(data, config(max_frames=4)).reason is Reason.TOO_MANY_FRAMES
    assert len(slices(data, config(max_pixels=42, min_side=6, max_frames=5))) == 5
    assert len(slices(data, config(max_frames=2, first=0.3, last=0.7))) == 2
    series = nifti_bytes(np.resize(WORLD, (7, 6, 5, 3)), np.eye(4))
    assert refused(series, config(max_frames=14, volumes="all")).reason is Reason.TOO_MANY_FRAMES
    assert len(slices(series, config(max_frames=15, volumes="all"))) == 15


def test_what_must_be_held_in_memory_is_limited():
    upright = nifti_bytes(WORLD, np.eye(4))
    plane, volume = 7 * 6 * 2, 7 * 6 * 5 * 2
    assert len(slices(upright, config(max_bytes=plane))) == 5
    assert refused(upright, config(max_bytes=plane - 1)).reason is Reason.TOO_MANY_BYTES
    for settings_of in ({"axis": "coronal"}, {"axis": "sagittal"}):
        need = plane + volume
        assert refused(upright, config(**settings_of, max_bytes=need - 1)).reason is Reason.TOO_MANY_BYTES
        assert slices(upright, config(**settings_of, max_bytes=need))
    upside_down = nifti_bytes(*stored_as(WORLD, ((0, 1), (1, 1), (2, -1))))
    assert refused(upside_down, config(max_bytes=plane + volume - 1)).reason is Reason.TOO_MANY_BYTES
    assert len(slices(upside_down, config(max_bytes=3 * plane, first=0.3, last=0.7))) == 2


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_recognised_by_mark_and_size_together(version, order):
    head = nifti_bytes(WORLD, version=version, order=order)[:512]
    assert nifti.recognise(head)
    assert not nifti.recognise(b"\0" + head[1:3] + b"\0" + head[4:])
    assert not nifti.recognise(head[: 300 if version == 1 else 7])
    mark = 344 if version == 1 else 4
    assert not nifti.recognise(head[:mark] + b"ni" + head[mark + 2 :])
    assert not nifti.recognise(b"")


# What is cut off or damaged


def checked(found: list[Slice | Failure], expected: list[np.ndarray]) -> tuple[list[int], Reason | None]:
    """The frames that passed, all with the right pixels, and the reason that closes them."""
    frames = []
    for item in found:
        if isinstance(item, Slice):
            np.testing.assert_array_equal(item.pixels, expected[item.frame])
            frames.append(item.frame)
    assert all(isinstance(item, Slice) for item in found[:-1])
    return frames, found[-1].reason if found and isinstance(found[-1], Failure) else None


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_cut_short_gives_the_slices_before_its_end(version):
    expected = displayed(WORLD, "axial")
    upright = nifti_bytes(WORLD, np.eye(4), version=version)
    upside_down = nifti_bytes(*stored_as(WORLD, ((0, 1), (1, 1), (2, -1))), version=version)
    start, plane = (352 if version == 1 else 544), 7 * 6 * 2
    for cut in range(len(upright)):
        whole = max(0, cut - start) // plane
        assert checked(decode(upright[:cut]), expected) == (list(range(whole)), Reason.TRUNCATED)
        frames = list(range(5 - whole, 5))
        assert checked(decode(upside_down[:cut]), expected) == (frames, Reason.TRUNCATED)
    for turned in ("coronal", "sagittal"):
        for cut in range(0, len(upright), 7):
            assert refused(upright[:cut], config(axis=turned)).reason is Reason.TRUNCATED


def test_a_series_cut_short_gives_its_whole_volumes():
    series = nifti_bytes(np.stack([WORLD, WORLD + 1, WORLD + 2], axis=-1), np.eye(4))
    cut = series[: 352 + 7 * 6 * 2 * 12]
    expected = [picture for more in range(3) for picture in displayed(WORLD + more, "axial")]
    assert checked(decode(cut), expected) == (list(range(5)), None)
    assert checked(decode(cut, config(volumes="all")), expected) == (list(range(12)), Reason.TRUNCATED)
    expected = [picture for more in range(3) for picture in displayed(WORLD + more, "coronal")]
    assert checked(decode(cut, config(volumes="all", axis="coronal")), expected) == (list(range(12)), Reason.TRUNCATED)
    assert checked(decode(cut, config(volumes="all", axis="coronal", last=0.5)), expected)[0] == [0, 1, 2, 6, 7, 8]


def test_a_gzip_cut_short_behind_what_is_wanted_is_told_beside_it():
    series = gzip.compress(nifti_bytes(_noisy((7, 6, 5, 9)), np.eye(4)))
    expected = displayed(_noisy((7, 6, 5, 9))[..., 0], "axial")
    assert checked(decode(series), expected) == (list(range(5)), None)
    assert checked(decode(series[: len(series) // 2]), expected) == (list(range(5)), Reason.TRUNCATED)


def _noisy(shape: tuple[int, ...] = (7, 6, 40)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4000, shape).astype("i2")


def test_a_gzip_cut_short_anywhere_is_truncated_and_what_passes_is_right():
    volume = _noisy()
    data = gzip.compress(nifti_bytes(volume, np.eye(4)))
    expected = displayed(volume, "axial")
    passed = []
    for cut in itertools.chain(range(0, len(data) - 20, 37), range(len(data) - 20, len(data))):
        frames, reason = checked(decode(data[:cut], gzipped=True), expected)
        assert reason is Reason.TRUNCATED
        assert frames == list(range(len(frames)))
        passed.append(len(frames))
    assert passed == sorted(passed)
    assert passed[0] == 0
    assert passed[-1] == 40  # only the checksum is missing
    assert 20 < passed[len(passed) // 2 + 20] < 40


def test_a_wrong_checksum_gives_nothing_of_the_volume():
    volume = _noisy((7, 6, 5, 3))
    data = bytearray(gzip.compress(nifti_bytes(volume, np.eye(4))))
    data[-8] ^= 1
    for plane in PLANES:
        assert refused(bytes(data), config(axis=plane)).reason is Reason.DAMAGED
    expected = [picture for index in range(3) for picture in displayed(volume[..., index], "axial")]
    assert checked(decode(bytes(data), config(volumes="all")), expected) == (list(range(10)), Reason.DAMAGED)


def test_a_wrong_length_in_a_gzip_is_damage():
    data = bytearray(gzip.compress(nifti_bytes(WORLD, np.eye(4))))
    data[-1] ^= 1
    assert refused(bytes(data)).reason is Reason.DAMAGED


def test_a_volume_too_large_to_hold_passes_before_its_checksum():
    volume = _noisy((128, 128, 100))
    data = bytearray(gzip.compress(nifti_bytes(volume, np.eye(4)), 1))
    data[-8] ^= 1
    frames, reason = checked(decode(bytes(data), config(max_bytes=2**20)), displayed(volume, "axial"))
    assert reason is Reason.DAMAGED
    assert frames == list(range(len(frames)))
    assert 90 < len(frames) < 100  # those of the last block are held back with the error


GZIP_OF_NOISE = gzip.compress(nifti_bytes(_noisy(), np.eye(4)), mtime=0)


@example(23967)  # swallows the checksum, and looks as if it had been cut off
@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GZIP_OF_NOISE) * 8 - 1))
def test_a_flipped_bit_in_a_gzip_never_gives_other_pixels(bit):
    data = bytearray(GZIP_OF_NOISE)
    data[bit // 8] ^= 1 << bit % 8
    frames, reason = checked(decode(bytes(data), gzipped=True), displayed(_noisy(), "axial"))
    assert frames == ([] if reason else list(range(40)))


@pytest.mark.parametrize("size", [100, 352, 1000, 10**6])
def test_a_gzip_of_several_members_is_one_file(size):
    raw = nifti_bytes(_noisy(), np.eye(4))
    data = b"".join(gzip.compress(raw[start : start + size]) for start in range(0, len(raw), size))
    expected = displayed(_noisy(), "axial")
    for closed in (data, data + bytes(99), data + gzip.compress(b""), data + b"something else"):
        assert checked(decode(closed), expected) == (list(range(40)), None)
    cut = b"".join(gzip.compress(raw[start : start + size]) for start in range(0, len(raw) - size, size))
    for closed in (cut, cut + bytes(99), cut + b"something else") if cut else ():
        assert checked(decode(closed, gzipped=True), expected)[1] is Reason.TRUNCATED


def test_thousands_of_empty_members_end():
    data = gzip.compress(nifti_bytes(WORLD, np.eye(4))[:400]) + gzip.compress(b"") * 10_000
    assert refused(data).reason is Reason.DAMAGED


def test_what_is_no_gzip_is_damaged():
    assert refused(b"\x1f\x8b\x08" + bytes(99)).reason is Reason.DAMAGED


# Bombs


def _zeros(head: bytes, megabytes: int) -> bytes:
    """The gzip of `head` and zeros, up to its checksum; a block that is flushed whole can be repeated."""
    press = zlib.compressobj(6, wbits=31)
    start = press.compress(head) + press.flush(zlib.Z_FULL_FLUSH)
    block = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    return start + block * megabytes


def test_what_lies_behind_the_voxels_is_not_inflated_without_end():
    volume = np.resize(WORLD, (64, 64, 20))
    inflated = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal inflated
            data = super().read(size)
            inflated += len(data)
            return data

    data = _zeros(nifti_bytes(volume, np.eye(4)), 5000)
    found = list(nifti.decode(Counted(data), URI, DecodeConfig(), gzipped=True))
    assert checked(found, displayed(volume, "axial")) == (list(range(20)), None)
    assert inflated < len(data) / 20


def test_a_bomb_is_refused_once_it_is_larger_than_any_volume_may_be():
    header = nifti_bytes(np.zeros((64, 64, 4000), "u1"), np.eye(4))[:352]
    found = decode(_zeros(header, 16), config(max_bytes=2**21))
    assert isinstance(found[-1], Failure)
    assert found[-1].reason is Reason.PACK_BOMB
    assert 2**21 / 4096 - 300 < len(found) <= 2**21 / 4096 + 300
    assert len(slices(gzip.compress(header + bytes(64 * 64 * 4000)))) == 4000  # within max_bytes at any ratio


def _peak(path: Path, settings_of: DecodeConfig) -> tuple[int, int]:
    """Slices, and the most bytes that reading them took at once."""
    tracemalloc.start()
    try:
        with path.open("rb") as source:
            count = sum(isinstance(item, Slice) for item in nifti.decode(source, "x", settings_of, gzipped=False))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("plane", "volumes", "count", "megabytes"),
    [("axial", "first", 60, 4), ("axial", "all", 2400, 4), ("sagittal", "all", 10_240, 12)],
)
def test_a_long_series_is_never_in_memory_whole(tmp_path, plane, volumes, count, megabytes):
    """256 x 256 x 60 x 40 of 16 bits: 300 MiB, 7.5 MiB a volume."""
    path = tmp_path / "sparse.nii"
    header = Nifti1Header()
    header.set_data_shape((256, 256, 60, 40))
    header.set_data_dtype("i2")
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = 352
    path.write_bytes(header.binaryblock)
    with path.open("r+b") as file:
        file.truncate(352 + 256 * 256 * 60 * 40 * 2)
    found, peak = _peak(path, config(axis=plane, volumes=volumes, max_frames=10**5))
    assert found == count
    assert peak < megabytes * 2**20


def test_a_header_that_promises_much_costs_nothing(tmp_path):
    path = tmp_path / "short.nii"
    path.write_bytes(nifti_bytes(WORLD.astype("f8"), np.eye(4), dim=[4, 8000, 8000, 1, 4000, 1, 1, 1]))
    for plane in PLANES:
        found, peak = _peak(path, config(axis=plane, max_bytes=2**40))
        assert found == 0
        assert peak < 2 * 2**20


# The source


class _Forward:
    """Can be read, in pieces as small as a network gives them, and nothing else; may break."""

    def __init__(self, data: bytes, *, piece: int = 7, breaks: int | None = None, error: Exception | None = None):
        self._data, self._piece, self._breaks, self._error = io.BytesIO(data), piece, breaks, error

    def read(self, size: int) -> bytes:
        assert size > 0
        if self._error is not None and self._breaks is not None and self._data.tell() >= self._breaks:
            raise self._error
        return self._data.read(min(size, self._piece))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_a_source_is_read_forward_only_and_may_give_little_at_a_time(plane, packed):
    data = nifti_bytes(np.stack([WORLD, WORLD + 1], axis=-1), np.eye(4))
    data = gzip.compress(data) if packed else data
    found = list(nifti.decode(_Forward(data), URI, config(axis=plane, volumes="all"), gzipped=packed))
    expected = displayed(WORLD, plane) + displayed(WORLD + 1, plane)
    assert checked(found, expected) == (list(range(len(expected))), None)


@pytest.mark.parametrize("orientation", [((0, 1), (1, 1), (2, 1)), ((0, 1), (1, 1), (2, -1))])
def test_nothing_is_read_behind_what_is_wanted(orientation):
    data = nifti_bytes(*stored_as(np.resize(WORLD, (7, 6, 40, 2)), orientation))
    last = {"first": 0.0, "last": 0.25} if orientation[2][1] == 1 else {"first": 0.75, "last": 1.0}
    source = _Forward(data, breaks=352 + 10 * 7 * 6 * 2, error=OSError())
    assert len(list(nifti.decode(source, URI, config(**last), gzipped=False))) == 10


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("error", [SourceLost(OSError()), Refused(Reason.PACK_BOMB, "x"), OSError()], ids=repr)
def test_faults_of_the_source_pass_through(error, packed):
    data = nifti_bytes(WORLD, np.eye(4))
    data = gzip.compress(data) if packed else data
    for breaks in range(0, len(data), 50):
        source = _Forward(data, breaks=breaks, error=error)
        with pytest.raises(type(error)):
            list(nifti.decode(source, URI, SMALL, gzipped=packed))


def test_pixels_belong_to_their_slice_alone():
    found = slices(nifti_bytes(WORLD.astype("f4"), np.eye(4)))
    before = found[1].pixels.copy()
    found[0].pixels[:] = -1
    np.testing.assert_array_equal(found[1].pixels, before)
    assert all(item.pixels.base is None for item in found)


def test_nothing_of_the_header_s_text_is_told():
    secret = "DOE^JANE"
    fields = {"descrip": secret, "aux_file": secret, "intent_name": secret}
    for more in ({}, {"datatype": 3}, {"vox_offset": 9999}, {"sform_code": 1, "srow_x": [0, 0, 0, 0]}):
        for item in decode(nifti_bytes(WORLD, np.eye(4), extension=secret.encode() * 2, **fields, **more)):
            assert secret not in repr(item)
