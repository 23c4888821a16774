"""What passes between the rooms: slices, failures, headers, and the Arrow schema of every table.

A schema's version stands in its metadata; a change of meaning raises it.
"""

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

import numpy as np
import pyarrow as pa

from mri_ray.errors import Reason

SCHEMA_VERSION = 1


class State(StrEnum):
    """Where an object ends: each in exactly one."""

    SCORED = "scored"
    QUARANTINED = "quarantined"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"


class Decision(StrEnum):
    POSITIVE = "positive"
    NEGATIVE = "negative"
    REFER = "refer"


class Flag(StrEnum):
    """What a reader of a result should know about its slice; a flag never hides the result."""

    BLANK = "suspect.blank"  # constant or near-blank: nothing to see, never joins a group
    COLOUR = "converted.colour"  # real colour was made grey
    LOW_CONTRAST = "low.contrast"  # the intensity window was widened to its floor
    UPSCALED = "upscaled"  # the head is smaller than the model's input


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known about a slice; None where the file does not say."""

    modality: str | None = None
    patient: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    sop_uid: str | None = None
    instance_number: int | None = None
    position_mm: tuple[float, float, float] | None = None
    normal: tuple[float, float, float] | None = None
    spacing_mm: tuple[float, float] | None = None  # between rows, between columns
    acquired: date | None = None
    manufacturer: str | None = None
    field_strength_t: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One decoded picture.

    pixels: float32 (H, W) in the file's units, brighter is more signal. bits: stored bits a pixel.
    """

    pixels: np.ndarray
    bits: int
    frame: int = 0
    member: str | None = None
    header: Header = field(default_factory=Header)
    flags: frozenset[Flag] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an object, a member or a frame gives no slice. `detail` names no identifiers."""

    reason: Reason
    where: str  # the object's URI
    detail: str
    frame: int | None = None
    member: str | None = None


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"mri_ray.table": name, "mri_ray.version": str(SCHEMA_VERSION)})


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# What one listing of an archive yields: keys below the archive's root, ascending.
LISTING = _schema(
    "listing",
    _required("key", pa.string()),
    _required("size", pa.int64()),
    _required("etag", pa.string()),
)

# One shard of the manifest. object_id names the key; version_id names key, size and etag.
MANIFEST = _schema(
    "manifest",
    _required("object_id", pa.string()),
    _required("version_id", pa.string()),
    _required("key", pa.string()),
    _required("size", pa.int64()),
    _required("etag", pa.string()),
)

# What results and prepared rows share: which slice of which object, or why there is none.
_IDENTITY = (
    _required("row_id", pa.string()),
    _required("object_id", pa.string()),
    _required("version_id", pa.string()),
    _required("uri", pa.string()),
    pa.field("member", pa.string()),
    pa.field("frame", pa.int32()),
    _required("size", pa.int64()),
    _required("etag", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    _required("flags", pa.list_(pa.string())),
    pa.field("pixel_digest", pa.string()),  # of the decoded pixels; null for a failure
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
)


def prepared_schema(size: int) -> pa.Schema:
    """Prepared rows: `pixels` is uint8 (1, size, size), row by row; null for a failure."""
    return _schema("prepared", *_IDENTITY, pa.field("pixels", pa.binary(size * size)))


# One row a slice, or one for an object that has none. logit = z_tumor - z_normal.
RESULTS = _schema(
    "results",
    *_IDENTITY,
    _required("state", pa.string()),  # of the object, the same on all its rows
    pa.field("duplicate_of", pa.string()),  # the object_id that was kept
    pa.field("patient_key", pa.string()),
    pa.field("study_key", pa.string()),
    pa.field("series_key", pa.string()),
    pa.field("position_mm", pa.float64()),  # along the normal
    pa.field("logit", pa.float32()),
    pa.field("probability", pa.float32()),
    pa.field("decision", pa.string()),
    _required("bundle_digest", pa.string()),
    _required("prepare_digest", pa.string()),
    _required("run_id", pa.string()),
)
