"""Real archives (MRI_DATA) through short trainings: what holds for them whatever the network learns."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

TINY = ["prepare.size=64", "model.input_size=64", "model.width=4", "model.blocks=4", "train.epochs=1"]


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def test_lgg_is_split_by_patient_and_scored_whole(jobs, mri_data, tmp_path):
    given = [f"archive={mri_data}/lgg", f"labels={mri_data}/lgg.csv"]
    code, printed = jobs.run("train", "--config", "configs/train.yaml", *given, *TINY, f"output={tmp_path}/train")
    assert code == 0, printed
    trained = record(tmp_path / "train")
    assert sum(side["rows"] for side in trained["split"].values()) == 2605
    assert sum(side["groups"] for side in trained["split"].values()) == 72
    assert trained["leakage"]["crossing"] == 0

    bundle = trained["bundle"]
    code, printed = jobs.run("score", *given, f"bundle={bundle}", f"output={tmp_path}/score")
    assert code == 0, printed
    scored = record(tmp_path / "score")
    assert scored["counts"] == {"objects": 2605, "scored": 2605, "quarantined": 0, "duplicate": 0, "skipped": 0}
    assert scored["metrics"]["test"]["n"] == pytest.approx(trained["metrics"]["test"]["n"], abs=30)  # blank pictures
    one, other = (
        pq.read_table(values["results"].removeprefix("file://"), columns=["row_id", "probability"]).sort_by("row_id")
        for values in (trained, scored)
    )
    assert one["row_id"].equals(other["row_id"])
    pairs = zip(one["probability"].to_pylist(), other["probability"].to_pylist(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 1e-6


def test_kaggle_by_folder_names_counts_its_leaks(jobs, mri_data, tmp_path):
    leaks = {}
    for by in ("image", "folder", "group"):
        given = [f"archive={mri_data}/kaggle", f"split.by={by}", f"cache={tmp_path}/cache", f"output={tmp_path}/{by}"]
        code, printed = jobs.run("train", "--config", "configs/train.yaml", *given, *TINY)
        assert code == 0, printed
        values = record(tmp_path / by)
        assert sum(side["tumor"] for side in values["split"].values()) == 987
        assert sum(side["rows"] for side in values["split"].values()) == 2491
        assert values["counts"]["duplicate"] == 264
        leaks[by] = values["leakage"]["test_rows_with_copy_in_train"]
        assert any("leaks" in warning for warning in values["warnings"]) == (by != "group")
    assert leaks["group"] == 0
    assert min(leaks["image"], leaks["folder"]) > 30
