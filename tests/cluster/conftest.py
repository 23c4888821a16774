"""Ray clusters of several raylets in processes of their own, and jobs started on them as users start them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mri_ray.archive.storage import Location
from mri_ray.learn import bundle as bundles
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.prepare.settings import PrepareConfig
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
AT_WORK = {"score": b"ray::_done", "train": b"RayTrainWorker"}  # in the names of processes that do a job's work
_WAIT_S = 400.0  # far more than anything takes on a machine with nothing else to do


class Nodes:
    """A cluster's nodes, the first of them its head; ended by pid."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        (port,) = free_ports(1)
        self._cluster = Cluster(shutdown_at_exit=True)
        self._shared: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self._nodes: list[Any] = []
        self.add(include_dashboard=False, dashboard_agent_listen_port=port)

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self, **more: Any) -> None:
        try:
            node = self._cluster.add_node(**self._shared, **more)
        except Exception as exc:
            if "timed out during startup" not in str(exc):
                raise
            node = self._cluster.add_node(**self._shared, **more)  # Ray's 30 s are short where a machine stalls
        self._nodes.append(node)

    def workers(self, number: int | None = None, job: str = "score") -> list[int]:
        """Processes that are at work on a shard, or on a training, of a node or of all."""
        raylets = {self._raylet(node) for node in (self._nodes if number is None else [self._nodes[number]])}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                name = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets and name.startswith(b"ray::") and AT_WORK[job] in name:
                    found.append(int(entry.name))
        return found

    def kill_worker(self, number: int, run: "Run") -> None:
        """SIGKILL to a process of a node as soon as one is at work."""
        found: list[int] = []
        run.until(lambda: found.extend(self.workers(number, run.job)) or found)
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def kill_driver(self, run: "Run") -> None:
        """SIGKILL to a job; returns when what did its work is gone as well."""
        run.kill()
        end = time.monotonic() + 60
        while self.workers(job=run.job):
            assert time.monotonic() < end, "workers outlive their driver"
            time.sleep(0.1)

    def kill_raylet(self, number: int) -> None:
        os.kill(self._raylet(self._nodes[number]), signal.SIGKILL)

    def remove(self, number: int) -> None:
        """End all of a node at once, as a preempted machine ends."""
        self._cluster.remove_node(self._nodes.pop(number), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()

    @staticmethod
    def _raylet(node: Any) -> int:
        return node.all_processes["raylet"][0].process.pid


@pytest.fixture
def nodes(s3_server) -> Iterator[Nodes]:
    """A cluster of one node with one CPU; `add` gives more. Started after the S3 server, whose variables they need."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        started = Nodes()
        try:
            yield started
        finally:
            started.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(nodes, tmp_path) -> Iterator[Callable[..., "Run"]]:
    """Starts `python -m jobs.NAME` on the cluster; ends what is left when the test ends."""
    started: list[Run] = []

    def start(name: str, *pairs: str) -> Run:
        started.append(Run(name, tmp_path / f"run-{len(started)}.log", [*pairs, f"ray.address={nodes.address}"]))
        return started[-1]

    yield start
    for run in started:
        run.kill()


@pytest.fixture
def score(job) -> Callable[..., "Run"]:
    """Starts `python -m jobs.score` on the cluster."""
    return partial(job, "score")


@pytest.fixture
def small_bundle() -> Callable[[Location], None]:
    """Writes a bundle whose work is next to nothing."""

    def write(place: Location) -> None:
        model = ModelConfig(input_size=32, width=4, blocks=3, dense=8)
        weights = build(model, seed=1).state_dict()
        bundles.save(bundles.Bundle(model=model, prepare=PrepareConfig(size=32), weights=weights), place)

    return write


@pytest.fixture
def pictures() -> Callable[[Location, int], dict[str, bytes]]:
    """Writes so many small pictures, no two alike; returns the files."""

    def write(place: Location, count: int) -> dict[str, bytes]:
        coarse = np.random.default_rng(4).integers(0, 256, (count, 6, 6), np.uint8)
        bodies = [cv2.imencode(".png", cv2.resize(one, (48, 40)))[1].tobytes() for one in coarse]
        files = {f"{i % 7}/{i:05d}.png": body for i, body in enumerate(bodies)}
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda key: place.write(key, files[key]), files))
        return files

    return write


class Run:
    """A job that is under way."""

    def __init__(self, job: str, log: Path, pairs: list[str]) -> None:
        self.job = job
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"jobs.{job}", *pairs], cwd=ROOT, stdout=file, stderr=file
            )

    def until(self, met: Callable[[], Any]) -> None:
        """Returns when it is met, while the job goes on."""
        end = time.monotonic() + _WAIT_S
        while not met():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def wait(self) -> str:
        """All that it has printed, when it has ended well."""
        assert self._process.wait(timeout=_WAIT_S) == 0, self._log.read_text()
        return self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
