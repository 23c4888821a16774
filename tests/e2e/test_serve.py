"""The endpoint as its users start it, and the batch jobs that it starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from mri_ray.archive.settings import StorageConfig
from mri_ray.archive.storage import Location
from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import EndpointConfig, JobsConfig, KeysConfig
from mri_ray.learn import bundle as bundles
from tests.endpoint.small import Client, bundle_of, lane_of, png
from tests.ports import free_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@contextmanager
def endpoint(bundle: Path, *given: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`jobs.serve` and its address; ended as a user ends it, if the test has not."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        line = [f"bundle={bundle}", f"port={port}", "ray.cpus=2", f"ray.temp_dir={folder}", *given]
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.serve", *line],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            with process.stdout:
                assert process.stdout.readline() == f"endpoint: http://127.0.0.1:{port}\n"
            yield process, f"http://127.0.0.1:{port}"
        finally:
            end = time.monotonic() + 300
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(signal.SIGINT)  # more than one, as of an impatient person, changes nothing
                time.sleep(0.1)
            assert process.wait(timeout=1) == 0


def test_one_machine_is_served_until_it_is_told_to_end(tmp_path):
    digest = bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    # A setting of the endpoint does not make it ask for keys.
    with endpoint(tmp_path / "bundle", "endpoint.batch.size=16", "endpoint.limits.body_s=3") as (process, url):
        found = httpx.post(f"{url}/v1/predict", content=png(), timeout=60)
        assert (found.status_code, found.json()["bundle"]) == (200, digest)
        assert httpx.get(f"{url}/v1/studies/1.2.840.99999.7", timeout=60).status_code == 404
        end = time.monotonic() + 20
        while not (told := logged(written := written_by(process), "mri_ray.access")) or told[-1]["status"] != 404:
            assert time.monotonic() < end, "a request's line comes right after its answer"
            time.sleep(0.05)
        assert told[-2]["status"] == 200
        assert [line["bundle"] for line in logged(written, "mri_ray.audit")] == [digest]
        assert not [name for name, text in written.items() if "1.2.840.99999" in text]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as slow:
            slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHo")
            assert slow.recv(1000).split()[1] == b"408", "cut off within its first lines"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def written_by(process: subprocess.Popen) -> dict[str, str]:
    """All that lies in the session's folder of logs, by the names of files."""
    (folder,) = [each.partition("=")[2] for each in process.args if each.startswith("ray.temp_dir=")]
    files = (Path(folder) / "session_latest" / "logs").rglob("*")
    return {path.name: path.read_text(errors="replace") for path in files if path.is_file()}


def logged(written: dict[str, str], logger: str) -> list[dict[str, object]]:
    """The lines of one logger of the replica's."""
    lines = [line for name, text in written.items() if name.endswith(".err") for line in text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}") and f'"{logger}"' in line]


def processes_of(process: subprocess.Popen, name: str) -> set[int]:
    found = set()
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended since it was listed
            if name in " ".join(one.cmdline()):
                found.add(one.pid)
    return found


def answering(process: subprocess.Popen) -> int:
    """How many replicas have ever answered a picture: each writes a file of its own."""
    files = [{name: text} for name, text in written_by(process).items()]
    return sum(any(line["status"] == 200 for line in logged(file, "mri_ray.access")) for file in files)


def wait_until(there: Callable[[], bool], within_s: float = 240) -> None:
    end = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < end
        time.sleep(0.2)


class Clients:
    """People who ask without pause until they are told to stop, or nobody listens any more."""

    def __init__(self, url: str, number: int = 8) -> None:
        self._url, self._stop = url, threading.Event()
        self._told: list[tuple[float, int | str]] = []  # when each request began, and what became of it
        self._pool = ThreadPoolExecutor(number)
        self._asking = [self._pool.submit(self._ask, one) for one in range(number)]

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                status: int | str = httpx.post(f"{self._url}/v1/predict", content=png(number), timeout=60).status_code
            except httpx.ConnectError:
                return
            except httpx.HTTPError as exc:
                status = type(exc).__name__
            self._told.append((began, status))

    def told(self, since: float, until: float) -> Counter[int | str]:
        return Counter(status for began, status in self._told if since <= began < until)

    def wait(self, *, stop: bool = False) -> None:
        if stop:
            self._stop.set()
        for one in self._asking:
            one.result(timeout=300)


