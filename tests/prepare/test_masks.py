"""A mask goes where its slice goes, and what cannot be used says why."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.prepare.masks import OTHER_SIZE, SCHEMA, UNREADABLE, MaskNames, masks_of, pixels_each, unpacked
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Header, Slice

SIZE = 64


def head(height: int = 120, width: int = 100, spacing=None) -> Slice:
    """A bright ellipse on black, a bright lesion in it."""
    y, x = np.indices((height, width))
    inside = ((y - 50) / (30 * height / 120)) ** 2 + ((x - 60) / 25) ** 2 < 1
    pixels = 80.0 * inside + 150.0 * lesion(height, width)
    return Slice(pixels=pixels.astype(np.float32), bits=8, header=Header(spacing_mm=spacing))


def lesion(height: int = 120, width: int = 100) -> np.ndarray:
    y, x = np.indices((height, width))
    return (y - 45) ** 2 + (x - 66) ** 2 < 8**2


def png(mask: np.ndarray, mode: str = "1") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).convert(mode).save(buffer, "TIFF" if mode == "L" else "PNG")
    return buffer.getvalue()


def row(name: str, item: Slice, **changes) -> dict:
    prepared = prepare(item, PrepareConfig(size=SIZE))
    height, width = item.pixels.shape
    known = {"row_id": f"row {name}", "object_id": name, "frame": 0, "reason": None, "width": width, "height": height}
    return known | {"spacing_mm": item.header.spacing_mm, "crop": prepared.crop} | changes


TABLE = pa.schema(
    [
        *[(name, pa.string()) for name in ("row_id", "object_id", "reason")],
        *[(name, pa.int32()) for name in ("frame", "width", "height")],
        ("spacing_mm", pa.list_(pa.float32())),
        ("crop", pa.list_(pa.int32())),
    ]
)


def run(rows: list[dict], keys: dict[str, str], place: Location) -> pa.Table:
    return masks_of(pa.Table.from_pylist(rows, TABLE), keys, place, DecodeConfig(), SIZE)


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (2.0, 1.0), (0.5, 1.25)])
def test_a_mask_lies_over_its_prepared_slice(mode, spacing, tmp_path):
    place, item = Location.of(str(tmp_path)), head(spacing=spacing)
    place.write("a.png", png(lesion(), mode))
    found = run([row("a", item)], {"a": "a.png"}, place)
    assert found.schema == SCHEMA
    assert found["lesion_px"].to_pylist() == [int(lesion().sum())]
    mask = unpacked(found["mask"][0].as_py(), SIZE)
    assert set(np.unique(mask)) == {0, 255}
    bright = prepare(item, PrepareConfig(size=SIZE)).pixels[0] > 160
    assert 2 * ((mask > 0) & bright).sum() / ((mask > 0).sum() + bright.sum()) > 0.93
    each = pixels_each(row("a", item)["crop"], 100, 120, spacing, SIZE)
    assert (mask > 0).sum() * each == pytest.approx(lesion().sum(), rel=0.08)


def test_every_row_gets_one_in_its_order_and_faults_are_named(tmp_path):
    place, item = Location.of(str(tmp_path)), head()
    place.write("empty.png", png(np.zeros((120, 100), bool)))
    place.write("large.png", png(lesion(130, 100)))
    place.write("bad.png", b"no picture")
    names = ["large", "none", "empty", "bad", "gone", "failed"]
    rows = [row(name, item) for name in names]
    rows[-1] |= {"reason": "damaged.image", "width": None, "height": None, "crop": None}
    found = run(rows, {name: f"{name}.png" for name in names if name != "none"}, place)
    assert found["row_id"].to_pylist() == [f"row {name}" for name in names]
    assert found["fault"].to_pylist() == [OTHER_SIZE, None, None, UNREADABLE, UNREADABLE, None]
    assert found["lesion_px"].to_pylist() == [None, None, 0, None, None, None]
    assert found["mask"].null_count == 6


def test_a_volumes_mask_is_that_of_each_of_its_slices(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    place = Location.of(str(tmp_path))
    values = np.zeros((40, 50, 3), np.uint8)
    values[10:20, 10:25, 1] = 1
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    item = Slice(pixels=np.full((50, 40), 99, np.float32), bits=8)
    found = run([row("v", item, row_id=f"{frame}", frame=frame) for frame in range(3)], {"v": "v.nii"}, place)
    assert found["lesion_px"].to_pylist() == [0, 150, 0]


def test_numbers_and_sidecars_are_no_extensions_of_a_mask():
    def found(masks: list[str], objects: list[str]) -> list[str | None]:
        return MaskNames(keys=pa.array(sorted(masks))).of_objects(objects)

    series = ["s/I.001", "s/I.002", "s/I.003"]
    assert found(series, series) == series
    uid = "1.2.840.99999"
    assert found([f"{uid}.101.png", f"{uid}.102.png"], [f"{uid}.102", f"{uid}.101.dcm"]) == [
        f"{uid}.102.png",
        f"{uid}.101.png",
    ]
    assert found(["1_mask.json", "1_mask.nii.gz"], ["1.nii.gz"]) == ["1_mask.nii.gz"]


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_what_jpeg_spreads_around_a_lesion_is_none(quality, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray((lesion() * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    (told,) = run([row("a", head())], {"a": "a.jpg"}, Location.of(str(tmp_path)))["lesion_px"].to_pylist()
    assert told == pytest.approx(lesion().sum(), abs=2)


def test_names_are_matched_whatever_their_extension():
    names = MaskNames(keys=pa.array(["a/x.png", "a/y_mask.tif", "b/x.nii.gz", "z.v2.png", "c/w.png", "c/w_mask.png"]))
    wanted = ["a/x.jpg", "a/y.tif", "b/x.nii", "z.v2.dcm", "c/w.png", "a/x2.png", "x.png"]
    given = ["a/x.png", "a/y_mask.tif", "b/x.nii.gz", "z.v2.png", "c/w.png", None, None]
    assert names.of_objects(wanted) == given
    assert MaskNames(keys=pa.array([], pa.string())).of_objects(wanted[:1]) == [None]
