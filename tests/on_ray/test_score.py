"""Scoring whole archives: every object in one state, nothing twice, the same answers everywhere."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveNotFound, BundleError, OutOfTime, TooManyQuarantined
from mri_ray.on_ray import score
from mri_ray.on_ray.settings import ScoreRun

SHARDS = {"objects": 25, "workers": 2}


def run(archive, trained: dict, output, **settings) -> dict:
    given = {"archive": str(archive), "bundle": trained["bundle"], "output": str(output), "shards": SHARDS}
    return score.run(config.build(ScoreRun, given | settings)).values


def rows(values: dict):
    location = Location.of(values["results"])
    filesystem, path = location.arrow()
    return pq.read_table(path, filesystem=filesystem).sort_by("row_id")


def same_answers(one, other) -> bool:
    assert one["row_id"].to_pylist() == other["row_id"].to_pylist()
    difference = np.abs(one["probability"].to_numpy() - other["probability"].to_numpy())
    assert np.array_equal(np.isnan(one["probability"].to_numpy()), np.isnan(other["probability"].to_numpy()))
    return bool(np.nanmax(difference) <= 1e-6)


@pytest.fixture
def pictures(archive, tmp_path) -> Path:
    """A copy of the archive that a test may change."""
    folder = tmp_path / "pictures"
    shutil.copytree(archive, folder)
    return folder


def test_the_same_answers_as_in_training_and_their_sides(ray_cluster, archive, trained, tmp_path):
    values = run(archive, trained, tmp_path, labels=f"{archive.parent}/labels.csv")
    assert same_answers(rows(values), rows(trained))
    for side in ("train", "validation", "test"):
        assert values["metrics"][side]["n"] == trained["metrics"][side]["n"]
        for name in ("auroc", "sensitivity", "ece", "groups", "positive_groups"):
            assert values["metrics"][side][name] == pytest.approx(trained["metrics"][side][name], abs=1e-6)
    assert values["subgroups"]["side"] == trained["subgroups"]["side"] == "test"
    sizes = [[(row["name"], row["n"], row["found"]) for row in v["subgroups"]["lesions"]] for v in (values, trained)]
    assert sizes[0] == sizes[1]
    assert sum(n for _, n, _ in sizes[0]) == values["metrics"]["test"]["positives"]
    assert any("were used to train or choose this bundle" in warning for warning in values["warnings"])
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["results"] == values["results"]
    assert "<html" in (tmp_path / "report.html").read_text()


def test_archive_bundle_and_output_on_object_storage(ray_cluster, archive, trained, s3_prefix, tmp_path):
    remote = Location.of(s3_prefix)
    for path in sorted(archive.rglob("*")):
        if path.is_file():
            (remote / "archive").write(str(path.relative_to(archive)), path.read_bytes())
    local_bundle = Path(trained["bundle"].removeprefix("file://"))
    for path in local_bundle.iterdir():
        (remote / "bundle").write(path.name, path.read_bytes())
    values = run(f"{s3_prefix}/archive", trained | {"bundle": f"{s3_prefix}/bundle"}, f"{s3_prefix}/out")
    assert same_answers(rows(values), rows(trained))
    assert json.loads((remote / "out").read("run.json"))["counts"] == trained["counts"]


def test_a_rerun_does_only_what_is_new_or_changed(ray_cluster, archive, trained, pictures, tmp_path):
    names = sorted(path for path in pictures.rglob("*") if path.is_file())
    new = [names.pop(), names.pop()]
    held = [path.read_bytes() for path in new]
    for path in new:
        path.unlink()
    output = tmp_path / "out"
    first = run(pictures, trained, output)
    did = first["this_run"]
    assert did["listed"] == did["objects"] == first["counts"]["objects"] == 118
    assert did["bytes"] == sum(path.stat().st_size for path in names)
    assert set(did["stages_s"]) == {"fetch", "decode", "predict", "write"}
    assert did["history"][-1] | {"seconds": 0} == {
        "seconds": 0,
        **{name: did[name] for name in ("objects", "quarantined", "bytes")},
    }
    assert "seconds that workers predicted" in (output / "report.html").read_text()

    again = run(pictures, trained, output)
    assert again["this_run"] | {"objects_per_s": 0} == {
        "listed": 0,
        "objects": 0,
        "bytes": 0,
        "stages_s": {},
        "history": [{"seconds": 0, "objects": 0, "quarantined": 0, "bytes": 0}],
        "quarantined": 0,
        "peak_mb": 0,
        "shards": 0,
        "shards_there": 5,
        "new": 0,
        "changed": 0,
        "deleted": 0,
        "objects_per_s": 0,
    }
    assert again["results"] == first["results"]

    for path, data in zip(new, held, strict=True):
        path.write_bytes(data)
    names[0].write_bytes(names[1].read_bytes())  # changed, and now a copy of its neighbour
    names[2].unlink()
    last = run(pictures, trained, output)
    assert last["this_run"]["objects"] == 3
    assert {name: last["this_run"][name] for name in ("new", "changed", "deleted")} == {
        "new": 2,
        "changed": 1,
        "deleted": 1,
    }
    assert last["counts"] == {"objects": 119, "scored": 118, "quarantined": 0, "duplicate": 1, "skipped": 0}
    fresh = run(pictures, trained, tmp_path / "fresh")
    assert same_answers(rows(last), rows(fresh))
    assert (
        rows(last).select(["uri", "state", "duplicate_of"]).equals(rows(fresh).select(["uri", "state", "duplicate_of"]))
    )


def test_duplicates_name_the_first_by_uri_and_have_its_answer(ray_cluster, trained, pictures, tmp_path):
    names = sorted(path for path in pictures.rglob("*") if path.is_file())
    shutil.copy(names[5], pictures / f"zz{names[5].suffix}")
    values = run(pictures, trained, tmp_path / "out")
    by_uri = {row["uri"].rpartition("/")[2]: row for row in rows(values).to_pylist()}
    copy, first = by_uri[f"zz{names[5].suffix}"], by_uri[names[5].name]
    assert (copy["state"], copy["duplicate_of"]) == ("duplicate", first["object_id"])
    assert (first["state"], first["duplicate_of"]) == ("scored", None)
    assert copy["probability"] == pytest.approx(first["probability"], abs=1e-6)


def test_too_many_bad_objects_end_the_run_after_all_is_written(ray_cluster, trained, pictures, tmp_path):
    for i in range(20):
        (pictures / f"bad{i}.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.raises(TooManyQuarantined, match=r"at most 0.1 .* 20 of 140"):
        run(pictures, trained, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (written["state"], written["error"]["kind"]) == ("failed", "TooManyQuarantined")
    assert written["complete"] == written["run_id"]
    counts = written["counts"]
    assert counts == {"objects": 140, "scored": 120, "quarantined": 20, "duplicate": 0, "skipped": 0}
    again = run(pictures, trained, tmp_path / "out", max_quarantined_fraction=0.2)
    assert again["this_run"]["objects"] == 0


def test_a_bundle_that_is_none_stops_before_ray(archive, trained, tmp_path):
    with pytest.raises(BundleError, match=r"bundle.json: must be there"):
        run(archive, trained | {"bundle": str(tmp_path / "none")}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_out_of_time_is_gone_on_with(ray_cluster, archive, trained, tmp_path):
    small = {"shards": {"objects": 10, "workers": 1}}
    with pytest.raises(OutOfTime, match=r"max_runtime_s: \d+ of 120 objects are scored and kept; the same line does"):
        run(archive, trained, tmp_path, max_runtime_s=0.001, **small)
    left = json.loads((tmp_path / "run.json").read_text())
    assert (left["state"], left["error"]["kind"]) == ("failed", "OutOfTime")
    assert "results" not in left
    assert 0 < left["progress"]["objects_done"] < left["progress"]["objects_total"] == 120
    done = len(list(tmp_path.glob("results/*/*.parquet")))
    assert 1 <= done < 12
    values = run(archive, trained, tmp_path, **small)
    assert values["this_run"]["shards_there"] >= done
    assert same_answers(rows(values), rows(trained))


def test_a_part_of_an_archive_has_results_of_its_own(ray_cluster, archive, trained, tmp_path):
    some = run(archive, trained, tmp_path, select={"include": ["*.png", "*.jpg"], "limit": 30})
    assert some["counts"]["objects"] == 30
    whole = run(archive, trained, tmp_path)
    assert whole["counts"]["objects"] == 120
    assert whole["this_run"]["deleted"] == 0
    again = run(archive, trained, tmp_path, select={"include": ["*.png", "*.jpg"], "limit": 30})
    assert again["this_run"]["objects"] == 0
    assert again["counts"] == some["counts"]
    with pytest.raises(ArchiveNotFound, match="that `select` leaves"):
        run(archive, trained, tmp_path, select={"include": ["nothing"]})


def test_the_report_shows_folders_copies_reasons_and_pictures(ray_cluster, trained, pictures, tmp_path, monkeypatch):
    names = sorted(path for path in pictures.rglob("*") if path.is_file())
    shutil.copy(names[5], pictures / f"zz{names[5].suffix}")
    (pictures / "bad").mkdir()
    for i in range(5):
        (pictures / "bad" / f"{i}.jpg").write_bytes(b"\xff\xd8\xff but no more")
    values = run(pictures, trained, tmp_path / "out")
    told = values["prefixes"]
    assert {name: told["whole"][name] for name in values["counts"]} == values["counts"]
    every = [*told["folders"], *([told["others"]] if told["others"] else [])]
    for name, number in values["counts"].items():
        assert sum(row[name] for row in every) == number
    (bad,) = (row for row in told["folders"] if row["folder"] == "bad")
    assert (bad["objects"], bad["quarantined"], bad["mean_probability"]) == (5, 5, None)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["prefixes"] == told

    page = (tmp_path / "out" / "report.html").read_text()
    assert "<dt>slices: positive</dt>" in page
    assert [f"bad/{i}.jpg" in page for i in range(5)] == [True] * 3 + [False] * 2
    assert page.count("<figcaption>copy<br>") == page.count("<figcaption>original<br>") == 1
    assert f"zz{names[5].suffix}" in page
    assert "cannot be believed" not in page

    monkeypatch.setattr("mri_ray.on_ray.labelled._SHOWN_BYTES", 3 * max(path.stat().st_size for path in names))
    run(pictures, trained, tmp_path / "out")
    fewer = (tmp_path / "out" / "report.html").read_text()
    assert 3 <= fewer.count("<img") < page.count("<img")  # those named first, and of the same objects again


def test_last_nights_results_are_in_sight_while_a_rerun_goes_on(ray_cluster, archive, trained, pictures, tmp_path):
    output = tmp_path / "out"
    first = run(pictures, trained, output)
    shutil.copytree(pictures, pictures / "more")
    seen: list[dict] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            seen.append(json.loads((output / "run.json").read_text()))

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr("mri_ray.report.record.BEAT_S", 0.05)
        watching = pool.submit(watch)
        try:
            last = run(pictures, trained, output, shards={"objects": 10, "workers": 1})
        finally:
            ended.set()
        watching.result()
    going = [one for one in seen if one["state"] == "running"]
    assert {one["results"] for one in going} == {first["results"]}
    assert {one["complete"] for one in going} == {first["run_id"]}
    assert {one["counts"]["objects"] for one in going} == {120}
    assert {one["progress"]["stage"] for one in going} >= {"listing", "scoring"}
    done = [one["progress"]["objects_done"] or 0 for one in going if one["progress"]["run_id"] == last["run_id"]]
    assert done == sorted(done)
    assert any(0 < number < 120 for number in done)
    now = json.loads((output / "run.json").read_text())
    assert (now["state"], now["counts"]["objects"], now["complete"]) == ("done", 240, last["run_id"])


def test_a_dry_run_plans_what_a_run_then_does_and_writes_nothing(ray_cluster, archive, trained, pictures, tmp_path):
    output, linkage = tmp_path / "out", tmp_path / "linkage"
    given = {"uris": "pseudonym", "linkage": str(linkage), "identifiers": "drop"}

    def everything() -> dict[str, tuple[int, int]]:
        found = {str(path): path.lstat() for path in tmp_path.rglob("*")}
        return {path: (stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found.items()}

    def planned() -> dict:
        before = everything()
        plan = run(pictures, trained, output, dry_run=True, **given)["plan"]
        assert everything() == before
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRI_RAY_SITE_KEY", "k" * 32)
        first = planned()
        assert not output.exists()
        assert not linkage.exists()
        assert (first["new"], first["known"], first["shards"], first["eta_s"]) == (120, 0, 5, None)
        names = sorted(path for path in pictures.rglob("*") if path.is_file())
        lost = names[7].read_bytes()
        names[7].unlink()
        names[7].symlink_to(tmp_path / "nowhere")  # listed, and cannot be read
        values = run(pictures, trained, output, **given)
        assert values["reasons"] == {"storage.missing": 1}
        assert values["this_run"]["listed"] == first["objects"] == 120

        names[0].write_bytes(names[1].read_bytes() + b" ")  # changed
        names[2].unlink()
        (pictures / "new.png").write_bytes(lost)
        then = planned()
        assert {name: then[name] for name in ("listed", "new", "known", "gone", "again", "objects", "shards")} == {
            "listed": 120,
            "new": 2,
            "known": 118,
            "gone": 2,
            "again": 1,
            "objects": 3,
            "shards": 2,
        }
        assert then["measured_on"] == 120
        assert then["eta_s"] == pytest.approx(3 / then["objects_per_s"], abs=0.1)
        did = run(pictures, trained, output, **given)["this_run"]
        assert (did["new"], did["changed"], did["deleted"]) == (1, 1, 1)
        assert [did[name] for name in ("listed", "bytes", "shards")] == [
            then[name] for name in ("objects", "bytes", "shards")
        ]
        assert planned()["again"] == 1
