"""Batch scorings through Ray's job API, for the endpoint."""

import asyncio
import json
import shlex
import uuid
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from mri_ray.endpoint.jobs import JobRequest, JobState
from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import JobsConfig

_STATES: dict[JobStatus, JobState] = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "done",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}
_OUTPUT = "mri_ray.output"  # in a job's metadata


class RayJobs:
    """Jobs of the cluster that this process is part of, or of the one at `address`; see `endpoint.jobs.Jobs`."""

    def __init__(self, config: JobsConfig) -> None:
        self._config = config
        self._found: JobSubmissionClient | None = None

    async def start(self, job: JobRequest) -> str:
        job_id = f"mri-{uuid.uuid4().hex}"
        # As JSON, which is YAML: whatever stands in a URI, it stays one text.
        given = [f"{name}={json.dumps(value)}" for name, value in job.model_dump().items()]
        submitted = await self._call(
            "submit_job",
            entrypoint=shlex.join(["python", "-m", "jobs.score", *given]),
            submission_id=job_id,
            metadata={_OUTPUT: job.output},
            runtime_env=_runtime_env(),
        )
        if submitted is None:
            raise _absent()
        return job_id

    async def state(self, job_id: str) -> tuple[JobState, str] | None:
        details = await self._call("get_job_info", job_id)
        if details is None or _OUTPUT not in (details.metadata or {}):
            return None
        return _STATES[details.status], details.metadata[_OUTPUT]

    async def stop(self, job_id: str) -> bool:
        if await self.state(job_id) is None:
            return False
        await self._call("stop_job", job_id)
        return True

    async def _call(self, method: str, *args: Any, **named: Any) -> Any:
        """None for a job that is not there."""
        try:
            return await asyncio.to_thread(lambda: getattr(self._client(), method)(*args, **named))
        except RuntimeError as exc:
            if "status code 404" in str(exc):  # a bare 404 may stand in an id
                return None
            raise _absent() from exc
        except (ConnectionError, OSError) as exc:
            raise _absent() from exc

    def _client(self) -> JobSubmissionClient:
        if self._found is None:
            self._found = JobSubmissionClient(self._config.address or _dashboard())
        return self._found


def _absent() -> Problem:
    return Problem(503, "Ray's job API does not answer", headers={"Retry-After": "10"})


def _dashboard() -> str:
    url = ray._private.worker.global_worker.node.webui_url  # type: ignore[union-attr]
    return f"http://{url}"


def _runtime_env() -> dict[str, Any]:
    """The code that runs here: where it came with a working directory, the job gets the same."""
    if not ray.is_initialized():
        return {}
    own = dict(ray.get_runtime_context().runtime_env)
    return {name: own[name] for name in ("working_dir", "py_modules", "pip") if name in own}
