"""DICOMweb's STOW-RS: which instance a file is, and the reply that tells of each what became of it.

Source: DICOM PS3.18, 10.5 and annex I.2 (the store response); PS3.4, annex B (codes of failures).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.parse import parse
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

MEDIA_TYPE = "application/dicom+json"
UID, MOST = r"[0-9]+(\.[0-9]+)*", 64  # characters


class Code(IntEnum):
    """Of a failure, or of a warning."""

    NO_ROOM = 0xA700
    MISMATCH = 0xA900  # of the study that the request names
    NOT_UNDERSTOOD = 0xC000
    TRANSFER_SYNTAX = 0xC122
    PROCESSING = 0x0110
    SOP_CLASS = 0x0122
    DISCARDED = 0xB006  # a warning: some of its frames gave no answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """As the file says; None where it does not."""

    sop_class: str | None = None
    sop: str | None = None
    study: str | None = None

    @property
    def complete(self) -> bool:
        """Whether an answer to it can be kept, and asked for: a UID that is none could not be named in a path."""
        uids = (self.sop_class, self.sop, self.study)
        return all(uid is not None and len(uid) <= MOST and re.fullmatch(UID, uid) is not None for uid in uids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of an instance. code: None for one that was scored whole, DISCARDED for one with failed frames."""

    instance: Instance
    code: Code | None = None

    @property
    def scored(self) -> bool:
        return self.code in (None, Code.DISCARDED)


def instance_of(data: bytes, config: DecodeConfig) -> Instance:
    """The identifiers of a DICOM file; empty where it is none."""
    try:
        dataset = parse(data, config).dataset
    except Refused:
        return Instance()
    names = {"sop_class": "SOPClassUID", "sop": "SOPInstanceUID", "study": "StudyInstanceUID"}
    return Instance(**{field: values.uid(dataset, name) for field, name in names.items()})


def code_of(reason: str | None) -> Code:
    """The standard's code for a `Reason`; for none, that processing failed."""
    if reason is None:
        return Code.PROCESSING
    if reason == Reason.TRANSFER_SYNTAX:
        return Code.TRANSFER_SYNTAX
    if reason.startswith("oversized."):
        return Code.NO_ROOM
    return Code.SOP_CLASS if reason.startswith("skipped.") else Code.NOT_UNDERSTOOD


def reply(outcomes: Sequence[Outcome]) -> tuple[int, dict[str, Any]]:
    """The status and the DICOM JSON document: 200 for all, 409 for none, 202 for anything between."""
    scored = [one for one in outcomes if one.scored]
    known = [one for one in outcomes if not one.scored and one.instance.complete]
    others = [one for one in outcomes if not one.scored and not one.instance.complete]
    # Required, and empty where nothing can be retrieved: what is sent here is scored and not stored.
    document: dict[str, Any] = {"00081190": {"vr": "UR"}}
    if known:
        items = [_named(one) | {"00081197": _short(one.code)} for one in known]
        document["00081198"] = {"vr": "SQ", "Value": items}
    if scored:
        warned = [{} if one.code is None else {"00081196": _short(one.code)} for one in scored]
        items = [_named(one) | {"00081190": {"vr": "UR"}} | more for one, more in zip(scored, warned, strict=True)]
        document["00081199"] = {"vr": "SQ", "Value": items}
    if others:
        document["0008119A"] = {"vr": "SQ", "Value": [{"00081197": _short(one.code)} for one in others]}
    status = 409 if not scored else 200 if all(one.code is None for one in outcomes) else 202
    return status, document


def _named(one: Outcome) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [one.instance.sop_class]},
        "00081155": {"vr": "UI", "Value": [one.instance.sop]},
    }


def _short(code: Code | None) -> dict[str, Any]:
    assert code is not None
    return {"vr": "US", "Value": [int(code)]}
