"""An audit of phantoms with planted copies, a leaking split and labels that contradict each other."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mri_ray import config, phantom
from mri_ray.archive.storage import Location
from mri_ray.on_ray import audit, copies, train
from mri_ray.on_ray.settings import AuditRun, TrainRun
from mri_ray.report.audit import text

SMALL = {"prepare": {"size": 64}, "shards": {"objects": 20, "workers": 2}}


def folder_of(tumor: bool, side: str) -> str:
    return f"{side}/{'glioma' if tumor else 'notumor'}"


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """40 slices in folders; tumors larger; of 8 a mirrored copy on the other side, one of them mislabelled."""
    root = tmp_path_factory.mktemp("planted") / "archive"
    slices = list(phantom.generate(phantom.PhantomConfig(patients=20, slices=2, second_study=0, seed=8, jpeg=0.0)))
    assert 4 <= sum(item.mask.any() for item in slices) <= 36
    for n, item in enumerate(slices):
        tumor, side = bool(item.mask.any()), "Testing" if n // 2 % 4 == 0 else "Training"
        picture = cv2.resize(item.pixels, (300, 300) if tumor else (220, 220))
        write(root / folder_of(tumor, side) / f"{n}.png", picture)
        if n < 16 and n % 2 == 0:
            other = "Training" if side == "Testing" else "Testing"
            called = not tumor if n == 0 else tumor
            write(root / folder_of(called, other) / f"copy-{n}.png", picture[:, ::-1])
    return root


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture))


def audited(archive: Path, output: Path, **settings) -> dict:
    return audit.run(config.build(AuditRun, SMALL | {"archive": str(archive), "output": str(output)} | settings)).values


@pytest.fixture(scope="module")
def values(ray_cluster, planted, tmp_path_factory) -> dict:
    return audited(planted, tmp_path_factory.mktemp("audited"))


def test_copies_leaks_and_contradictions_are_told(values, planted):
    found = values["audit"]
    assert sum(held["slices"] for held in found["pictures"].values()) == 48
    assert sum(held["pixels"] for held in found["pictures"].values()) == 48
    # The mislabelled picture is one of each class.
    assert sum(held["pictures"] for held in found["pictures"].values()) == 41
    assert found["leaks"]["folder"]["copy"] == 8
    assert found["leaks"]["folder"]["same_pixels"] == found["leaks"]["folder"]["owner"] == 0
    assert found["contradictions"]["pictures"] == 1
    names = {Path(uri).name for uri in found["contradictions"]["first"][0]}
    assert names == {"0.png", "copy-0.png"}
    assert found["groups"][0]["slices"] == 2
    assert any("0.png" in warning and "copy-0.png" in warning for warning in values["warnings"])
    assert any("the split by folder leaks: 8 of" in warning for warning in values["warnings"])


def test_shortcuts_are_told(values):
    size = values["audit"]["shortcuts"]["size"]
    assert size["suspect"]
    assert size["removed"] == "yes"
    assert any(warning.startswith("shortcut: size alone") for warning in values["warnings"])
    assert {"mode", "format", "file bytes", "border", "mean intensity"} <= set(values["audit"]["shortcuts"])


def test_the_report_and_what_is_printed_hold_it(values):
    page = Path(values["report"].removeprefix("file://")).read_text()
    assert page.count("<img") >= 16
    assert "tells the class" in page
    assert "copy-0.png" in page
    printed = text(values["audit"])
    assert "TELLS THE CLASS" in printed
    assert "have a copy there" in printed
    written = json.loads(Path(values["report"].removeprefix("file://")).with_name("run.json").read_text())
    assert written["audit"] == values["audit"]
    assert written["counts"] == {"objects": 48, "scored": 48, "quarantined": 0, "duplicate": 0, "skipped": 0}


def test_copies_are_looked_for_once(ray_cluster, values, planted, tmp_path, caplog):
    cache = Path(values["report"].removeprefix("file://")).parent
    with caplog.at_level("INFO", logger="mri_ray"):
        again = audited(planted, tmp_path / "again", cache=str(cache))
    assert again["audit"] == values["audit"]
    assert not [line for line in caplog.messages if "looking for near copies" in line]
    (held,) = (cache / "copies").glob("*.parquet")
    assert pq.read_table(held).num_rows == 8


def test_copies_are_looked_for_anew_when_others_are_known(tmp_path):
    """Those within a patient are not looked for: what one found who knew patients is too few for one who does not."""
    for number, patient in enumerate((None, "one", None), 1):
        told = {"pixel_digest": ["a"], "flags": [[]], "patient_key": [patient], "study_key": [None]}
        types = {"flags": pa.list_(pa.string()), "part": pa.int64(), "place": pa.int64()}
        columns = told | {"part": [0], "place": [0]}
        rows = pa.table({name: pa.array(held, types.get(name, pa.string())) for name, held in columns.items()})
        copies.links(rows, [], Location.of(str(tmp_path)))
        assert len(list(tmp_path.glob("*.parquet"))) == min(number, 2)


def test_a_training_keeps_copies_together_and_tells_its_audit(ray_cluster, values, planted, tmp_path):
    cache = Path(values["report"].removeprefix("file://")).parent
    settings = config.build(
        TrainRun,
        SMALL
        | {"archive": str(planted), "output": str(tmp_path), "cache": str(cache), "seed": 1}
        | {"model": {"input_size": 64, "width": 4, "blocks": 4, "dense": 16}, "train": {"epochs": 1, "batch_size": 8}},
    )
    trained = train.run(settings).values
    assert sum(side["groups"] for side in trained["split"].values()) == 40
    assert trained["leakage"]["crossing"] == 0
    assert trained["audit"]["shortcuts"]["size"]["suspect"]
    assert any(warning.startswith("shortcut: size alone") for warning in trained["warnings"])
    place = Location.of(trained["bundle"])
    assert json.loads(place.read("bundle.json"))["training"]["audit"]["size"]["suspect"]
    page = (tmp_path / "report.html").read_text()
    assert "What tells the class without anatomy" in page
