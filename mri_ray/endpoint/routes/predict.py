"""POST /v1/predict: an object in, its slices' and its study's answers out; GET /v1/model and its card: what answers."""

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from mri_ray.endpoint import answers, body, logs
from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.problems import Problem, described
from mri_ray.endpoint.service import Scored, Service
from mri_ray.learn import bundle as bundles

router = APIRouter(prefix="/v1", tags=["predict"])
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_KINDS = ("application/octet-stream", "application/dicom", "image/png", "image/jpeg", "image/tiff", "application/zip")
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}},
}
_BODY = {
    "required": True,
    "description": "PNG, JPEG, TIFF, BMP, DICOM, NIfTI, or a zip or tar of a study; told by its content",
    "content": dict.fromkeys(_KINDS, _BINARY) | {body.FORM: {"schema": _FORM}},
}


@router.post(
    "/predict",
    response_model=answers.Answer,
    response_model_exclude_none=False,
    responses={
        200: {"content": {"application/json": {"example": answers.EXAMPLE}}},
        **described(401, 403, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request,
    caller: Annotated[Caller, Depends(needs("predict"))],
    heatmap: Annotated[Literal["png"] | None, Query(description="adds each slice's heat map as an overlay")] = None,
    picture: Annotated[Literal["png"] | None, Query(description="adds each slice as the network sees it")] = None,
) -> Any:
    """Score one object: each slice's probability and decision, and the study's."""
    service: Service = request.app.state.service
    given = await body.whole(request)
    found = await service.score(given, request_id=logs.request_id(), heatmap=heatmap == "png", picture=picture == "png")
    tell(caller, found)
    return found.answer


def tell(caller: Caller, found: Scored) -> None:
    """The audit log's line of an answer."""
    decisions = Counter(decision.value for decision in found.found.decision)
    failed = len(found.upload.failures)
    facts = {"bundle": found.answer.bundle, "decisions": dict(decisions), "failed": failed}
    logs.audit("predict", caller.key_id, facts)


@router.get("/model", responses=described(401, 403, 429, 503))
async def model(request: Request, caller: Annotated[Caller, Depends(needs("predict"))]) -> dict[str, Any]:
    """The bundles that answer: digest, operating point, share; `refused`: why the last change did not happen."""
    service: Service = request.app.state.service
    lanes = service.ready().lanes
    return {
        "name": service.config.name,
        "refused": service.refused,
        "bundles": [
            {
                "bundle": lane.bundle.digest,
                "share": lane.config.share,
                "shadow": lane.config.shadow,
                "precision": lane.predictor.precision.value,
                "labels": lane.bundle.labels,
                "input_size": lane.bundle.prepare.size,
                "operating_point": answers.operating_point(lane.bundle).model_dump(),
                "intended_use": bundles.intended_use(lane.bundle),
                "answers": bundles.answers(lane.bundle),
                "metrics": lane.bundle.metrics,
            }
            for lane in lanes
        ],
    }


class _Markdown(Response):
    media_type = "text/markdown"


@router.get("/model/card", response_class=_Markdown, responses=described(401, 403, 404, 422, 429, 503))
async def card(
    request: Request,
    caller: Annotated[Caller, Depends(needs("predict"))],
    bundle: Annotated[
        str | None, Query(max_length=64, description="a digest; without it, the first that answers")
    ] = None,
) -> Response:
    """A bundle's model card: what it is for, what it was trained on, its figures."""
    service: Service = request.app.state.service
    lanes = service.ready().answering if bundle is None else service.ready().lanes
    found = next((lane.card for lane in lanes if bundle in (None, lane.bundle.digest)), None)
    if found is None:
        raise Problem(404, "no such bundle, or it has no card")
    return _Markdown(found)
