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
    SECONDARY = "secondary.capture"  # a screen shot or scan of a picture, not what the scanner measured
    BURNED_IN = "burned.in"  # the file says that writing is part of the pixels
    LOCALIZER = "localizer"  # a scout for planning
    DERIVED = "derived.map"  # computed from other images: a projection, a parameter map, a subtraction
    PHANTOM = "phantom"  # a test object, as far as the tags tell
    MOSAIC = "from.mosaic"  # cut out of a frame in which many slices are tiled
    LOSSY = "lossy.compressed"  # it was once compressed with loss
    MASKED = "masked.values"  # padding, NaN or infinity was replaced by the darkest value
    NAMED_PATH = "path.names.patient"  # its path repeats the header's name or id


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known about a slice; None where the file does not say.

    Names, ids and dates stand as in the file: they leave this process only as `archive.identity` lets them.
    """

    modality: str | None = None
    sop_class: str | None = None  # its name, e.g. "MR Image Storage"
    patient: str | None = None  # id, and behind "^^^" who issued it, where that is told
    patient_name: str | None = None  # to find it in paths; never written anywhere
    study_uid: str | None = None
    series_uid: str | None = None
    sop_uid: str | None = None
    instance_number: int | None = None
    position_mm: tuple[float, float, float] | None = None  # of the first pixel's centre; to the left, back, head
    normal: tuple[float, float, float] | None = None  # unit vector: row direction x column direction
    spacing_mm: tuple[float, float] | None = None  # between rows, between columns
    acquired: date | None = None
    manufacturer: str | None = None
    field_strength_t: float | None = None
    sequence: str | None = None  # T1, T1+C, T2, FLAIR, PD, DWI, T2*: as far as the tags tell
    body_part: str | None = None  # what the file claims; no proof


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One decoded picture.

    pixels: (H, W) in the file's units, brighter is more signal; float32, or uint8 where the file holds these.
    bits: stored bits a pixel. stored, mode: the format that it was decoded from (`jpeg`, `dicom`, ...), and how colours
    are stored there, as the format calls it.
    """

    pixels: np.ndarray
    bits: int
    frame: int = 0
    member: str | None = None
    header: Header = field(default_factory=Header)
    flags: frozenset[Flag] = frozenset()
    stored: str | None = None
    mode: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an object, a member or a frame gives no slice. `detail` names no identifiers: no tag's text, no path."""

    reason: Reason
    where: str  # the object's URI
    detail: str
    frame: int | None = None
    member: str | None = None  # path in the pack; in a pack within: "inner.zip!/path"
    header: Header = field(default_factory=Header)  # what was known when it failed


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
    # Of the header; keys are pseudonyms (see `archive.identity`), null where the file does not tell.
    pa.field("patient_key", pa.string()),
    pa.field("study_key", pa.string()),
    pa.field("series_key", pa.string()),
    pa.field("instance_key", pa.string()),
    pa.field("instance_number", pa.int32()),
    pa.field("position_mm", pa.float64()),  # along the normal
    pa.field("normal", pa.list_(pa.float32())),  # 3, a unit vector
    pa.field("spacing_mm", pa.list_(pa.float32())),  # 2: between rows, between columns
    pa.field("acquired", pa.date32()),  # shifted by days of the patient's own, unless identifiers are kept
    pa.field("modality", pa.string()),
    pa.field("manufacturer", pa.string()),
    pa.field("field_strength_t", pa.float32()),
    pa.field("sequence", pa.string()),
    pa.field("body_part", pa.string()),
)


# What only prepared rows hold: what tells copies of a picture, and what may tell its class without looking at it.
THUMBNAIL_SIDE = 96
_EVIDENCE = (
    pa.field("stored", pa.string()),  # the format
    pa.field("mode", pa.string()),  # how colours are stored
    pa.field("mean_level", pa.float32()),  # of the whole picture, 0 to 255
    pa.field("border_level", pa.float32()),  # of its outermost lines
    pa.field(
        "thumbnail", pa.binary(THUMBNAIL_SIDE**2)
    ),  # uint8, row by row: the whole picture, before the head is cut out
)


def prepared_schema(size: int) -> pa.Schema:
    """Prepared rows: `pixels` is uint8 (1, size, size), row by row; null for a failure.

    crop: top, left, bottom, right of the part of the slice that they show, in pixels as high as wide.
    """
    pixels = pa.field("pixels", pa.binary(size * size))
    return _schema("prepared", *_IDENTITY, *_EVIDENCE, pa.field("crop", pa.list_(pa.int32())), pixels)


# Where every object ended: one row a slice, or one for an object that has none.
_LEDGER = (
    *_IDENTITY,
    _required("state", pa.string()),  # of the object, the same on all its rows
    pa.field("duplicate_of", pa.string()),  # the object_id that was kept
)
LEDGER = _schema("ledger", *_LEDGER)

# The same with answers. logit = z_tumor - z_normal.
RESULTS = _schema(
    "results",
    *_LEDGER,
    pa.field("logit", pa.float32()),
    pa.field("probability", pa.float32()),
    pa.field("decision", pa.string()),
    # What the mask head marks, where the bundle has one: pixels of the slice as it is stored, mm2 with known spacing.
    pa.field("lesion_px", pa.float32()),
    pa.field("lesion_mm2", pa.float32()),
    _required("bundle_digest", pa.string()),
    _required("prepare_digest", pa.string()),
    _required("run_id", pa.string()),
)
