"""What a scoring tells Prometheus, as Prometheus would ask for it: over HTTP, from the node's own port."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mri_ray.archive.storage import Location
from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.prepare.settings import PrepareConfig

# A Ray of its own, so that what is asked for adds up to this run's; it reports every second instead of every ten.
SCRIPT = """
import json, re, sys, time, urllib.request
from collections import defaultdict
import ray
from mri_ray import config
from mri_ray.on_ray import cluster, prepare, score
from mri_ray.on_ray.settings import ClusterSettings, PrepareRun, ScoreRun

archive, bundle, output, folder = sys.argv[1:]
shared = {"archive": archive, "shards": {"objects": 50, "workers": 2}}
KEPT = ("job", "state", "stage", "le")
LINE = re.compile(r"ray_(mri_ray_\\w+)\\{(.*)\\} (\\S+)")

def told():
    (node,) = ray.nodes()
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    sums = defaultdict(float)
    for name, tags, value in LINE.findall(urllib.request.urlopen(page, timeout=30).read().decode()):
        kept = [f'{key}={text}' for key, text in re.findall(r'(\\w+)="([^"]*)"', tags) if key in KEPT]
        sums[" ".join([name, *sorted(kept)])] += float(value)
    return sums

with cluster.connected(ClusterSettings(cpus=2, object_store_mb=100, temp_dir=folder)):
    prepared = prepare.run(config.build(PrepareRun, shared | {"output": output + "/prepared"})).values
    scored = score.run(config.build(ScoreRun, shared | {"bundle": bundle, "output": output + "/scored"})).values
    end = time.monotonic() + 90
    while True:
        found = told()
        objects = [sum(v for k, v in found.items() if k.startswith(f"mri_ray_objects_total job={job} "))
                   for job in ("prepare", "score")]
        if objects == [prepared["counts"]["objects"], scored["counts"]["objects"]] or time.monotonic() > end:
            break
        time.sleep(1)
    time.sleep(3)  # what was added last may come a report later
    print(json.dumps({"found": told(), "prepared": prepared, "scored": scored}))
"""


@pytest.mark.slow
def test_what_is_told_adds_up(archive, tmp_path):
    model = ModelConfig(input_size=64, width=4, blocks=4)
    fresh = Bundle(model=model, prepare=PrepareConfig(size=64), weights=build(model, seed=1).state_dict())
    bundles.save(fresh, Location.of(str(tmp_path / "bundle")))
    (archive_too := tmp_path / "archive").mkdir()
    for path in sorted(archive.rglob("*")):
        if path.is_file():
            (archive_too / path.name).write_bytes(path.read_bytes())
    for number in range(7):
        (archive_too / f"bad{number}.png").write_bytes(b"no picture")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, archive_too, tmp_path / "bundle", tmp_path, folder],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = told["found"]
    size = sum(path.stat().st_size for path in archive_too.iterdir())
    for job, values in {"prepare": told["prepared"], "score": told["scored"]}.items():
        assert values["counts"]["objects"] == 127
        assert found[f"mri_ray_objects_total job={job} state=scored"] == 120
        assert found[f"mri_ray_objects_total job={job} state=quarantined"] == 7
        assert found[f"mri_ray_bytes_total job={job}"] == values["this_run"]["bytes"] == size
        for stage in ("fetch", "decode", "write"):
            seconds = found[f"mri_ray_stage_seconds_total job={job} stage={stage}"]
            assert seconds == pytest.approx(values["this_run"]["stages_s"][stage], abs=0.01)
            assert seconds > 0
    assert told["scored"]["this_run"]["stages_s"]["predict"] > 0
    assert "mri_ray_stage_seconds_total job=prepare stage=predict" not in found
    # Shards of 50, 50 and 27 objects, of which 7 hold no picture, in batches of 8 pictures on a CPU.
    assert found["mri_ray_batch_fill_count job=score"] == pytest.approx(120 / 8, abs=3)
    assert found["mri_ray_batch_fill_bucket job=score le=+Inf"] == found["mri_ray_batch_fill_count job=score"]
    assert 0 < found["mri_ray_batch_fill_bucket job=score le=0.875"] <= 3
