"""POST /dicom-web/studies (STOW-RS): instances in, each scored; GET /v1/studies: what a study was answered with."""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse

from mri_ray.endpoint import answers, logs, related, stow
from mri_ray.endpoint.kept import Keeper
from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.problems import Problem, described
from mri_ray.endpoint.service import Scored, Service
from mri_ray.endpoint.settings import MIB
from mri_ray.endpoint.stow import Code, Instance, Outcome
from mri_ray.errors import ArchiveError

_SWEEP_S = 600.0

log = logging.getLogger(__name__)
StudyUid = Annotated[str, Path(pattern=f"^{stow.UID}$", max_length=stow.MOST, examples=["1.2.826.0.1.3680043.8.498.1"])]
Asking = Annotated[Caller, Depends(needs("predict"))]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """record: of an instance that was scored, what is kept of it; its pixels are not."""

    outcome: Outcome
    record: dict[str, Any] | None = None


class _Reply(JSONResponse):
    media_type = stow.MEDIA_TYPE


def router(keeper: Keeper) -> APIRouter:
    """The routes of an endpoint that keeps answers to studies."""
    made = APIRouter(tags=["dicomweb"])
    state = _Sweeping(keeper)
    errors = described(400, 401, 403, 408, 413, 415, 429, 503)
    content = {stow.MEDIA_TYPE: {"schema": {"type": "object"}}}
    replies: dict[int | str, dict[str, Any]] = {
        202: {"description": "Some were scored", "content": content},
        409: {"description": "None was scored", "content": content},
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": {'multipart/related; type="application/dicom"': binary}}
    options: dict[str, Any] = {
        "response_class": _Reply,
        "responses": errors | replies,
        "openapi_extra": {"requestBody": body},
    }

    @made.post("/dicom-web/studies", **options)
    async def store(request: Request, caller: Asking) -> Any:
        """Score instances of one study or of several."""
        return await _store(request, caller, state, None)

    @made.post("/dicom-web/studies/{study}", **options)
    async def store_study(request: Request, caller: Asking, study: StudyUid) -> Any:
        """Score instances of this study; those of others fail."""
        return await _store(request, caller, state, study)

    @made.get("/v1/studies/{study}", responses=described(401, 403, 404, 422, 429, 503))
    async def look(
        request: Request,
        caller: Asking,
        study: StudyUid,
        instance: Annotated[str | None, Query(pattern=f"^{stow.UID}$", max_length=stow.MOST)] = None,
    ) -> dict[str, Any]:
        """What a study that came by DICOMweb was answered with; `instance` picks one of its instances by its UID.

        `study` is of the instances that `bundle` answered, the last one asked; `left_out`: how many others did.
        """
        state.sweep()
        return await asyncio.to_thread(_looked, state.keeper, study, instance)  # thousands of rows may be summed up

    return made


class _Sweeping:
    """The keeper, swept of what is too old whenever it is used and the last time is long enough ago."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    def sweep(self) -> None:
        if time.monotonic() >= self._next and (self._task is None or self._task.done()):
            self._next = time.monotonic() + _SWEEP_S
            self._task = asyncio.create_task(self._swept())

    async def _swept(self) -> None:
        try:
            await asyncio.to_thread(self.keeper.sweep, _now_ms())
        except (ArchiveError, OSError):
            log.exception("answers that are too old could not be deleted; the next request tries again")


async def _store(request: Request, caller: Caller, state: _Sweeping, study: str | None) -> JSONResponse:
    service: Service = request.app.state.service
    service.ready()
    config = service.config
    limits = related.Limits(
        parts=int(config.results.parts), part_bytes=min(config.decode.max_bytes, int(config.limits.body_mb * MIB))
    )
    tasks: list[asyncio.Task[_Done]] = []
    try:
        boundary = related.boundary_of(request.headers.get("content-type"))
        waiting: set[asyncio.Task[_Done]] = set()
        async for part in related.parts(request.stream(), boundary, limits):
            if len(waiting) > config.decoders:  # so many parts are in memory, and no more
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            tasks.append(asyncio.create_task(_scored(service, state.keeper, part, study)))
            waiting.add(tasks[-1])
        done = list(await asyncio.gather(*tasks))
    except related.RelatedError as exc:
        raise Problem(exc.status, str(exc)) from exc
    finally:  # of a body that was cut off, or took too long
        for task in tasks:
            task.cancel()
    if not done:
        raise Problem(400, "a body must hold at least one instance, got none")
    outcomes = await _kept(state.keeper, done)
    state.sweep()
    _tell(caller, done, outcomes)
    status, document = stow.reply(outcomes)
    return _Reply(document, status)


async def _scored(service: Service, keeper: Keeper, part: related.Part, study: str | None) -> _Done:
    if part.data is None:
        return _Done(outcome=Outcome(instance=Instance(), code=Code.NO_ROOM))
    instance = await asyncio.to_thread(stow.instance_of, part.data, service.config.decode)
    if not instance.complete:
        return _Done(outcome=Outcome(instance=instance, code=Code.NOT_UNDERSTOOD))
    if study is not None and instance.study != study:
        return _Done(outcome=Outcome(instance=instance, code=Code.MISMATCH))
    assert instance.study is not None
    try:  # by the study: where bundles share the traffic, its parts are of one bundle however they come
        lane = service.ready().chosen(instance.study)
        found = await service.score(part.data, request_id=logs.request_id(), lane=lane)
    except Problem as problem:
        return _Done(outcome=Outcome(instance=instance, code=stow.code_of(problem.more.get("reason"))))
    code = Code.DISCARDED if found.upload.failures else None
    return _Done(outcome=Outcome(instance=instance, code=code), record=_record(keeper, found))


async def _kept(keeper: Keeper, done: list[_Done]) -> list[Outcome]:
    """Only what can be found again counts as scored."""
    studies: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for one in done:
        instance = one.outcome.instance
        if one.record is not None:
            assert instance.study is not None
            assert instance.sop is not None
            studies[instance.study][keeper.name("instance", instance.sop)] = one.record
    lost = set()
    for study, instances in studies.items():
        try:
            await asyncio.to_thread(keeper.keep, study, instances, _now_ms())
        except (ArchiveError, OSError):
            log.exception("an answer could not be kept")
            lost.add(study)
    return [
        Outcome(instance=one.outcome.instance, code=Code.NO_ROOM)
        if one.record is not None and one.outcome.instance.study in lost
        else one.outcome
        for one in done
    ]


def _record(keeper: Keeper, found: Scored) -> dict[str, Any]:
    """An instance's answer as it is kept: without its header's identifiers."""
    rows = []
    for at, picture in enumerate(found.upload.pictures):
        row = answers.row(picture, found.found, at)
        series = picture.header.series_uid
        rows.append(row | {"study_key": "", "series_key": keeper.name("series", series) if series else ""})
    told = found.answer.model_dump(mode="json", include={"bundle", "operating_point", "slices", "failed"})
    return told | {"instance_number": found.upload.pictures[0].header.instance_number, "rows": rows}


def _looked(keeper: Keeper, study: str, instance: str | None) -> dict[str, Any]:
    try:
        found = keeper.look(study, _now_ms())
    except (ArchiveError, OSError) as exc:
        raise Problem(503, "where answers are kept cannot be read", headers={"Retry-After": "5"}) from exc
    instances = found.instances if found else {}
    if instance is not None:
        name = keeper.name("instance", instance)
        instances = {name: instances[name]} if name in instances else {}
    if found is None or not instances:
        raise Problem(404, "no answer is kept for it; it never came, or too long ago")
    # Probabilities of two bundles are no study's together: what came before a change of bundles is left out.
    last = list(instances.values())[-1]
    point = answers.OperatingPoint.model_validate(last["operating_point"])
    by = Counter(one["bundle"] for one in instances.values())
    summed = {name: one for name, one in instances.items() if one["bundle"] == last["bundle"]}
    rows = [row | {"row_id": f"{name}{row['row_id']}"} for name, one in summed.items() for row in one["rows"]]
    shown = ("instance_number", "bundle", "slices", "failed")
    listed = [{"instance": name} | {key: one[key] for key in shown} for name, one in instances.items()]
    return {
        "study": answers.of_several(rows, point.study_threshold, point.study_refer).model_dump(mode="json"),
        "operating_point": point.model_dump(mode="json"),
        "bundle": last["bundle"],
        "bundles": sorted(by),
        "left_out": {digest: count for digest, count in sorted(by.items()) if digest != last["bundle"]},
        "expires_ms": found.expires_ms,
        "instances": sorted(listed, key=lambda one: (one["instance_number"] is None, one["instance_number"])),
    }


def _tell(caller: Caller, done: list[_Done], outcomes: list[Outcome]) -> None:
    records = [one.record for one in done if one.record is not None]
    decisions = Counter(each["decision"] for record in records for each in record["slices"])
    bundles = sorted({record["bundle"] for record in records})
    failed = sum(not one.scored for one in outcomes)
    facts = {"bundles": bundles, "decisions": dict(decisions), "instances": len(done), "failed": failed}
    logs.audit("store", caller.key_id, facts)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
