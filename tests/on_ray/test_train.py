"""A small training on phantoms, from the archive to the bundle."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveNotFound, ConfigError, LabelError, TooManyQuarantined, TrainingFailed
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import audit, train
from mri_ray.on_ray.settings import AuditRun, TrainRun


def table(uri: str):
    return pq.read_table(uri.removeprefix("file://"))


def test_run_json_tells_what_others_rely_on(trained):
    output = Path(trained["bundle"].removeprefix("file://")).parent
    written = json.loads((output / "run.json").read_text())
    assert written == json.loads(json.dumps(trained))
    counts = dict(written["counts"])
    assert counts.pop("objects") == sum(counts.values()) == 120
    assert written["reasons"] == {}
    assert len(written["history"]) == 2
    assert set(written["metrics"]) == {"train", "validation", "test"}
    assert sum(side["n"] for side in written["metrics"].values()) == 120
    assert "<html" in (output / "report.html").read_text()
    assert not list((output / "checkpoints").rglob("*.safetensors"))  # the bundle holds what is worth keeping


def test_the_bundle_is_that_of_the_results(trained):
    bundle = bundles.load(Location.of(trained["bundle"]))
    results = table(trained["results"])
    assert set(results["bundle_digest"].to_pylist()) == {bundle.digest} == {trained["bundle_digest"]}
    assert bundle.metrics == trained["metrics"]
    assert bundle.training["counts"] == trained["split"]
    assert 0 < bundle.reference["rows"] <= trained["split"]["validation"]["rows"]
    assert set(bundle.reference["numbers"]) == {"probability", "level"}


def test_the_best_epoch_is_kept_and_its_figures_are_those_of_the_results(trained):
    best = trained["history"][trained["best_epoch"] - 1]
    validation = trained["metrics"]["validation"]["uncalibrated"]
    # While it trains on a processor with bf16 the dense layers compute in bf16 too; the predictor's do in float64.
    assert validation["loss"] == pytest.approx(best["validation_loss"], abs=1e-3)
    assert validation["accuracy"] == pytest.approx(best["validation_accuracy"])


def test_one_worker_and_two_learn_from_the_same_rows_and_a_cache_is_used(
    ray_cluster, small, archive, trained, tmp_path, caplog
):
    shutil.copytree(
        Path(trained["bundle"].removeprefix("file://")).parent / "prepared", tmp_path / "cache" / "prepared"
    )
    settings = config.build(
        TrainRun,
        small
        | {
            "archive": str(archive),
            "labels": f"{archive.parent}/labels.csv",
            "output": str(tmp_path / "out"),
            "cache": str(tmp_path / "cache"),
            "train": small["train"] | {"workers": 1, "epochs": 1},
        },
    )
    with caplog.at_level("INFO", logger="mri_ray"):
        values = train.run(settings).values
    assert values["split"] == trained["split"]
    assert "prepared" not in "".join(record.message for record in caplog.records if "objects/s" in record.message)


def test_no_labels_and_too_many_bad_objects_are_refused_before_training(ray_cluster, small, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    given = small | {"archive": str(folder), "output": str(tmp_path / "out")}
    with pytest.raises(ArchiveNotFound, match="at least one object"):
        train.run(config.build(TrainRun, given))
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(TooManyQuarantined, match=r"1 of 1; unknown.format: 1"):
        train.run(config.build(TrainRun, given))
    with pytest.raises(LabelError):
        train.run(config.build(TrainRun, given | {"max_quarantined_fraction": 1.0}))


def test_a_split_that_leaks_says_so(ray_cluster, small, archive, tmp_path):
    settings = config.build(
        TrainRun,
        small
        | {
            "archive": str(archive),
            "labels": f"{archive.parent}/labels.csv",
            "output": str(tmp_path),
            "split": {"by": "image"},
            "train": small["train"] | {"epochs": 1, "workers": 1},
        },
    )
    values = train.run(settings).values
    assert values["leakage"]["crossing"] > 0
    assert any("leaks" in warning for warning in values["warnings"])
    assert np.isfinite(values["metrics"]["validation"]["loss"])


def given(small, archive, labels, output, **changes) -> TrainRun:
    values = {"archive": str(archive), "labels": str(labels), "output": str(output)}
    return config.build(TrainRun, small | values | {"train": small["train"] | {"epochs": 1, "workers": 1}} | changes)


@pytest.mark.slow
def test_labels_of_the_test_side_change_its_figures_and_nothing_else(ray_cluster, small, archive, tmp_path):
    """The other way round too: what is trained beside a bundle does not change it."""
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    shutil.copy(archive.parent / "labels.csv", before)
    first = train.run(given(small, archive, before, tmp_path / "first")).values
    seen = pq.read_table(first["results"].removeprefix("file://")).to_pylist()
    sides = pq.read_table(f"{first['bundle'].removeprefix('file://')}/sides.parquet").to_pylist()
    tested = {row["pixel_digest"] for row in sides if row["side"] == 2}
    paths = {row["uri"].removeprefix(f"file://{archive}/") for row in seen if row["pixel_digest"] in tested}
    assert len(paths) == first["split"]["test"]["rows"] > 0

    rows = list(csv.DictReader(before.read_text().splitlines()))
    for row in rows:
        if row["path"] in paths:
            row["label"] = {"tumor": "normal", "normal": "tumor"}[row["label"]]
    with after.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    beside = {"evaluation": {"naive": True}, "split": small.get("split", {}) | {"folds": 2}}
    second = train.run(given(small, archive, after, tmp_path / "second", **beside)).values

    one, other = (bundles.load(Location.of(values["bundle"])) for values in (first, second))
    assert one.digest == other.digest
    assert (one.operating, one.proofs) == (other.operating, other.proofs)
    figures = [dict(bundle.metrics) for bundle in (one, other)]
    assert figures[0].pop("test") != figures[1].pop("test")
    assert figures[0] == figures[1]

    folds, naive = second["held_out"]
    assert folds["kind"] == "folds"
    assert [part["fault"] for part in folds["parts"]] == [None, None]
    rows = sum(side["rows"] for side in second["split"].values())
    assert sum(part["test"]["n"] for part in folds["parts"]) == folds["pooled"]["n"] == rows
    assert naive["kind"] == "naive, leaky"
    assert naive["parts"][0]["leakage"]["crossing"] > 0
    assert naive["parts"][0]["validation"]["n"] > 0
    assert not list((tmp_path / "second" / "checkpoints").rglob("*.safetensors"))
    card = Path(second["bundle"].removeprefix("file://")) / "model_card.md"
    assert "naive, leaky" in card.read_text()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_batch(ray_cluster, small, archive, trained, tmp_path):
    settings = given(
        *(small, archive, archive.parent / "labels.csv", tmp_path),
        cache=str(Path(trained["bundle"].removeprefix("file://")).parent),
        optimiser={"learning_rate": 1e30, "warmup_epochs": 0},
    )
    settings = replace(settings, train=replace(settings.train, max_failures=0))
    with pytest.raises(
        TrainingFailed, match=r"loss: must stay finite, got nan in epoch 1, step \d+; .* 16 rows: "
    ) as told:
        train.run(settings)
    named = str(told.value).rpartition("rows: ")[2].split(", ")
    assert set(named) <= set(table(trained["results"])["row_id"].to_pylist())
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"


@pytest.mark.slow
def test_each_of_two_archives_is_tested_by_what_was_learned_from_the_other(ray_cluster, small, archive, tmp_path):
    sides = labels_apart(archive, tmp_path)
    settings = config.build(
        TrainRun,
        small
        | {
            "archive": [str(archive / side) for side in sides],
            "labels": [str(tmp_path / f"{side}.csv") for side in sides],
        }
        | {"output": str(tmp_path / "out"), "train": small["train"] | {"epochs": 1, "workers": 1}}
        | {"split": small.get("split", {}) | {"by_source": True}},
    )
    values = train.run(settings).values
    (kind,) = values["held_out"]
    assert kind["kind"] == "sources"
    assert [part["fault"] for part in kind["parts"]] == [None, None]
    assert [part["name"].partition(",")[0] for part in kind["parts"]] == list(sides)
    assert sum(part["test"]["n"] for part in kind["parts"]) == sum(side["rows"] for side in values["split"].values())


def labels_apart(archive: Path, folder: Path) -> tuple[str, ...]:
    """The archive's two folders, for each of which the labels file in `folder` holds its own part."""
    lines = (archive.parent / "labels.csv").read_text().splitlines()
    for side in ("Training", "Testing"):
        own = [line.removeprefix(f"{side}/") for line in lines[1:] if line.startswith(side)]
        (folder / f"{side}.csv").write_text("\n".join([lines[0], *own]))
    return "Training", "Testing"


