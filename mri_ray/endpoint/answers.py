"""Predictions -> the document that a request is answered with; its classes are what OpenAPI describes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from mri_ray.cohort.series import SERIES
from mri_ray.endpoint.reading import Picture, Upload
from mri_ray.learn.bundle import Bundle
from mri_ray.predict.predictor import Predictions, decide
from mri_ray.predict.studies import COLUMNS, StudyFlag, StudyRule, studies
from mri_ray.records import RESULTS, Decision, Flag, State
from mri_ray.report.pictures import overlaid

Probability = Annotated[float, Field(ge=0, le=1)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class SliceAnswer(_Answer):
    """One slice. member: its number among the files of a pack, in the order stored; names of files are not repeated."""

    member: int | None = None
    frame: int
    probability: Probability
    decision: Decision
    flags: list[Flag]
    lesion_share: float | None = Field(None, description="of the prepared picture, where the bundle has a mask head")
    heatmap: str | None = Field(None, description="the overlay as a PNG in base64, where it was asked for")
    picture: str | None = Field(None, description="the slice as the network sees it, a PNG in base64, where asked for")


class FailedSlice(_Answer):
    """A frame or member that gave no slice, beside those that did."""

    member: int | None = None
    frame: int | None
    reason: str
    detail: str


class StudyAnswer(_Answer):
    """All slices together: of several studies in one upload, the one with the highest probability."""

    probability: Probability | None = Field(description="null where no slice counts: all are blank")
    decision: Decision | None
    slices: int
    counted: int
    studies: int
    flags: list[str]


class OperatingPoint(_Answer):
    threshold: Probability
    refer: tuple[Probability, Probability] | None
    study_threshold: Probability
    study_refer: tuple[Probability, Probability] | None


class Answer(_Answer):
    """What an upload is answered with. It makes no diagnosis: see the bundle's card at /v1/model/card."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": []})
    request_id: str
    bundle: str = Field(description="the digest of the bundle that answered")
    operating_point: OperatingPoint
    slices: list[SliceAnswer]
    failed: list[FailedSlice]
    study: StudyAnswer
    timings_ms: dict[str, float]


EXAMPLE = {
    "request_id": "6f1c2b0de0a94f7db3f0a9a4cf5e3c11",
    "bundle": "3f2a91bc07de5d4c8a6b1e0f9d7c2a45",
    "operating_point": {"threshold": 0.31, "refer": [0.28, 0.36], "study_threshold": 0.31, "study_refer": [0.28, 0.36]},
    "slices": [{"member": None, "frame": 0, "probability": 0.912, "decision": "positive", "flags": []}],
    "failed": [],
    "study": {
        "probability": 0.912,
        "decision": "positive",
        "slices": 1,
        "counted": 1,
        "studies": 1,
        "flags": [],
    },
    "timings_ms": {"decode": 2.1, "queue": 0.4, "predict": 5.3, "total": 8.2},
}


def operating_point(bundle: Bundle) -> OperatingPoint:
    threshold, refer = bundle.of_studies
    return OperatingPoint(threshold=bundle.threshold, refer=bundle.refer, study_threshold=threshold, study_refer=refer)


def answer(
    given: Upload,
    found: Predictions,
    bundle: Bundle,
    *,
    request_id: str,
    heat: np.ndarray | None,
    shown: bool = False,
    timings_ms: Mapping[str, float],
) -> Answer:
    """heat: (N, S, S) as of `predict.heatmap`, None where it was not asked for. shown: whether pictures were."""
    size = bundle.prepare.size
    slices = [
        SliceAnswer(
            member=_number(given, picture.member),
            frame=picture.frame,
            probability=float(found.probability[at]),
            decision=found.decision[at],
            flags=sorted(picture.flags),
            lesion_share=None if found.lesion is None else float(found.lesion[at]) / size**2,
            heatmap=None if heat is None else _png(overlaid(picture.head, heat[at])),
            picture=_png(picture.head) if shown else None,
        )
        for at, picture in enumerate(given.pictures)
    ]
    failed = [
        FailedSlice(
            member=_number(given, failure.member),
            frame=failure.frame,
            reason=failure.reason.value,
            detail=failure.detail,
        )
        for failure in given.failures
    ]
    return Answer(
        request_id=request_id,
        bundle=bundle.digest,
        operating_point=operating_point(bundle),
        slices=slices,
        failed=failed,
        study=study(given.pictures, found, bundle),
        timings_ms={name: round(value, 2) for name, value in timings_ms.items()},
    )


def study(pictures: Sequence[Picture], found: Predictions, bundle: Bundle) -> StudyAnswer:
    """As batch answers for studies."""
    threshold, refer = bundle.of_studies
    if len(pictures) == 1:
        return of_one(pictures[0], float(found.probability[0]), threshold, refer)
    return of_several([row(picture, found, at) for at, picture in enumerate(pictures)], threshold, refer)


def of_several(found: Sequence[Mapping[str, Any]], threshold: float, refer: tuple[float, float] | None) -> StudyAnswer:
    """From rows as `row` makes them."""
    schema = pa.schema([RESULTS.field(name) for name in COLUMNS])
    rows = pa.Table.from_pylist([dict(one) for one in found], schema=schema)
    table = studies(rows, SERIES.empty_table(), rule=StudyRule(), threshold=threshold, refer=refer)
    answers = table.to_pylist()
    best = max(answers, key=lambda one: -1.0 if one["probability"] is None else one["probability"])
    return StudyAnswer(
        probability=best["probability"],
        decision=best["decision"],
        slices=best["slices"],
        counted=best["counted"],
        studies=len(answers),
        flags=best["flags"],
    )


def of_one(picture: Picture, probability: float, threshold: float, refer: tuple[float, float] | None) -> StudyAnswer:
    """What `of_several` gives for one slice, without tables: they take as long as the network."""
    blank, aside = Flag.BLANK in picture.flags, not picture.flags.isdisjoint(StudyRule().leave_out)
    return StudyAnswer(
        probability=None if blank else probability,
        decision=None if blank else decide([probability], threshold=threshold, refer=refer)[0],
        slices=1,
        counted=int(not blank),
        studies=1,
        flags=[StudyFlag.ONLY] if aside and not blank else [],
    )


def row(picture: Picture, found: Predictions, at: int) -> dict[str, Any]:
    """What `predict.studies` reads of a slice; the keys are the header's own."""
    header = picture.header
    return {
        "row_id": f"{picture.number:09d}",
        "state": State.SCORED.value,
        "flags": sorted(picture.flags),
        "pixel_digest": picture.digest,
        "study_key": header.study_uid or "",
        "series_key": header.series_uid or "",
        "probability": float(found.probability[at]),
        "decision": found.decision[at].value,
    }


def _number(given: Upload, member: str | None) -> int | None:
    return None if member is None else given.members.get(member)


def _png(pixels: np.ndarray) -> str:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
