"""Runs below an output: which is current, which may be at work, and whose files lie under the output."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from mri_ray.archive import runs
from mri_ray.archive.storage import Location

ONE, OTHER = "1" * 32, "2" * 32


def finish(output: Location, run_id: str, *, generation: str = ONE, listing: int = 1, manifest: str = "m") -> None:
    with runs.begun(output, run_id, generation) as begun:
        begun.note(results=f"{output.uri}/snapshots/{listing}")
        folder = runs.place(output, run_id)
        folder.write("report.html", run_id.encode())
        folder.write("series/series-00000.parquet", b"not copied")
        results = f"{output.uri}/snapshots/{listing}"
        record = {"run_id": run_id, "results": results, "manifest": manifest, "listing": listing}
        folder.write(runs.RECORD, json.dumps(record).encode())


def now(output: Location) -> str | None:
    run = runs.current(output, runs.read(output))
    return run and run.run_id


def test_what_is_published_lies_under_the_output(root):
    assert runs.read(root) == []
    assert now(root) is None
    finish(root, "a")
    assert now(root) is None  # it has finished, but is not current yet
    assert runs.publish(root, "a")
    assert now(root) == "a"
    assert root.read("report.html") == b"a"
    assert sorted(key for key in root.keys() if "/" not in key) == ["report.html", "run.json"]  # noqa: SIM118
    finish(root, "b", listing=2)
    assert runs.publish(root, "b")
    assert (now(root), root.read("report.html")) == ("b", b"b")
    assert [run.run_id for run in runs.read(root)] == ["b", "a"]
    runs.point(root, "a")
    assert (now(root), root.read("report.html")) == ("a", b"a")


def test_who_looked_earlier_does_not_replace_who_looked_later(root):
    finish(root, "early", listing=1)
    finish(root, "late", listing=2)
    finish(root, "elsewhere", listing=1, manifest="of a part of the archive")
    finish(root, "better", listing=1, generation=OTHER)
    assert runs.publish(root, "late")
    assert not runs.publish(root, "early")
    assert (now(root), root.read("report.html")) == ("late", b"late")
    for run_id in ("elsewhere", "late", "better", "late"):
        assert runs.publish(root, run_id)
        assert now(root) == run_id


def test_a_record_written_while_the_next_run_goes_on_still_names_the_current_run(root):
    finish(root, "a")
    runs.publish(root, "a")
    told = json.loads(root.read(runs.RECORD)) | {"run_id": "b", "state": "running"}
    root.write(runs.RECORD, json.dumps(told).encode())
    assert now(root) == "a"


def test_a_run_that_broke_off_is_not_at_work_and_a_killed_one_not_for_ever(root):
    def breaks() -> None:
        with runs.begun(root, "broken", ONE):
            assert [run.may_work for run in runs.read(root)] == [True]
            raise KeyError

    with pytest.raises(KeyError):
        breaks()
    (broken,) = runs.read(root)
    assert broken.ended
    assert not broken.may_work
    finish(root, "finished")
    for run_id, hours in (("killed", 20), ("forgotten", 30)):
        heard = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        note = {"generation": ONE, "results": None, "ended": False, "since": heard, "heard": heard}
        runs.place(root, run_id).write(runs.BEGUN, json.dumps(note).encode())
    assert {run.run_id for run in runs.read(root) if run.may_work} == {"killed"}


def test_a_long_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_PULSE_S", 0.02)
    root = Location.of(str(tmp_path))
    with runs.begun(root, "long", ONE):
        (first,) = runs.read(root)
        while (heard := runs.read(root)[0].heard) == first.heard:  # the test's own time limit ends a silent one
            pass
        assert heard > first.heard
        assert runs.read(root)[0].since == first.since