@pytest.mark.slow
def test_a_patient_in_two_labels_files_is_one_and_told(ray_cluster, small, archive, tmp_path):
    labels_apart(archive, tmp_path)
    patients = {row["patient_id"] for row in csv.DictReader((tmp_path / "Testing.csv").read_text().splitlines())}
    first = next(csv.DictReader((tmp_path / "Training.csv").read_text().splitlines()))["patient_id"]
    both = (tmp_path / "Testing.csv").read_text().replace(min(patients), first)
    (tmp_path / "Testing.csv").write_text(both)
    settings = config.build(
        AuditRun,
        {name: small[name] for name in ("seed", "prepare", "shards")}
        | {"archive": [str(archive / side) for side in ("Training", "Testing")], "output": str(tmp_path / "out")}
        | {"labels": [str(tmp_path / f"{side}.csv") for side in ("Training", "Testing")]},
    )
    values = audit.run(settings).values
    assert any(text.startswith("1 patients stand in the labels of several archives") for text in values["warnings"])


@pytest.mark.slow
def test_masks_are_learned_from_and_lesions_are_measured(ray_cluster, small, archive, masks, trained, tmp_path):
    settings = config.build(
        TrainRun,
        small
        | {
            "archive": str(archive),
            "labels": f"{archive.parent}/labels.csv",
            "masks": str(masks),
            "output": str(tmp_path),
            "cache": str(Path(trained["bundle"].removeprefix("file://")).parent),
            "model": small["model"] | {"masks": True, "mirrors": True},
            "optimiser": {"average": 0.9, "mixup": 0.1, "schedule": "one-cycle"},
            "train": small["train"] | {"balance": "sampling", "accumulate": 2},
            "augment": {"gamma": 0.3, "noise": 0.05},
        },
    )
    values = train.run(settings).values
    warnings = "\n".join(values["warnings"])
    assert "1 masks are of no labelled slice" in warnings
    assert "2 tumor slices have no mask" in warnings
    assert "1 masks are of another size" in warnings
    assert all(line["train_mask_loss"] > 0 and 0 <= line["validation_dice"] <= 1 for line in values["history"])
    bundle = bundles.load(Location.of(values["bundle"]))
    assert bundle.model.masks
    assert bundle.model.mirrors
    results = table(values["results"])
    assert results["lesion_px"].null_count == 0
    assert results["lesion_mm2"].null_count == results.num_rows  # a PNG tells no spacing
    assert trained["split"] == values["split"]
    for figures in values["lesions"].values():
        assert 0 <= figures["dice_lowest"] <= figures["dice"] <= 1
        assert 0 <= figures["pointing"] <= 1
    assert set(values["lesions"]) <= {"validation", "test"}
    assert "heat map of" in (tmp_path / "report.html").read_text()


