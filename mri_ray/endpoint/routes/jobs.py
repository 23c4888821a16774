"""/v1/jobs: batch scorings of whole archives, started, watched and stopped."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request

from mri_ray.archive.storage import Location
from mri_ray.endpoint import jobs, logs
from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.problems import Problem, described
from mri_ray.endpoint.settings import EndpointConfig

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
JobId = Annotated[str, Path(pattern=r"^mri-[0-9a-f]{32}$", examples=["mri-0123456789abcdef0123456789abcdef"])]
Asking = Annotated[Caller, Depends(needs("jobs"))]


@router.post("", status_code=202, response_model=jobs.JobAnswer, responses=described(401, 403, 422, 503))
async def start(request: Request, job: jobs.JobRequest, caller: Asking) -> Any:
    """Score an archive. The same archive, bundle and output again goes on where an earlier job stopped."""
    job_id = await _jobs(request).start(jobs.checked(job, request.app.state.service.config))
    logs.audit("job started", caller.key_id, {"job": job_id})
    return jobs.JobAnswer(id=job_id, state="pending")


@router.get("/{job_id}", response_model=jobs.JobAnswer, responses=described(401, 403, 404, 422, 503))
async def look(request: Request, job_id: JobId, caller: Asking) -> Any:
    """How far a job is."""
    found = await _jobs(request).state(job_id)
    if found is None:
        raise Problem(404, "no such job")
    state, output = found
    record = await asyncio.to_thread(_record, output, request.app.state.service.config)
    return jobs.told(job_id, state, record)


@router.delete(
    "/{job_id}", status_code=202, response_model=jobs.JobAnswer, responses=described(401, 403, 404, 422, 503)
)
async def stop(request: Request, job_id: JobId, caller: Asking) -> Any:
    """Stop a job; what it has scored is kept."""
    if not await _jobs(request).stop(job_id):
        raise Problem(404, "no such job")
    logs.audit("job stopped", caller.key_id, {"job": job_id})
    return jobs.JobAnswer(id=job_id, state="stopped")


def _jobs(request: Request) -> jobs.Jobs:
    found: jobs.Jobs = request.app.state.jobs
    return found


def _record(output: str, config: EndpointConfig) -> dict[str, Any] | None:
    try:
        return json.loads(Location.of(output, config.storage).read("run.json"))
    except (OSError, ValueError):
        return None
