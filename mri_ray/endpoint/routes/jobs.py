"""/v1/jobs: batch scorings of whole archives, started, watched and stopped."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mri_ray.archive.storage import Location
from mri_ray.endpoint import jobs, logs
from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.problems import Problem, described
from mri_ray.endpoint.settings import EndpointConfig
from mri_ray.errors import MriRayError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
JobId = Annotated[str, Path(pattern=r"^mri-[0-9a-f]{32}$", examples=["mri-0123456789abcdef0123456789abcdef"])]
Asking = Annotated[Caller, Depends(needs("jobs"))]
_MOST_BYTES = 16 * 1024
_BODY = {"required": True, "content": {"application/json": {"schema": jobs.JobRequest.model_json_schema()}}}


@router.post(
    "",
    status_code=202,
    response_model=jobs.JobAnswer,
    responses=described(401, 403, 408, 413, 422, 429, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def start(request: Request, caller: Asking) -> Any:
    """Score an archive. The same archive, bundle and output again goes on where an earlier job stopped."""
    job = await _asked(request)
    job = await asyncio.to_thread(jobs.checked, job, request.app.state.service.config)  # shares may take their time
    job_id = await _jobs(request).start(job)
    logs.audit("job started", caller.key_id, {"job": job_id})
    return jobs.JobAnswer(id=job_id, state="pending")


@router.get("/{job_id}", response_model=jobs.JobAnswer, responses=described(401, 403, 404, 422, 429, 503, 504))
async def look(request: Request, job_id: JobId, caller: Asking) -> Any:
    """How far a job is."""
    found = await _jobs(request).state(job_id)
    if found is None:
        raise Problem(404, "no such job")
    state, output = found
    record = await asyncio.to_thread(_record, output, request.app.state.service.config)
    return jobs.told(job_id, state, record)


@router.delete(
    "/{job_id}", status_code=202, response_model=jobs.JobAnswer, responses=described(401, 403, 404, 422, 429, 503, 504)
)
async def stop(request: Request, job_id: JobId, caller: Asking) -> Any:
    """Stop a job; what it has scored is kept."""
    if not await _jobs(request).stop(job_id):
        raise Problem(404, "no such job")
    logs.audit("job stopped", caller.key_id, {"job": job_id})
    return jobs.JobAnswer(id=job_id, state="stopped")


async def _asked(request: Request) -> jobs.JobRequest:
    """The body; read here, and not by FastAPI, which would take it apart before it has looked at the key."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Problem(413, f"what describes a job may have {_MOST_BYTES} bytes at most", close=True)
    try:
        return jobs.JobRequest.model_validate_json(body)
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from None


def _jobs(request: Request) -> jobs.Jobs:
    found: jobs.Jobs = request.app.state.jobs
    return found


def _record(output: str, config: EndpointConfig) -> object:
    try:
        return json.loads(Location.of(output, config.storage).read("run.json"))
    except (OSError, ValueError, MriRayError):
        return None
