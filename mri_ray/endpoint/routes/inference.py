"""/v2: the Open Inference Protocol, for clients of KServe and Triton."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

import mri_ray
from mri_ray.endpoint import body, logs, tensors
from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.lane import Lane, Lanes
from mri_ray.endpoint.problems import Problem, described
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import MIB
from mri_ray.predict.predictor import Predictions

_AT_ONCE = 16  # objects of one request that are decoded or computed
_LIGHT = 64 * 1024  # bytes of a body that are taken apart sooner than a thread gets its turn


class _Route(APIRoute):
    """The protocol's clients look for an error's text in the member `error`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except tensors.ProtocolError as exc:
                status = 413 if isinstance(exc, tensors.TooMuchJsonError) else 400
                raise Problem(status, str(exc), error=str(exc)) from exc
            except Problem as problem:
                problem.more.setdefault("error", str(problem.detail))
                raise
            except RequestValidationError as exc:
                raise Problem(422, "the request does not fit its description", error="not valid") from exc
            except HTTPException as exc:
                raise Problem(exc.status_code, str(exc.detail), headers=exc.headers, error=str(exc.detail)) from exc

        return handled


router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=_Route)
Asking = Annotated[Caller, Depends(needs("predict"))]
_OPEN: dict[str, Any] = {"openapi_extra": {"security": []}}
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["inputs"]},
            "example": {
                "inputs": [{"name": tensors.IMAGE, "shape": [1], "datatype": "BYTES", "data": ["base64 of a file"]}]
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.get("", **_OPEN)
async def server() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return tensors.server(mri_ray.__version__)


@router.get("/health/live", **_OPEN)
async def live() -> dict[str, bool]:
    """It lives."""
    return {"live": True}


@router.get("/health/ready", responses=described(503), **_OPEN)
async def ready(request: Request) -> dict[str, bool]:
    """Its bundles are loaded."""
    _lanes(request)
    return {"ready": True}


@router.get("/models/{name}/ready", responses=described(404, 422, 503), **_OPEN)
@router.get("/models/{name}/versions/{version}/ready", responses=described(404, 422, 503), **_OPEN)
async def model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """The model, or one of its bundles, answers."""
    _lane(request, name, version)
    return {"name": name, "ready": True}


@router.get("/models/{name}", responses=described(401, 403, 404, 422, 429, 503))
@router.get("/models/{name}/versions/{version}", responses=described(401, 403, 404, 422, 429, 503))
async def model(request: Request, caller: Asking, name: str, version: str | None = None) -> dict[str, Any]:
    """Inputs and outputs. A version is the digest of a bundle."""
    lane = _lane(request, name, version)
    versions = [each.bundle.digest for each in _lanes(request).answering]
    return tensors.model(name, versions, lane.bundle.prepare.size)


@router.post(
    "/models/{name}/infer",
    responses=described(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": _BODY},
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    responses=described(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": _BODY},
)
async def infer(request: Request, caller: Asking, name: str, version: str | None = None) -> Response:
    """Score encoded objects (input image) or prepared pictures (input pixels)."""
    lane = _lane(request, name, version)
    service: Service = request.app.state.service
    given = await body.whole(request)
    limits = service.config.limits
    take_apart = partial(
        tensors.parse,
        given,
        request.headers.get(tensors.HEADER),
        size=lane.bundle.prepare.size,
        most=int(limits.slices),
        most_json=int(limits.json_mb * MIB),
    )
    asked = take_apart() if len(given) <= _LIGHT else await asyncio.to_thread(take_apart)
    columns = await (_of_pixels(service, lane, asked) if asked.objects is None else _of_objects(service, lane, asked))
    decisions = Counter(str(decision) for decision in columns["decision"])
    logs.audit("infer", caller.key_id, {"bundle": lane.bundle.digest, "decisions": dict(decisions)})
    told, length = tensors.answer(asked, columns, model=name, version=lane.bundle.digest)
    headers = {tensors.HEADER: length} if length else {}
    return Response(told, headers=headers, media_type="application/octet-stream" if length else "application/json")


async def _of_pixels(service: Service, lane: Lane, asked: tensors.Request) -> dict[str, Any]:
    assert asked.pixels is not None
    found = await service.decide(lane, asked.pixels)
    return _columns([found], np.arange(len(asked.pixels)), np.zeros(len(asked.pixels)))


async def _of_objects(service: Service, lane: Lane, asked: tensors.Request) -> dict[str, Any]:
    """Raises Problem where an object, or a frame of it, has no answer: the protocol cannot tell that beside others."""
    assert asked.objects is not None
    parts, numbers, frames = [], [], []
    for start in range(0, len(asked.objects), _AT_ONCE):
        some = asked.objects[start : start + _AT_ONCE]
        tasks = [asyncio.create_task(_scored(service, lane, start + at, each)) for at, each in enumerate(some)]
        try:
            scored = await asyncio.gather(*tasks)
        finally:  # where one is refused, the others hold memory that nobody counts any more
            for task in tasks:
                task.cancel()
        for at, one in enumerate(scored, start):
            parts.append(one.found)
            numbers += [at] * len(one.upload.pictures)
            frames += [picture.frame for picture in one.upload.pictures]
        if len(numbers) > service.config.limits.slices:
            raise Problem(413, f"a request may hold {service.config.limits.slices} slices at most")
    return _columns(parts, np.array(numbers), np.array(frames))


async def _scored(service: Service, lane: Lane, number: int, given: bytes) -> Any:
    try:
        found = await service.score(given, request_id=logs.request_id(), lane=lane)
    except Problem as problem:
        raise Problem(problem.status_code, f"element {number}: {problem.detail}", **problem.more) from problem
    if faults := [failure for failure in found.upload.failures if not failure.reason.skips]:
        first = faults[0]
        raise Problem(422, f"element {number}: {first.reason.meaning}: {first.detail}", reason=first.reason.value)
    return found


def _columns(parts: list[Predictions], numbers: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    return {
        "probability": np.concatenate([part.probability for part in parts]),
        "logit": np.concatenate([part.logit for part in parts]),
        "decision": [decision.value for part in parts for decision in part.decision],
        "object": numbers.astype(np.int32),
        "frame": frames.astype(np.int32),
    }


def _lanes(request: Request) -> Lanes:
    found: Lanes = request.app.state.service.ready()
    return found


def _lane(request: Request, name: str, version: str | None) -> Lane:
    """Raises Problem 404 for a name or a version that is not here."""
    lanes = _lanes(request)
    if name != request.app.state.service.config.name:
        raise Problem(404, "no such model")
    lane = lanes.chosen(logs.request_id()) if version is None else lanes.of(version)
    if lane is None:
        raise Problem(404, "no such version of the model: versions are digests of bundles")
    return lane
