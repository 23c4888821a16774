"""Trainings whose worker, driver and node are killed: they end as one that nobody disturbed, epoch for epoch."""

import json
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from mri_ray import phantom
from mri_ray.archive.storage import Location

pytestmark = pytest.mark.slow

EPOCHS = 12
TIMED = {"images_per_s", "waiting", "seconds"}  # of an epoch: all that may differ


def record(output: Location) -> dict:
    return json.loads(output.read("run.json"))


def history(output: Location) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMED} for line in record(output)["history"]]


def logits(output: Location) -> dict[str, float]:
    filesystem, path = Location.of(record(output)["results"]).arrow()
    table = pq.read_table(path, filesystem=filesystem, columns=["row_id", "logit"])
    return dict(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


@pytest.mark.timeout(1800)
def test_a_training_through_kills_ends_as_an_undisturbed_one(nodes, job, s3_prefix):
    root = Location.of(s3_prefix)
    phantom.write(root, phantom.PhantomConfig(patients=16, slices=6, second_study=0, seed=5))
    given = [f"archive={root}/images", f"labels={root}/labels.csv", f"cache={root}/cache", "seed=3"]
    given += ["prepare.size=64", "model.input_size=64", "model.width=4", "model.blocks=4", "model.dropout=0.2"]
    given += [f"train.epochs={EPOCHS}", "train.patience=null", "train.workers=2", "train.batch_size=16"]
    given += ["optimiser.average=0.9", "optimiser.mixup=0.1", "train.balance=sampling", "evaluation.rounds=100"]
    nodes.add()
    nodes.add()
    clean, broken = root / "clean", root / "broken"
    job("train", *given, f"output={clean}").wait()

    def epochs(number: int) -> Callable[[], bool]:
        return lambda: len(broken.keys("tensorboard/")) >= number

    run = job("train", *given, f"output={broken}")
    run.until(epochs(3))
    nodes.kill_worker(next(number for number in (1, 2) if nodes.workers(number, "train")), run)
    run.until(lambda: "going on after epoch" in run.printed)
    run.until(epochs(6))
    nodes.kill_driver(run)

    run = job("train", *given, f"output={broken}")
    run.until(lambda: "going on after epoch" in run.printed)
    run.until(epochs(8))
    nodes.kill_raylet(next(number for number in (1, 2) if nodes.workers(number, "train")))
    assert run.wait().count("going on after epoch") == 2

    assert [line["epoch"] for line in record(broken)["history"]] == [*range(1, EPOCHS + 1)]
    assert history(broken) == history(clean)
    assert len(broken.keys("tensorboard/")) == EPOCHS
    assert record(broken)["bundle_digest"] == record(clean)["bundle_digest"]
    assert record(broken)["metrics"] == record(clean)["metrics"]
    assert logits(broken) == logits(clean)
