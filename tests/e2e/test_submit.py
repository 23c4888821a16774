"""The same lines through `ray job submit`, against a head started for the test on ports of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


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
    code, printed = submit(head.jobs_api, "jobs.train", "--config", "configs/train.yaml", *given, *small)
    assert code == 0, printed
    assert "epoch   2 of 2" in printed
    bundle = json.loads((tmp_path / "train" / "run.json").read_text())["bundle"]

    given = [f"archive={phantoms}", f"bundle={bundle}", f"output={tmp_path}/score"]
    code, printed = submit(head.jobs_api, "jobs.score", "--config", "configs/score.yaml", *given)
    assert code == 0, printed
    assert json.loads((tmp_path / "score" / "run.json").read_text())["counts"]["scored"] == 600


def test_a_failing_job_fails_with_its_reason_last(head, phantoms, tmp_path):
    from ray.job_submission import JobSubmissionClient

    given = [f"archive={phantoms}", f"bundle={tmp_path}/none", f"output={tmp_path}/out"]
    code, printed = submit(head.jobs_api, "jobs.score", *given)
    assert code != 0
    assert "bundle.json: must be there" in printed
    client = JobSubmissionClient(head.jobs_api)
    (job,) = (job for job in client.list_jobs() if f"{tmp_path}/none" in job.entrypoint)
    assert job.driver_exit_code == 2
    assert client.get_job_logs(job.submission_id).strip().splitlines()[-1].startswith("BundleError: ")
