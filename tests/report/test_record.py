"""run.json while a run goes on, fails, is killed or meets another: what was complete stays in sight."""

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError, OutOfTime
from mri_ray.report import record as module
from mri_ray.report.record import Record, figures, last_complete


@dataclass(frozen=True)
class Settings:
    archive: str = "s3://bucket/archive"


def written(output: Location) -> dict:
    return json.loads(output.read("run.json"))


def completed(output: Location, results: str, **more) -> Record:
    record = Record("score", Settings())
    with record.kept(output):
        record.note(results=results, counts={"objects": 3}, **more)
        record.write(output)
    return record


def until(met) -> None:
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_first_run_from_its_start_to_its_end(root):
    record = Record("score", Settings())
    with record.kept(root):
        first = written(root)
        assert (first["state"], first["complete"], first["run_id"]) == ("running", None, record.run_id)
        assert first["progress"]["run_id"] == record.run_id
        assert set(first["progress"]) == {
            *("run_id", "started", "stage", "objects_done", "objects_total", "bytes_done", "bytes_total"),
            *("objects_per_s", "bytes_per_s", "eta_s", "quarantined", "updated"),
        }
        assert last_complete(root) is None
        with record.stage("scoring"):
            record.tell(objects_done=5, objects_total=9)
        record.note(results="here", counts={"objects": 9})
        assert "results" not in written(root)
        record.write(root)
    last = written(root)
    assert last == json.loads(json.dumps(record.values))
    assert (last["state"], last["complete"], last["results"]) == ("done", record.run_id, "here")
    assert (last["progress"]["stage"], last["progress"]["objects_done"]) == ("scoring", 5)


def test_the_last_complete_results_stay_in_sight_while_a_run_goes_on_and_when_it_fails(root):
    night = completed(root, "last night's")
    record = Record("score", Settings("s3://bucket/other"))

    def work() -> None:
        record.note(results="half of it", counts={"objects": 1})
        now = written(root)
        assert (now["state"], now["complete"], now["results"]) == ("running", night.run_id, "last night's")
        assert now["progress"]["run_id"] == record.run_id
        raise OutOfTime("max_runtime_s: 5 of 9 objects are scored and kept")

    with pytest.raises(OutOfTime), record.kept(root):
        work()
    failed = written(root)
    assert failed["state"] == "failed"
    assert failed["error"] == {"kind": "OutOfTime", "text": "max_runtime_s: 5 of 9 objects are scored and kept"}
    assert failed["settings"] == {"archive": "s3://bucket/archive"}
    assert {name: failed[name] for name in ("complete", "results", "counts", "run_id")} == {
        name: night.values[name] for name in ("complete", "results", "counts", "run_id")
    }
    again = completed(root, "tonight's")
    last = written(root)
    assert (last["state"], last["complete"], last["results"]) == ("done", again.run_id, "tonight's")
    assert "error" not in last


def test_a_run_without_any_before_it_leaves_what_it_has_found_when_it_fails(root):
    record = Record("train", Settings())
    record.note(reasons={"damaged.image": 7})
    with pytest.raises(ValueError, match="Jane Doe"), record.kept(root):
        raise ValueError("could not convert 'Jane Doe' to float")
    failed = written(root)
    assert failed["error"] == {"kind": "ValueError", "text": None}  # the text of a library may quote anything
    assert failed["reasons"] == {"damaged.image": 7}
    assert last_complete(root) is None


def test_a_run_that_fails_after_it_was_written_is_failed_with_its_own_results(root):
    completed(root, "last night's")
    record = Record("score", Settings())
    record.note(results="tonight's")

    def work() -> None:
        record.write(root)
        raise ArchiveError("too much of it is bad")

    with pytest.raises(ArchiveError), record.kept(root):
        work()
    failed = written(root)
    assert (failed["state"], failed["complete"], failed["results"]) == ("failed", record.run_id, "tonight's")


def test_it_is_written_again_and_again_until_the_run_is_complete(root, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    record = Record("score", Settings())
    with record.kept(root):
        record.tell(objects_done=41)
        until(lambda: written(root)["progress"]["objects_done"] == 41)
        record.write(root)
        time.sleep(0.2)
        assert written(root)["state"] == "done"
    assert "run.json" not in {thread.name for thread in threading.enumerate()}


def test_one_that_is_completed_while_another_goes_on_is_what_that_one_shows(root, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 2.0)  # long enough for the quick one to be completed before
    completed(root, "last night's")
    slow = Record("score", Settings())
    with slow.kept(root):
        quick = completed(root, "the quick one's")
        until(lambda: written(root)["state"] == "running")
        assert (written(root)["results"], written(root)["complete"]) == ("the quick one's", quick.run_id)
        slow.note(results="the slow one's")
        slow.write(root)
    assert (written(root)["results"], written(root)["complete"]) == ("the slow one's", slow.run_id)


def test_many_runs_at_once_leave_a_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    output = Location.of(str(tmp_path))
    runs = [threading.Thread(target=completed, args=(output, f"run {number}")) for number in range(20)]
    for thread in runs:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in runs):
        if output.exists("run.json"):
            seen.append(written(output)["state"])
    for thread in runs:
        thread.join()
    assert written(output)["results"].startswith("run ")
    assert set(seen) <= {"running", "done"}


def test_an_output_that_cannot_be_written_ends_the_run_before_its_work(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ArchiveError, match=r"run\.json"), Record("score", Settings()).kept(Location.of(str(tmp_path))):
        pytest.fail("the work has begun")


def test_an_output_that_can_be_written_no_more_does_not_hide_why_the_run_failed(tmp_path, caplog):
    output = Location.of(str(tmp_path))

    def work() -> None:
        (tmp_path / "run.json").unlink()
        (tmp_path / "run.json").mkdir()
        raise OutOfTime("it is late")

    with pytest.raises(OutOfTime), Record("score", Settings()).kept(output):
        work()
    assert "run.json could not be written" in caplog.text


def test_values_that_json_does_not_hold_do_not_hide_why_the_run_failed_either(root, caplog):
    record = Record("score", Settings())

    def work() -> None:
        record.note(metrics={"auroc": float("nan")})
        raise OutOfTime("it is late")

    with pytest.raises(OutOfTime), record.kept(root):
        work()
    assert "run.json could not be written" in caplog.text


def test_what_is_no_record_is_replaced_and_one_of_an_earlier_version_counts(root, caplog):
    for nothing in (b"{ no JSON", b"[1]", b"{}", b'{"state": "running"}'):
        root.write("run.json", nothing)
        assert last_complete(root) is None
    assert "is not what a run writes" in caplog.text
    root.write("run.json", json.dumps({"run_id": "old", "results": "of old"}).encode())
    with Record("score", Settings()).kept(root):
        assert written(root)["results"] == "of old"
        assert last_complete(root)["results"] == "of old"


def test_when_it_was_updated_is_told_in_utc(root):
    with Record("score", Settings()).kept(root):
        updated = datetime.fromisoformat(written(root)["progress"]["updated"])
    assert abs((datetime.now(UTC) - updated).total_seconds()) < 60


def test_figures_are_single_numbers():
    this_run = {"objects": 3, "objects_per_s": 1.5, "stages_s": {"fetch": 0.5}, "history": [{"seconds": 0}]}
    assert figures(this_run) == {"objects": 3, "objects_per_s": 1.5, "fetch_s": 0.5}
