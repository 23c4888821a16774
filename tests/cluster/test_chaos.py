"""A run through everything at once: storage that fails now and then, and processes of every kind that are killed."""

import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mri_ray.archive.storage import Location

pytestmark = pytest.mark.slow


def record(output: Location) -> dict:
    return json.loads(output.read("run.json"))


def snapshot(output: Location) -> pa.Table:
    filesystem, path = Location.of(record(output)["results"]).arrow()
    return pq.read_table(path, filesystem=filesystem).sort_by("row_id").drop_columns("run_id")


def transient(output: Location) -> list[str]:
    return [reason for reason in record(output)["reasons"] if reason.startswith("storage.")]


@pytest.mark.timeout(900)
def test_a_run_through_kills_and_faults_ends_as_an_undisturbed_one(
    nodes, score, proxy, pictures, small_bundle, s3_prefix
):
    root = Location.of(s3_prefix)
    files = pictures(root / "archive", 2000)
    for i, body in enumerate(list(files.values())[::100]):
        (root / "archive").write(f"copies/{i}.png", body)
        (root / "archive").write(f"texts/{i}.png", b"no picture")
    small_bundle(root / "bundle")
    nodes.add()
    nodes.add()
    given = [f"archive={root}/archive", f"bundle={root}/bundle", "shards.objects=40", "precision=fp32"]
    score(*given, f"output={root}/clean").wait()

    faulty = proxy(seed=6, slow_down=0.02, reset=0.01, cut=0.005)
    output = root / "chaos"
    line = [*given, f"output={output}", f"storage.endpoint={faulty.endpoint}"]

    def shards(number: int) -> Callable[[], bool]:
        return lambda: len(output.keys("results/")) >= number

    run = score(*line)
    run.until(shards(2))
    nodes.kill_worker(1, run)
    run.until(shards(8))
    nodes.kill_driver(run)

    run = score(*line)
    run.until(shards(12))
    nodes.kill_raylet(2)
    run.until(shards(16))
    nodes.kill_worker(0, run)
    run.until(shards(20))
    nodes.kill_driver(run)

    run = score(*line)
    run.until(shards(26))
    nodes.kill_worker(1, run)
    run.wait()
    if transient(output):
        score(*line).wait()

    done = faulty.counts()
    print(done)
    assert all(done[kind] for kind in ("slow_down", "reset", "cut")), done
    whole, again = snapshot(root / "clean"), snapshot(output)
    assert again.equals(whole)
    listed = [root.uri_of(f"archive/{key}") for key in (root / "archive").keys()]  # noqa: SIM118
    assert sorted(again["uri"].to_pylist()) == sorted(listed)
    assert transient(output) == []
    counts = {"objects": 2040, "scored": 2000, "quarantined": 20, "duplicate": 20, "skipped": 0}
    assert record(output)["counts"] == record(root / "clean")["counts"] == counts
