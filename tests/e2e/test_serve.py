"""The endpoint as its users start it, and the batch jobs that it starts."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from mri_ray.archive.storage import Location
from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import EndpointConfig, JobsConfig, KeysConfig
from mri_ray.learn import bundle as bundles
from tests.endpoint.small import Client, bundle_of, lane_of, png

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_one_machine_is_served_until_it_is_told_to_end(tmp_path):
    digest = bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        given = [f"bundle={tmp_path}/bundle", f"port={port}", "ray.cpus=2", f"ray.temp_dir={folder}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.serve", *given],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == f"endpoint: http://127.0.0.1:{port}\n"
        found = httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=png(), timeout=60)
        assert (found.status_code, found.json()["bundle"]) == (200, digest)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) == 0
        process.stdout.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


def test_a_port_that_is_taken_is_an_error_before_ray_starts(tmp_path):
    bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "jobs.serve", f"bundle={tmp_path}/bundle", f"port={taken.getsockname()[1]}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("ConfigError: port: must be free")


def test_a_job_is_started_watched_and_has_its_results(head, tmp_path):
    from mri_ray.on_ray.submit import RayJobs

    bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    (tmp_path / "archive").mkdir()
    for number in range(3):
        (tmp_path / "archive" / f"{number}.png").write_bytes(png(number))
    places = JobsConfig(
        archives=(f"{tmp_path}/archive",), bundles=(str(tmp_path),), outputs=(f"{tmp_path}/out",), address=head.jobs_api
    )
    config = EndpointConfig(keys=KeysConfig(required=False), jobs=places)
    service = Service(config)
    service.use(lane.Lanes(lanes=[lane_of(bundle_of(1))]))
    ask = Client(apps.create(service, Keys(config.keys, {}), scoring=RayJobs(places)))
    job = {"archive": f"{tmp_path}/archive", "bundle": f"{tmp_path}/bundle", "output": f"{tmp_path}/out/1"}
    assert ask("POST", "/v1/jobs", json=job | {"output": f"{tmp_path}/elsewhere"}).status_code == 403
    started = ask("POST", "/v1/jobs", json=job)
    assert started.status_code == 202, started.text
    path = f"/v1/jobs/{started.json()['id']}"
    end = time.monotonic() + 150
    while (found := ask("GET", path).json())["state"] in ("pending", "running") and time.monotonic() < end:
        time.sleep(1)
    assert (found["state"], found["counts"]["scored"]) == ("done", 3), found
    second = ask("POST", "/v1/jobs", json=job | {"output": f"{tmp_path}/out/2"}).json()["id"]
    assert ask("DELETE", f"/v1/jobs/{second}").status_code == 202
    while (found := ask("GET", f"/v1/jobs/{second}").json())["state"] in ("pending", "running"):
        assert time.monotonic() < end + 60
        time.sleep(1)
    assert found["state"] == "stopped"
    assert ask("GET", f"/v1/jobs/mri-{'0' * 32}").status_code == 404
    service.close()
