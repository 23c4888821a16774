"""Night after night: only what is new is scored, whatever state the last run has left, and the way back is open."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import OutOfTime, TooManyQuarantined
from mri_ray.learn import bundle as bundles
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.on_ray import score
from mri_ray.on_ray.settings import ScoreRun
from mri_ray.predict import generations
from mri_ray.prepare.settings import PrepareConfig

COPIES = ("report.html", "studies.parquet", "patients.parquet", "worklist.parquet", "worklist.csv", "run.json")


def tiny(folder: Path, *, seed: int = 1, size: int = 32) -> Path:
    """A bundle with fresh weights that answers in next to no time."""
    model = ModelConfig(input_size=size, width=2, blocks=3, dense=4)
    found = bundles.Bundle(model=model, prepare=PrepareConfig(size=size), weights=build(model, seed=seed).state_dict())
    bundles.save(found, Location.of(str(folder)))
    return folder


def picture(path: Path, number: int) -> None:
    """A small PNG, another one for each number."""
    noise = np.random.default_rng(number).integers(0, 255, (6, 6), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.resize(noise, (32, 32)))


def run(archive: Path, bundle: Path, output: Path, **settings) -> dict:
    given = {"archive": str(archive), "bundle": str(bundle), "output": str(output)}
    shards = {"objects": 200, "workers": 2}
    return score.run(config.build(ScoreRun, given | {"shards": shards} | settings)).values


def rows(results: str):
    table = pq.read_table(results.removeprefix("file://")).sort_by("row_id")
    return table.drop_columns(["run_id"])  # which run scored a row is all that may differ


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(60):
        picture(folder / f"{number % 3}" / f"{number}.png", number)
    return folder


@pytest.mark.slow
def test_a_night_scores_what_is_new_or_changed_and_says_how_much_that_was(ray_cluster, tmp_path):
    archive = tmp_path / "archive"
    for number in range(3000):
        picture(archive / f"{number % 30:02}" / f"{number}.png", number)
    bundle = tiny(tmp_path / "bundle")
    first = run(archive, bundle, tmp_path / "out")
    assert first["counts"] == {"objects": 3000, "scored": 3000, "quarantined": 0, "duplicate": 0, "skipped": 0}
    before = rows(first["results"])

    for number in range(3000, 3100):
        picture(archive / f"{number % 30:02}" / f"{number}.png", number)
    for number in range(10):
        picture(archive / f"{number:02}" / f"{number}.png", 5000 + number)
    for number in range(10, 15):
        (archive / f"{number:02}" / f"{number}.png").unlink()
    second = run(archive, bundle, tmp_path / "out")
    told = {name: second["this_run"][name] for name in ("objects", "new", "changed", "deleted")}
    assert told == {"objects": 110, "new": 100, "changed": 10, "deleted": 5}
    assert second["counts"] == {"objects": 3095, "scored": 3095, "quarantined": 0, "duplicate": 0, "skipped": 0}

    after = rows(second["results"])
    assert after.num_rows == len(set(after["object_id"].to_pylist())) == 3095
    assert rows(first["results"]).equals(before)  # what was published stays as it was
    of_run = pq.read_table(second["results"].removeprefix("file://"))["run_id"].to_pylist()
    assert of_run.count(second["run_id"]) == 110
    assert of_run.count(first["run_id"]) == 2985
    held = pq.read_table(tmp_path / "out" / "results" / second["generation"], columns=["uri"])["uri"].to_pylist()
    assert len(held) == 3110  # of 15 versions the rows have left the snapshot, and are still here
    assert f"file://{archive}/10/10.png" in held
    assert f"file://{archive}/10/10.png" not in after["uri"].to_pylist()

    fresh = run(archive, bundle, tmp_path / "fresh")
    assert after.equals(rows(fresh["results"]))
    third = run(archive, bundle, tmp_path / "out")
    assert {third["this_run"][name] for name in ("objects", "new", "changed", "deleted")} == {0}
    assert third["results"] == second["results"]


def listings(output: Path) -> list[Path]:
    return sorted(output.glob("manifest/*/listings/*.json"))


def whole_snapshot(output: Path) -> Path:
    return Path(record(output)["results"].removeprefix("file://"))


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def before_the_listing(output: Path) -> None:
    """Shards are written, but no listing names them; nothing is scored."""
    remove(*listings(output), *output.glob("results/*/*.parquet"))
    before_the_snapshot(output)


def while_scoring(output: Path) -> None:
    remove(*sorted(output.glob("results/*/*.parquet"))[1:])
    (next(output.glob("results/*")) / ".mri_ray-partial-0123").write_bytes(b"PAR1, and no more")
    before_the_snapshot(output)


def before_the_snapshot(output: Path) -> None:
    shutil.rmtree(output / "snapshots")
    after_the_snapshot(output)


def in_the_middle_of_the_snapshot(output: Path) -> None:
    place = whole_snapshot(output)
    remove(place / "_counts.json", *sorted(place.glob("part-*"))[1:])
    (place / ".mri_ray-partial-0123").write_bytes(b"PAR1, and no more")
    after_the_snapshot(output)


def after_the_snapshot(output: Path) -> None:
    """No table beside the results is there yet."""
    place = output / "runs" / record(output)["run_id"]
    for path in place.iterdir():
        if path.name != "begun.json":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    remove(*(output / name for name in COPIES))


def before_the_run_is_told_to_be_over(output: Path) -> None:
    remove(output / "runs" / record(output)["run_id"] / "run.json", *(output / name for name in COPIES))


def in_the_middle_of_the_copies(output: Path) -> None:
    remove(output / "run.json", output / "worklist.csv")


MOMENTS: list[Callable[[Path], None]] = [
    before_the_listing,
    while_scoring,
    before_the_snapshot,
    in_the_middle_of_the_snapshot,
    after_the_snapshot,
    before_the_run_is_told_to_be_over,
    in_the_middle_of_the_copies,
]


@pytest.mark.slow
def test_a_rerun_ends_what_was_cut_off_at_any_moment(ray_cluster, pictures, tmp_path):
    """What a kill leaves is made by hand from what a finished run has left: each moment, and none between."""
    bundle, output = tiny(tmp_path / "bundle"), tmp_path / "out"
    shards = {"objects": 20, "workers": 2}
    (pictures / "bad.jpg").write_bytes(b"\xff\xd8\xff but no more")
    shutil.copy(pictures / "0" / "0.png", pictures / "copy.png")
    first = run(pictures, bundle, output, shards=shards)
    expected, counts = rows(first["results"]), first["counts"]
    assert counts == {"objects": 62, "scored": 60, "quarantined": 1, "duplicate": 1, "skipped": 0}
    for harm in MOMENTS:
        harm(output)
        values = run(pictures, bundle, output, shards=shards)
        assert rows(values["results"]).equals(expected), harm.__name__
        assert record(output)["results"] == values["results"], harm.__name__
        assert record(output)["counts"] == counts, harm.__name__
        assert all((output / name).exists() for name in COPIES), harm.__name__


def test_going_back_to_an_earlier_generation_and_forth(ray_cluster, pictures, tmp_path):
    one, two, output = tiny(tmp_path / "one"), tiny(tmp_path / "two", seed=2), tmp_path / "out"
    first = run(pictures, one, output)
    before = {name: (output / name).read_bytes() for name in COPIES}
    second = run(pictures, two, output)
    assert second["generation"] != first["generation"]
    assert {name: second["this_run"][name] for name in ("objects", "new")} == {"objects": 60, "new": 0}
    assert record(output)["results"] == second["results"]
    for name in ("studies", "patients", "worklist"):
        assert second[name] != first[name]
        assert Path(second[name].removeprefix("file://")).read_bytes() == (output / f"{name}.parquet").read_bytes()
    generations.use(Location.of(str(output)), first["generation"][:8])
    assert {name: (output / name).read_bytes() for name in COPIES} == before
    assert set(rows(first["results"])["bundle_digest"].to_pylist()) == {first["bundle_digest"]}
    again = run(pictures, one, output)
    assert again["this_run"]["objects"] == 0
    assert again["results"] == first["results"]


def test_what_ends_early_leaves_the_earlier_results_current(ray_cluster, pictures, tmp_path):
    one, two, output = tiny(tmp_path / "one"), tiny(tmp_path / "two", seed=2), tmp_path / "out"
    few = {"objects": 5, "workers": 1}
    first = run(pictures, one, output, shards=few)
    before = {name: (output / name).read_bytes() for name in COPIES if name != "run.json"}
    with pytest.raises(OutOfTime):
        run(pictures, two, output, shards=few, max_runtime_s=0.001)
    assert record(output)["results"] == first["results"]
    assert {name: (output / name).read_bytes() for name in before} == before
    done, ended = generations.found(Location.of(str(output)))[::-1]
    assert (done.name, done.current, len(done.runs)) == (first["generation"], True, 1)
    assert (ended.current, ended.runs, ended.in_work) == (False, (), False)


def test_a_run_that_cannot_be_believed_removes_nothing(ray_cluster, pictures, tmp_path):
    one, two, output = tiny(tmp_path / "one"), tiny(tmp_path / "two", seed=2), tmp_path / "out"
    first = run(pictures, one, output, keep={"generations": 1})
    (pictures / "bad.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.raises(TooManyQuarantined):
        run(pictures, two, output, keep={"generations": 1}, max_quarantined_fraction=0.0)
    found = generations.found(Location.of(str(output)))
    assert [each.current for each in found] == [True, False]
    generations.use(Location.of(str(output)), first["generation"])
    assert record(output)["results"] == first["results"]
    last = run(pictures, two, output, keep={"generations": 1})
    assert [each.name for each in generations.found(Location.of(str(output)))] == [last["generation"]]
    assert [path.name for path in (output / "snapshots").iterdir()] == [Path(last["results"]).name]


def test_what_decides_an_answer_names_the_generation(ray_cluster, pictures, tmp_path):
    """What changes no answer shares one: how shards are cut, how large a batch is, how long it may take, what stays."""
    bundle = tiny(tmp_path / "bundle")

    def name(bundle: Path = bundle, **settings) -> str:
        given = {"archive": str(pictures), "bundle": str(bundle), "output": str(tmp_path / "out")}
        return score._Scoring(config.build(ScoreRun, given | settings), "").results.name

    same = [{}, {"shards": {"objects": 5}}, {"micro_batch": 2}, {"max_runtime_s": 5}, {"keep": {"runs": 1}}]
    assert len({name(**settings) for settings in same}) == 1
    other = [
        name(),
        name(tiny(tmp_path / "weights", seed=2)),
        name(tiny(tmp_path / "prepare", size=40)),
        name(decode={"min_side": 20}),
        name(precision="bf16"),
        name(engine="torch"),
        name(identifiers="drop"),
        name(identifiers="keep"),
    ]
    assert len(set(other)) == len(other)
