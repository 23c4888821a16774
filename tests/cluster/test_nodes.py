"""Nodes that come and go during a run: work goes to those that there are."""

import json

import pytest

from mri_ray.archive.storage import Location

pytestmark = pytest.mark.slow


@pytest.fixture
def laid_out(pictures, small_bundle, s3_prefix):
    """Makes an archive of so many pictures, and gives what a scoring is told, and where its output goes."""

    def make(count: int) -> tuple[list[str], Location]:
        root = Location.of(s3_prefix)
        pictures(root / "archive", count)
        small_bundle(root / "bundle")
        return [f"archive={root}/archive", f"bundle={root}/bundle", f"output={root}/out"], root / "out"

    return make


def test_work_follows_the_cluster(nodes, score, laid_out):
    line, output = laid_out(1500)
    run = score(*line, "shards.objects=5")
    run.until(lambda: output.keys("results/"))
    nodes.add()
    run.until(lambda: nodes.workers(1))
    before = len(output.keys("results/"))
    run.until(lambda: len(output.keys("results/")) > before + 4 and nodes.workers(1))
    nodes.remove(1)
    printed = run.wait()
    assert "objects that did it" not in printed, "no object is to blame for a node that leaves"
    told = json.loads(output.read("run.json"))
    assert told["counts"] == {"objects": 1500, "scored": 1500, "quarantined": 0, "duplicate": 0, "skipped": 0}
    assert told["this_run"]["shards"] == 300


def test_gpus_that_are_to_come_are_waited_for(nodes, score, laid_out):
    """As on a cluster that starts from zero: what asks for no GPU gets none."""
    line, output = laid_out(200)
    run = score(*line, "shards.objects=50", "ray.gpus=1")
    run.until(lambda: "scoring 4 shards" in run.printed)
    assert not nodes.workers()
    nodes.add(num_gpus=1)  # for Ray's sums only
    run.until(lambda: nodes.workers(1) or output.keys("results/"))
    assert not nodes.workers(0), "the node without GPU decodes, and does not score"
    run.wait()
    told = json.loads(output.read("run.json"))
    assert told["counts"] == {"objects": 200, "scored": 200, "quarantined": 0, "duplicate": 0, "skipped": 0}
