"""Scorings that are killed again and again, or run at once: the same table as that of one nobody disturbed.

They join one Ray, so that what a killed driver had under way there may go on while the next one is at work.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def without_progress(values: dict) -> dict:
    """Without what a run says that is still going on, or has let another's results stand."""
    return {name: value for name, value in values.items() if name not in ("state", "progress")}


def rows(output: Path):
    table = pq.read_table(record(output)["results"].removeprefix("file://")).sort_by("row_id")
    return table.drop_columns(["run_id"])  # which run scored a row is all that may differ


@pytest.fixture(scope="module")
def given(head, phantoms, bundle) -> list[str]:
    return [f"archive={phantoms}", f"bundle={bundle}", "shards.objects=5", f"ray.address={head.address}"]


@pytest.fixture(scope="module")
def undisturbed(more_jobs, given, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    code, printed = more_jobs.run("score", *given, f"output={output}")
    assert code == 0, printed
    return output


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "listing": lambda output: any(output.glob("manifest/*/shards/*.parquet")),
    "scoring": lambda output: len([*output.glob("results/*/*.parquet")]) >= 10,
    "the snapshot": lambda output: any(output.glob("snapshots/*/part-*")),
    "joining studies": lambda output: any(output.glob("snapshots/*/_counts.json")),
    "publishing": lambda output: any(output.glob("runs/*/report.html")),
}


@pytest.mark.timeout(600)
def test_killed_at_every_stage_in_turn(jobs, given, undisturbed, tmp_path):
    output = tmp_path / "out"
    for name, has_come in MOMENTS.items():
        process = jobs.start("score", *given, f"output={output}")
        end = time.monotonic() + 200
        while not has_come(output):
            assert time.monotonic() < end, name
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.002)
        jobs.kill(process)
        if name != "publishing":  # that takes milliseconds: either end of them is right
            assert record(output)["complete"] is None, name
    code, printed = jobs.run("score", *given, f"output={output}")
    assert code == 0, printed
    assert rows(output).equals(rows(undisturbed))
    assert record(output)["counts"] == record(undisturbed)["counts"]
    assert len([*output.glob("results/*/*.parquet")]) == len([*undisturbed.glob("results/*/*.parquet")])


def test_two_at_once_end_with_the_one_table(jobs, given, undisturbed, tmp_path):
    output = tmp_path / "out"
    both = [jobs.start("score", *given, f"output={output}") for _ in range(2)]
    for process in both:
        printed, _ = process.communicate(timeout=280)
        assert process.returncode == 0, printed
    assert rows(output).equals(rows(undisturbed))
    finished = [json.loads(path.read_text()) for path in output.glob("runs/*/run.json")]
    assert len(finished) == 2
    assert without_progress(record(output)) in map(without_progress, finished)
    assert {each["results"] for each in finished} == {record(output)["results"]}
    assert len([*output.glob("results/*/*.parquet")]) == len([*undisturbed.glob("results/*/*.parquet")])
    assert not [*output.rglob(".mri_ray-partial-*")]
