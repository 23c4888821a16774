"""Batch scorings that are asked for over HTTP: what may be asked for, and what is told of them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mri_ray.archive.storage import Location
from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import EndpointConfig
from mri_ray.errors import ConfigError

JobState = Literal["pending", "running", "done", "failed", "stopped"]


class JobRequest(BaseModel):
    """One scoring of a whole archive; each place must lie below what the endpoint's config allows."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "archive": "s3://hospital/mri/2026",
                    "bundle": "s3://lab/run/bundle",
                    "output": "s3://lab/scores/2026",
                }
            ]
        },
    )
    archive: str = Field(min_length=1, max_length=1024)
    bundle: str = Field(min_length=1, max_length=1024)
    output: str = Field(min_length=1, max_length=1024)
    identifiers: Literal["pseudonym", "drop"] = "pseudonym"


class JobAnswer(BaseModel):
    """A job. progress, counts and error: of its run.json, once there; see the README."""

    id: str
    state: JobState
    progress: dict[str, Any] | None = None
    counts: dict[str, int] | None = None
    results: str | None = None
    error: dict[str, Any] | None = None


class Jobs(Protocol):
    """What runs jobs."""

    async def start(self, job: JobRequest) -> str: ...

    async def state(self, job_id: str) -> tuple[JobState, str] | None:
        """And where its output lies; None: no such job."""

    async def stop(self, job_id: str) -> bool: ...


def checked(job: JobRequest, config: EndpointConfig) -> JobRequest:
    """The job with its places in normal form. Raises Problem 403 for one that the config does not allow.

    On disk what counts is where a path leads: links are followed, and the job gets the path behind them.
    """
    allowed = {"archive": config.jobs.archives, "bundle": config.jobs.bundles, "output": config.jobs.outputs}
    return job.model_copy(
        update={name: _below(name, getattr(job, name), prefixes, config) for name, prefixes in allowed.items()}
    )


def _below(name: str, uri: str, prefixes: Sequence[str], config: EndpointConfig) -> str:
    refused = Problem(403, f"{name}: must lie below a place that the endpoint's config allows")
    try:
        place = Location.of(uri, config.storage).uri
    except ConfigError:
        raise refused from None
    parts = unquote(place.partition("://")[2]).split("/")
    if ".." in parts or "." in parts or any(ord(letter) < 32 for letter in place):
        raise refused
    real = _real(place)
    for prefix in prefixes:
        allowed = Location.of(prefix, config.storage).uri
        root = _real(allowed).removesuffix("/")
        if f"{real}/".startswith(f"{root}/"):
            return allowed.removesuffix("/") + real.removeprefix(root)  # under the name that the config gives it
    raise refused


def _real(uri: str) -> str:
    """The same place without links on the way, where it lies on disk."""
    scheme, _, path = uri.partition("://")
    return f"file://{os.path.realpath(path)}" if scheme == "file" else uri


def told(job_id: str, state: JobState, record: object) -> JobAnswer:
    """record: what run.json below the job's output holds, None where there is none yet.

    What is no run's record tells nothing: anybody may have written there.
    """
    known = record if isinstance(record, Mapping) else {}
    facts = {name: known.get(name) for name in ("progress", "counts", "results", "error")}
    try:
        return JobAnswer.model_validate({"id": job_id, "state": state} | facts)
    except ValidationError:
        return JobAnswer(id=job_id, state=state)
