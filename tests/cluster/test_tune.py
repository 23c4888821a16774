"""A search on several raylets, one of which is lost."""

import json

import pyarrow.parquet as pq
import pytest

from mri_ray import phantom
from mri_ray.archive.storage import Location

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_two_trials_of_two_workers_each_outlive_a_raylet(nodes, job, s3_prefix):
    root = Location.of(s3_prefix)
    phantom.write(root, phantom.PhantomConfig(patients=12, slices=4, second_study=0, seed=5))
    nodes.add()
    nodes.add()
    output = root / "search"
    given = [f"archive={root}/images", f"labels={root}/labels.csv", f"output={output}", "prepare.size=64"]
    given += ["model.input_size=64", "model.width=2", "model.blocks=4", "model.dense=8", "evaluation.rounds=100"]
    given += ["train.workers=2", "train.epochs=3", "train.batch_size=8", "split.validation=0.25", "split.test=0.25"]
    given += ["search={optimiser.learning_rate: {choice: [1.0e-3, 2.0e-3, 3.0e-3]}}"]
    given += ["tune.trials=3", "tune.concurrent=2", "tune.algorithm=random", "tune.scheduler=none"]

    def begun() -> list[dict]:
        trials = [json.loads(output.read(key)) for key in output.keys("search/") if "/trials/" in key]
        return [one for one in trials if one["history"]]

    run = job("tune", *given)
    run.until(lambda: len(begun()) >= 2)
    nodes.remove(2)
    printed = run.wait()
    assert "up to 2 trials at once, of up to 2 workers" in printed
    filesystem, path = output.arrow()
    rows = pq.read_table(f"{path}/trials.parquet", filesystem=filesystem).to_pylist()
    assert [row["state"] for row in rows] == ["done"] * 3
    assert all(row["epochs"] == 3 for row in rows)
    record = json.loads(output.read("run.json"))
    assert record["state"] == "done"
    assert record["search"]["concurrent"] == 2
