"""Batch scorings through Ray's job API, for the endpoint."""

import asyncio
import json
import shlex
import uuid
from dataclasses import asdict
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from mri_ray.archive.settings import StorageConfig
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
_LATER = {"Retry-After": "10"}


class _Client(JobSubmissionClient):
    """Ray's own waits for ever, and with it the thread that asks."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": self._timeout_s} | given)


class RayJobs:
    """Jobs of the cluster that this process is part of, or of the one at `address`; see `endpoint.jobs.Jobs`."""

    def __init__(self, config: JobsConfig, storage: StorageConfig) -> None:
        """storage: how the jobs reach what they are given."""
        self._config = config
        usual = asdict(StorageConfig())
        self._storage = {name: value for name, value in asdict(storage).items() if value != usual[name]}
        self._found: _Client | None = None

    async def start(self, job: JobRequest) -> str:
        """Raises Problem as `_call` does; that of 504 names the job, which may have been taken on all the same."""
        job_id = f"mri-{uuid.uuid4().hex}"
        # As JSON, which is YAML: whatever stands in a URI, it stays one text.
        told = job.model_dump() | {f"storage.{name}": value for name, value in self._storage.items()}
        given = [f"{name}={json.dumps(value)}" for name, value in told.items()]
        try:
            submitted = await self._call(
                "submit_job",
                entrypoint=shlex.join(["python", "-m", "jobs.score", *given]),
                submission_id=job_id,
                metadata={_OUTPUT: job.output},
                runtime_env=_runtime_env(),
            )
        except Problem as problem:
            if problem.status_code == 504:
                problem.more["id"] = job_id
            raise
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
        """None for a job that is not there. Raises Problem: 503, or 504 for what takes too long."""
        limit = self._config.timeout_s
        try:
            async with asyncio.timeout(limit):
                return await asyncio.to_thread(lambda: getattr(self._client(), method)(*args, **named))
        except TimeoutError as exc:
            raise Problem(504, f"Ray's job API does not answer within {limit:g} s", headers=_LATER) from exc
        except RuntimeError as exc:
            if "status code 404" in str(exc):  # a bare 404 may stand in an id
                return None
            raise _absent() from exc
        except (ConnectionError, OSError) as exc:
            raise _absent() from exc

    def _client(self) -> JobSubmissionClient:
        if self._found is None:
            self._found = _Client(self._config.address or _dashboard(), self._config.timeout_s)
        return self._found


def _absent() -> Problem:
    return Problem(503, "Ray's job API does not answer", headers=_LATER)


def _dashboard() -> str:
    url = ray._private.worker.global_worker.node.webui_url  # type: ignore[union-attr]
    return f"http://{url}"


def _runtime_env() -> dict[str, Any]:
    """The code that runs here: where it came with a working directory, the job gets the same."""
    if not ray.is_initialized():
        return {}
    own = dict(ray.get_runtime_context().runtime_env)
    return {name: own[name] for name in ("working_dir", "py_modules", "pip") if name in own}
