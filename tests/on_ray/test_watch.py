"""The endpoint's metrics as Prometheus would get them, from a real Serve; the dashboard asks for nothing else."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served import small_bundle

from mri_ray.archive.storage import Location
from mri_ray.endpoint.metrics import DRIFT, EVERY, QUEUE
from mri_ray.learn import bundle as bundles
from mri_ray.learn.reference import WORDS, reference
from mri_ray.on_ray import watch

ROOT = Path(__file__).parents[2]
# A Ray of its own: it reports every second, and what is asked for is of this run.
SCRIPT = """
import contextlib, io, json, re, sys, time, urllib.error, urllib.request, zipfile
import numpy as np, ray
from PIL import Image
from ray import serve
from ray.serve.config import HTTPOptions
from mri_ray.endpoint.settings import DriftConfig, EndpointConfig, KeysConfig
from mri_ray.on_ray import cluster
from mri_ray.on_ray.serve import application
from mri_ray.on_ray.settings import ClusterSettings
from tests.ports import free_ports

one, other, folder = sys.argv[1:]
(port,) = free_ports(1)

def png(number):
    y, x = np.mgrid[-1:1:70j, -1:1:64j]
    disc = np.where(x**2 + y**2 < 0.6, 100 + 30 * x * number, 2).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(disc).save(held, "PNG")
    return held.getvalue()

def post(data):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/predict", data, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as fault:
        return fault.code

LINE = re.compile(r"ray_(mri_ray_endpoint_\\w+)\\{(.*)\\} (\\S+)")

def told():
    (node,) = ray.nodes()
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found = {}
    for name, tags, value in LINE.findall(urllib.request.urlopen(page, timeout=30).read().decode()):
        key = name + "|" + json.dumps(sorted(re.findall(r'(\\w+)="([^"]*)"', tags)))
        found[key] = float(value)
    return found

config = EndpointConfig(keys=KeysConfig(required=False), drift=DriftConfig(window=10, least=4))
with cluster.connected(ClusterSettings(cpus=2, object_store_mb=100, temp_dir=folder)):
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), proxy_location="HeadOnly")
    answering = {"bundles": [{"uri": one}, {"uri": other, "shadow": True}]}
    serve.run(application(config, user_config=answering, ray_actor_options={"num_cpus": 0.5}), name="mri_ray")
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w") as zipped:
        zipped.writestr("a.png", png(9))
        zipped.writestr("b.bin", b"no picture at all")
    statuses = [post(png(number)) for number in range(6)] + [post(pack.getvalue()), post(b"no picture")]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # Ray's agent may not listen yet
            if "415" in (found := str(told())) and "in_house" in found:
                break
        time.sleep(1)
    time.sleep(12)  # what is told once only is gone by now
    found = told()
    for _ in range(3):  # a gauge that a stalled machine told too late is missing from one of them
        time.sleep(1)
        found = told() | found
    print(json.dumps({"statuses": statuses, "found": found}))
    serve.shutdown()
"""


def test_gauges_of_a_bundle_are_let_go_and_no_others(monkeypatch):
    held = {
        (metric, tuple(sorted(tags.items()))): 1.0
        for metric, tags in [
            (QUEUE, {"model": "m"}),
            (DRIFT, {"model": "m", "version": "old", "of": "level", "statistic": "psi"}),
            (DRIFT, {"model": "m", "version": "new", "of": "level", "statistic": "psi"}),
            (DRIFT, {"model": "other", "version": "old", "of": "level", "statistic": "psi"}),
        ]
    }
    monkeypatch.setattr(watch, "_gauges", dict(held))
    watch.forget({"model": "m", "version": "old"})
    assert list(watch._gauges) == [key for number, key in enumerate(held) if number != 1]


def queries(dashboard: dict) -> list[str]:
    variables = [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.slow
def test_metrics_are_exposed_and_the_dashboard_asks_for_them(tmp_path):
    numbers = {"probability": np.linspace(0.1, 0.9, 50), "level": np.linspace(20, 90, 50)}
    bundle = small_bundle(reference=reference(numbers, {name: [None] * 50 for name in WORDS}))
    for name, one in {"one": bundle, "other": replace(bundle, threshold=0.999)}.items():
        bundles.save(one, Location.of(str(tmp_path / name)))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "one", tmp_path / "other", folder],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # beside what Ray says
    told = json.loads(line)
    assert told["statuses"] == [200] * 7 + [415]
    tags: dict[str, set[str]] = {}
    sums: dict[tuple[str, str], float] = {}
    for key, value in told["found"].items():
        name, _, text = key.partition("|")
        pairs = dict(json.loads(text))
        tags.setdefault(name, set()).update(pairs)
        for kept in ("status", "decision", "same"):
            if kept in pairs:
                sums[name, pairs[kept]] = sums.get((name, pairs[kept]), 0) + value
        assert pairs.get("version", bundle.digest) in (bundle.digest, replace(bundle, threshold=0.999).digest)
    for metric in EVERY:
        exposed = f"{metric.name}_bucket" if metric.kind == "histogram" else metric.name
        assert tags.get(exposed, set()) >= set(metric.tags), metric.name
    assert sums["mri_ray_endpoint_requests_total", "200"] == 7
    assert sums["mri_ray_endpoint_requests_total", "415"] == 1
    assert sum(value for (name, _), value in sums.items() if name == "mri_ray_endpoint_decisions_total") == 7
    assert sum(value for (name, _), value in sums.items() if name == "mri_ray_endpoint_shadow_total") == 7
    _check_dashboard(tags)


def _check_dashboard(tags: dict[str, set[str]]) -> None:
    """Every name and every label that its queries use is in the exposition."""
    asked = queries(json.loads((ROOT / "configs" / "grafana-endpoint.json").read_text()))
    assert len(asked) > 10
    for query in asked:
        names = re.findall(r"ray_(mri_ray_endpoint_\w+)", query)
        assert names, query
        selected = set(re.findall(r'(\w+)=~?"', query))
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        for name in names:
            assert name in tags, query
            assert selected | grouped <= tags[name], query
