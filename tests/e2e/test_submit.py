"""The same lines through `ray job submit`, against a head started for the test on ports of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def head(end_processes) -> Iterator[str]:
    """The address of a head's jobs API; its processes are ended by pid."""
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
        yield address
    finally:
        process.kill()
        process.wait()
        end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 90
    while True:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a constant scheme
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)


def submit(address: str, *line: str) -> tuple[int, str]:
    """`ray job submit --working-dir . -- python -m jobs....`: the exit code, and all that was printed."""
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        f"--address={address}",
        "--working-dir=.",
        "--",
        "python",
        "-m",
        *line,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout


def test_training_and_scoring_are_submitted_to_a_running_head(head, phantoms, tmp_path):
    small = ["prepare.size=64", "model.input_size=64", "model.width=4", "model.blocks=4"]
    small += ["train.epochs=2", "train.workers=2"]
    given = [f"archive={phantoms}", f"labels={phantoms.parent}/labels.csv", f"output={tmp_path}/train"]
    code, printed = submit(head, "jobs.train", "--config", "configs/train.yaml", *given, *small)
    assert code == 0, printed
    assert "epoch   2 of 2" in printed
    bundle = json.loads((tmp_path / "train" / "run.json").read_text())["bundle"]

    given = [f"archive={phantoms}", f"bundle={bundle}", f"output={tmp_path}/score"]
    code, printed = submit(head, "jobs.score", "--config", "configs/score.yaml", *given)
    assert code == 0, printed
    assert json.loads((tmp_path / "score" / "run.json").read_text())["counts"]["scored"] == 600


def test_a_failing_job_fails_with_its_reason_last(head, phantoms, tmp_path):
    from ray.job_submission import JobSubmissionClient

    given = [f"archive={phantoms}", f"bundle={tmp_path}/none", f"output={tmp_path}/out"]
    code, printed = submit(head, "jobs.score", *given)
    assert code != 0
    assert "bundle.json: must be there" in printed
    client = JobSubmissionClient(head)
    (job,) = (job for job in client.list_jobs() if f"{tmp_path}/none" in job.entrypoint)
    assert job.driver_exit_code == 2
    assert client.get_job_logs(job.submission_id).strip().splitlines()[-1].startswith("BundleError: ")