def test_masks_of_other_names_are_refused(ray_cluster, small, archive, trained, tmp_path):
    given = small | {"archive": str(archive), "labels": f"{archive.parent}/labels.csv", "output": str(tmp_path / "out")}
    given |= {"cache": str(Path(trained["bundle"].removeprefix("file://")).parent)}
    (tmp_path / "masks").mkdir()
    with pytest.raises(LabelError, match="masks: must hold at least one object"):
        train.run(config.build(TrainRun, given | {"masks": str(tmp_path / "masks")}))
    Image.new("1", (9, 9)).save(tmp_path / "masks" / "other.png")
    with pytest.raises(LabelError, match=r"masks: at least one must be that of a tumor slice, got 0 of 120"):
        train.run(config.build(TrainRun, given | {"masks": str(tmp_path / "masks")}))


def test_a_mask_head_without_masks_is_refused(small, tmp_path):
    given = small | {
        "archive": str(tmp_path / "archive"),
        "output": str(tmp_path / "out"),
        "model": small["model"] | {"masks": True},
    }
    with pytest.raises(ConfigError, match=r"model\.masks: a mask head needs masks"):
        config.build(TrainRun, given)


@pytest.mark.slow
def test_several_archives_are_learned_from_as_one(ray_cluster, small, archive, masks, tmp_path):
    """The phantoms' first side with masks, the second, elsewhere, without; their labels in two files."""
    text = (archive.parent / "labels.csv").read_text().splitlines()
    for side in ("Training", "Testing"):
        shutil.copytree(archive / side, tmp_path / side)
        own = [line.removeprefix(f"{side}/") for line in text[1:] if line.startswith(side)]
        (tmp_path / f"{side}.csv").write_text("\n".join([text[0], *own]))
    settings = config.build(
        TrainRun,
        small
        | {
            "archive": [str(tmp_path / "Training"), str(tmp_path / "Testing")],
            "labels": [str(tmp_path / "Training.csv"), str(tmp_path / "Testing.csv")],
            "masks": [str(masks / "Training"), None],
            "output": str(tmp_path / "out"),
            "model": small["model"] | {"masks": True},
            "train": small["train"] | {"epochs": 1, "workers": 1, "balance": "sampling"},
        },
    )
    values = train.run(settings).values
    assert values["counts"]["objects"] == sum(side["n"] for side in values["metrics"].values()) == 120
    uris = table(values["results"])["uri"].to_pylist()
    assert {uri.split("/")[-3] for uri in uris} == {"Training", "Testing"}
    assert "validation" in values["lesions"] or "test" in values["lesions"]
    bundle = bundles.load(Location.of(values["bundle"]))
    assert bundle.training["archive"].count("file://") == 2