def test_load_brings_a_second_replica_a_killed_one_costs_little_and_an_end_answers_what_has_begun(tmp_path):
    bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    with endpoint(tmp_path / "bundle") as (process, url):
        assert processes_of(process, "haproxy"), "requests go straight to the replicas"
        assert len(processes_of(process, "ray::ServeReplica")) == 1
        begun, clients = time.monotonic(), Clients(url)
        try:
            wait_until(lambda: answering(process) == 2)
            killed = time.monotonic()
            os.kill(min(processes_of(process, "ray::ServeReplica")), signal.SIGKILL)
            wait_until(lambda: answering(process) == 3)
            steady = time.monotonic()
            wait_until(lambda: clients.told(steady, time.monotonic())[200] > 8)
            ended = time.monotonic()
            process.send_signal(signal.SIGTERM)
            clients.wait()
        finally:
            clients.wait(stop=True)
    assert set(clients.told(begun, killed - 1)) == {200}
    around = clients.told(killed - 1, steady)
    assert around.total() - around[200] <= 8, "of each client at most what the killed one was answering"
    assert set(clients.told(steady, ended)) == {200}


def test_replicas_share_a_gpu_and_no_more_than_have_room(tmp_path):
    """A GPU for Ray's sums alone: what computes is there."""
    bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    with endpoint(tmp_path / "bundle", "ray.gpus=1", "gpus=0.5", "replicas=2") as (process, url):
        assert len(processes_of(process, "ray::ServeReplica")) == 2
        assert httpx.post(f"{url}/v1/predict", content=png(), timeout=60).status_code == 200
    given = [f"bundle={tmp_path}/bundle", "port=8765", "ray.gpus=1", "gpus=0.6", "replicas=2", "ray.cpus=2"]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "jobs.serve", *given, f"ray.temp_dir={folder}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "replicas: at most 1 have room with 0.6 GPUs each on 1 GPUs, with 0.5 CPUs each on 2, got 2" in done.stderr


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
    ask = Client(apps.create(service, Keys(config.keys, {}), scoring=RayJobs(places, StorageConfig())))
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


def test_the_config_file_serves_over_tls_to_who_has_a_key(tmp_path):
    """`serve run configs/serve.yaml` with a bundle, a port, a certificate and keys of this test, asked by curl."""
    digest = bundles.save(bundle_of(1), Location.of(str(tmp_path / "bundle")))
    key, cert = tmp_path / "tls.key", tmp_path / "tls.crt"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    (port,) = free_ports(1)
    config = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port, "ssl_keyfile": str(key), "ssl_certfile": str(cert)}
    config["applications"][0]["deployments"][0]["user_config"] = {"bundles": [{"uri": str(tmp_path / "bundle")}]}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "keys").write_text("ward predict a-secret-of-the-ward-1\n")
    (tmp_path / "picture.png").write_bytes(png())

    def curl(*more: str, headers: Path) -> tuple[int, dict]:
        command = ["curl", "-sS", "--cacert", str(cert), "--max-time", "60", "-D", str(headers), *more]
        done = subprocess.run([*command, f"https://127.0.0.1:{port}/v1/predict"], capture_output=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.startswith(b"{") else {}

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "MRI_RAY_API_KEYS_FILE": str(tmp_path / "keys"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
        }
        with (tmp_path / "log").open("wb") as log:
            command = [str(Path(sys.executable).parent / "serve"), "run", str(tmp_path / "serve.yaml")]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 180
            sent = ["-H", "X-API-Key: a-secret-of-the-ward-1", "--data-binary", f"@{tmp_path}/picture.png"]
            while (told := curl(*sent, headers=tmp_path / "headers"))[1].get("bundle") != digest:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end, (told, (tmp_path / "log").read_text())
                time.sleep(0.5)
            assert told[1]["slices"][0]["probability"] is not None
            assert "strict-transport-security" in (tmp_path / "headers").read_text().lower()
            code, refused = curl("--data-binary", f"@{tmp_path}/picture.png", headers=tmp_path / "headers")
            assert (code, refused["status"]) == (0, 401)
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")  # without TLS
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
    assert "a-secret" not in (tmp_path / "log").read_text()
