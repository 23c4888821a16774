"""Jobs as their users start them: processes of their own, on a Ray of their own, ended by pid."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_BOUND = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


class Jobs:
    """Starts `python -m jobs.NAME` in the project's folder; ends what is left when the test ends."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen] = []
        self._folders: list[tempfile.TemporaryDirectory] = []

    def start(self, name: str, *pairs: str, bound: bool = False) -> subprocess.Popen:
        """bound: by the permissions of files, even where the tests run as root."""
        folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
        self._folders.append(folder)
        prefix = _BOUND if bound and os.geteuid() == 0 else []
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", f"jobs.{name}", *pairs, f"ray.temp_dir={folder.name}"],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    @property
    def ray_folders(self) -> list[Path]:
        """What the Rays of the jobs started so far have logged lies here, until the test ends."""
        return [Path(folder.name) for folder in self._folders]

    def run(self, name: str, *pairs: str, bound: bool = False) -> tuple[int, str]:
        """The exit code, and all that was printed."""
        process = self.start(name, *pairs, bound=bound)
        printed, _ = process.communicate(timeout=1200)
        return process.returncode, printed

    def kill(self, process: subprocess.Popen) -> None:
        """SIGKILL to the driver alone; returns when the Ray it had started is gone as well."""
        folder = self._folders[self._started.index(process)].name
        process.kill()
        process.wait()
        end = time.monotonic() + 60
        while using(folder):
            assert time.monotonic() < end, "Ray outlives its driver"
            time.sleep(0.2)

    def close(self) -> None:
        for process, folder in zip(self._started, self._folders, strict=True):
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            end_all(folder.name)
            with suppress(OSError):
                folder.cleanup()


def using(folder: str) -> list[int]:
    """Processes that name a folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if folder.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def end_all(folder: str) -> None:
    """End what uses a folder of Ray's, by pid."""
    for pid in using(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def jobs_here() -> Iterator[Jobs]:
    jobs = Jobs()
    try:
        yield jobs
    finally:
        jobs.close()


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where its jobs API answers, and the address that drivers join it by."""

    jobs_api: str
    address: str


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray of its own on ports of its own; its processes are ended by pid."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    port, dashboard, agent, client = free_ports(4)
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # the entry point's `python` is the one found here
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command += ["--object-store-memory=500000000", f"--temp-dir={folder}"]
    with (Path(folder) / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{address}/api/version", process, Path(folder) / "head.log")
        # The agent, which starts jobs, comes after the dashboard; that gives it 10 s, then refuses what is submitted.
        wait_for(f"http://127.0.0.1:{agent}/api/local_raylet_healthz", process, Path(folder) / "head.log")
        yield Head(jobs_api=address, address=f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a constant scheme
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    with jobs_here() as found:
        yield found


@pytest.fixture(scope="module")
def more_jobs() -> Iterator[Jobs]:
    """The same, for what the tests of a module share."""
    with jobs_here() as found:
        yield found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """600 phantom slices of 50 patients; labels.csv lies beside their folder."""
    from mri_ray import phantom
    from mri_ray.archive.storage import Location

    folder = tmp_path_factory.mktemp("phantoms")
    phantom.write(Location.of(str(folder)), phantom.PhantomConfig(patients=50, slices=12, second_study=0, seed=11))
    return folder / "images"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """A bundle with fresh weights: what it answers does not matter here, only that it is the same each time."""
    from mri_ray.archive.storage import Location
    from mri_ray.learn import bundle as bundles
    from mri_ray.learn.model import build
    from mri_ray.learn.settings import ModelConfig
    from mri_ray.prepare.settings import PrepareConfig

    folder = tmp_path_factory.mktemp("bundle")
    model = ModelConfig(width=4)
    weights = build(model, seed=1).state_dict()
    bundles.save(bundles.Bundle(model=model, prepare=PrepareConfig(), weights=weights), Location.of(str(folder)))
    return folder
