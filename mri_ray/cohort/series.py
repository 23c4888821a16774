"""Result rows -> series: slices in their order in space, and what is odd about each series.

Rows, not pixels: one numpy pass over all rows given, no Python object a row. Nothing here depends on the order of the
rows, nor on the shards, folders or files they come from. Rows without series_key belong to no series.

An object that is a copy of another (state `duplicate`) is part of its series like any other: a series exported twice
would else be empty. But the same picture twice at one position is one slice of the patient, so such copies are counted
(`copies`) and never make a position a double one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.identity import digest
from mri_ray.cohort.columns import (
    cast,
    codes,
    encoded,
    flag_lists,
    flagged,
    floats,
    groups,
    least,
    nested,
    outcomes,
    ranks,
    starts,
    vectors,
    whole,
)
from mri_ray.records import SCHEMA_VERSION, Flag

SAME_MM = 0.01  # positions nearer than this are one: what files round away
FAR_MM = 1e6  # no scanner reaches that far: such a position is no position
PARALLEL_COS = float(np.cos(np.radians(1.0)))  # a scanner that follows the head turns its slices by less
WIDE_GAP = 1.5  # medians, from which on a gap holds a missing slice
UNEVEN = 0.1  # medians that a gap may be off a multiple of the median
SAME_SPACING = 0.01  # relative: 0.94 beside 0.9375 is rounding
_ORIENTATIONS = 16  # told apart within a series; what is left is the last one's


class SeriesFlag(StrEnum):
    """What a reader should know about a series: the closed list. `meaning` is for people."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> "SeriesFlag":
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        return self

    MISSING = ("missing.slices", "a gap between neighbours is at least 1.5 times the median; `missing` counts them")
    UNEVEN = ("uneven.gaps", "gaps between neighbours are no multiples of their median")
    DOUBLE = ("double.positions", "some positions hold more slices than others; copies of one picture do not count")
    REPEATED = ("repeated.positions", "every position holds several slices: times, echoes or directions; no error")
    ONE_POSITION = ("one.position", "several slices, all at one position: its positions are wrong, or no volume")
    UNKNOWN_POSITIONS = ("unknown.positions", "some slices do not tell where they lie; they stand last")
    MIXED_ORIENTATIONS = ("mixed.orientations", "slices of different directions, as in a localizer; no gaps are judged")
    MIXED_SIZES = ("mixed.sizes", "slices differ in width, height or pixel spacing")
    MIXED_PATIENTS = ("mixed.patients", "rows name different patients; the first by key is kept")


# One row a series of a study. slices = rows with pixels, each in row_ids; the others are failed or skipped.
SERIES = pa.schema(
    [
        pa.field("series_key", pa.string(), nullable=False),
        pa.field("study_key", pa.string()),
        pa.field("patient_key", pa.string()),
        pa.field("slices", pa.int32(), nullable=False),
        pa.field("copies", pa.int32(), nullable=False),  # of the slices: the same picture at the same position again
        pa.field("failed", pa.int32(), nullable=False),
        pa.field("skipped", pa.int32(), nullable=False),  # valid, but no MR image
        # Of the slices, along the normal to the left, back or head, whichever it is nearest to; then instance_number.
        pa.field("row_ids", pa.list_(pa.string()), nullable=False),
        pa.field("gap_mm", pa.float64()),  # median between neighbouring positions; null below two, or if mixed
        pa.field("extent_mm", pa.float64()),  # from the first position to the last; null as gap_mm
        pa.field("missing", pa.int32(), nullable=False),  # slices that the wide gaps would hold
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # of SeriesFlag
    ],
    metadata={"mri_ray.table": "series", "mri_ray.version": str(SCHEMA_VERSION)},
)

COLUMNS = [  # of records.RESULTS or prepared rows: what `series` reads
    *("row_id", "reason", "flags", "pixel_digest", "width", "height", "frame"),
    *("patient_key", "study_key", "series_key", "instance_key"),
    *("instance_number", "position_mm", "normal", "spacing_mm"),
]


def series(rows: pa.Table) -> pa.Table:
    """Join rows (with COLUMNS) to series -> a table SERIES, ascending by study_key, then series_key."""
    rows = rows.select(COLUMNS).filter(pc.is_valid(rows["series_key"]))
    owner, table = groups(rows, "study_key", "series_key")
    count = table.num_rows
    patient, patients_differ = least(rows["patient_key"], owner, count)
    failed, skipped = outcomes(rows["reason"])
    slices = ~failed & ~skipped
    rows, rows_owner = rows.filter(pa.array(slices)), owner[slices]
    space = _order(rows, rows_owner, count)
    held = np.bincount(rows_owner, minlength=count)
    judged = _judge(space, count)
    found = {
        **judged.flags,
        SeriesFlag.MIXED_SIZES: _differs(rows, rows_owner, count),
        SeriesFlag.MIXED_PATIENTS: patients_differ,
    }
    names = list(SeriesFlag)
    columns = {
        "series_key": table["series_key"],
        "study_key": table["study_key"],
        "patient_key": patient,
        "slices": held,
        "copies": np.bincount(space.owner[space.copy], minlength=count),
        "failed": np.bincount(owner[failed], minlength=count),
        "skipped": np.bincount(owner[skipped], minlength=count),
        "row_ids": nested(held, whole(rows["row_id"]).take(pa.array(space.order))),
        "gap_mm": pa.array(judged.gap_mm, from_pandas=True),
        "extent_mm": pa.array(judged.extent_mm, from_pandas=True),
        "missing": judged.missing,
        "flags": flag_lists(np.stack([found[name] for name in names], axis=1), names),
    }
    return pa.table([cast(columns[field.name], field.type) for field in SERIES], schema=SERIES)


def buckets(study_keys: Any, count: int) -> np.ndarray:
    """The bucket of each study key, int32 (N,) from 0 to count - 1; -1 for null, which belongs to no study.

    It follows from the key and the count alone, so that a late slice touches only its study's bucket.
    """
    if count < 1:
        raise ValueError(f"count: must be at least 1, got {count}")
    found = encoded(study_keys)
    of_key = [int(digest("bucket", key)[:16], 16) % count for key in found.dictionary.to_pylist()]
    return np.array([*of_key, -1], np.int32)[found.indices.fill_null(len(of_key)).to_numpy()]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Space:
    """Slices in their final order, arrays (N,). order: positions into the rows given. owner: number of the series.

    place: number of the position, ascending in space, -1 unknown. mixed: bool, by series.
    """

    order: np.ndarray
    owner: np.ndarray
    place: np.ndarray
    along_mm: np.ndarray
    copy: np.ndarray
    mixed: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judged:
    """Arrays by series; NaN where there is nothing to measure."""

    gap_mm: np.ndarray
    extent_mm: np.ndarray
    missing: np.ndarray
    flags: dict[SeriesFlag, np.ndarray]


def _order(rows: pa.Table, owner: np.ndarray, count: int) -> _Space:
    normal = vectors(rows["normal"], 3)
    position = floats(rows["position_mm"])
    # A position means nothing without its direction.
    known = (np.abs(position) < FAR_MM) & (np.linalg.norm(normal, axis=1) > 0.5)  # False for NaN
    facing, along = _orient(owner, normal, position, known)
    mixed = np.zeros(count, bool)
    mixed[owner[facing > 0]] = True
    place = np.full(len(owner), -1, np.int64)
    at = np.flatnonzero(known)
    at = at[np.lexsort((along[at], facing[at], owner[at]))]
    place[at] = np.cumsum(starts(owner[at], facing[at]) | (np.diff(along[at], prepend=-np.inf) > SAME_MM)) - 1
    number = whole(rows["instance_number"]).cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    last = np.where(place < 0, len(place), place)
    order = np.lexsort((ranks(rows["row_id"]), number, last, owner))
    copy = _copies(rows, owner, place, order)
    return _Space(
        order=order, owner=owner[order], place=place[order], along_mm=along[order], copy=copy[order], mixed=mixed
    )


def _orient(
    owner: np.ndarray, normal: np.ndarray, position: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the orientations within each series from 0 (-1 unknown); positions along one direction for each.

    A normal and its opposite are one orientation, read along the half line whose largest component is positive.
    """
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    facing, along = np.full(len(owner), -1, np.int16), position.copy()
    rest = np.flatnonzero(known)
    # Each round takes the rows parallel to one normal of each series: the least, since any other choice would have
    # to look at the order of the rows.
    rest = rest[np.lexsort((*normal[rest].T[::-1], owner[rest]))]
    for number in range(_ORIENTATIONS):
        begins = starts(owner[rest])
        heads = normal[rest[begins]]
        largest = np.take_along_axis(heads, np.abs(heads).argmax(axis=1, keepdims=True), axis=1)
        heads = heads * np.where(largest < 0, -1.0, 1.0)
        cosine = np.einsum("ij,ij->i", normal[rest], heads[np.cumsum(begins) - 1])
        taken = np.abs(cosine) >= PARALLEL_COS
        facing[rest[taken]] = number
        along[rest[taken]] *= np.sign(cosine[taken])
        rest = rest[~taken]
    facing[rest] = _ORIENTATIONS
    return facing, along


def _copies(rows: pa.Table, owner: np.ndarray, place: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Whether a slice shows what an earlier one (by `order`) of its series shows at the same position.

    Blank slices look alike without being copies, unless they are the same frame of the same instance.
    """
    picture = codes(rows["pixel_digest"])
    alone = -1 - np.arange(len(owner))
    instance, frame = codes(rows["instance_key"]), whole(rows["frame"]).fill_null(-1).to_numpy().astype(np.int64) + 1
    same_frame = np.where(instance < 0, alone, (instance << 32) + frame)
    kind = np.where(picture < 0, alone, np.where(flagged(rows["flags"], [Flag.BLANK]), same_frame, 0))
    by = [values[order] for values in (kind, picture, place, owner)]
    near = np.lexsort(by)  # stable: within equals the order given stays
    copy = np.empty(len(owner), bool)
    copy[order[near]] = ~starts(*(values[near] for values in by))
    return copy


def _judge(space: _Space, count: int) -> _Judged:
    at = np.flatnonzero(space.place >= 0)
    first = at[starts(space.place[at])]
    owner, along = space.owner[first], space.along_mm[first]  # of each place
    slices = np.bincount(space.place[at][~space.copy[at]], minlength=len(first))
    places = np.bincount(owner, minlength=count)
    # Places stand series by series, so that those of a series are a slice of the arrays.
    has, begin = places > 0, np.flatnonzero(starts(owner))
    end = np.append(begin[1:], len(owner)) - 1 if len(begin) else begin
    most, fewest, extent = np.zeros(count, np.int64), np.zeros(count, np.int64), np.full(count, np.nan)
    if len(begin):
        most[has], fewest[has] = np.maximum.reduceat(slices, begin), np.minimum.reduceat(slices, begin)
        extent[has] = along[end] - along[begin]
    several = ~space.mixed & (places > 1)
    median, missing, uneven = _gaps(owner, along, several)
    flags = {
        SeriesFlag.MISSING: missing > 0,
        SeriesFlag.UNEVEN: uneven,
        SeriesFlag.DOUBLE: several & (most > fewest),
        SeriesFlag.REPEATED: several & (fewest > 1),
        SeriesFlag.ONE_POSITION: ~space.mixed & (places == 1) & (most > 1),
        SeriesFlag.UNKNOWN_POSITIONS: np.bincount(space.owner[space.place < 0], minlength=count) > 0,
        SeriesFlag.MIXED_ORIENTATIONS: space.mixed,
    }
    return _Judged(gap_mm=median, extent_mm=np.where(several, extent, np.nan), missing=missing, flags=flags)


def _gaps(owner: np.ndarray, along: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the places (M,) of series (S,): median gap, slices missing in wide gaps, whether other gaps differ."""
    inner = ~starts(owner) & judged[owner]
    gap, owner = np.diff(along, prepend=np.nan)[inner], owner[inner]
    median = _median(owner, gap, len(judged))
    ratio = gap / median[owner]
    steps = np.maximum(np.floor(ratio + 0.5), 1)
    missing = np.bincount(owner, weights=np.where(ratio >= WIDE_GAP, steps - 1, 0), minlength=len(judged))
    uneven = np.bincount(owner[np.abs(ratio - steps) > UNEVEN], minlength=len(judged)) > 0
    return median, missing.astype(np.int32), uneven


def _median(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Median of the values of each owner (ascending), NaN where there are none."""
    sizes = np.bincount(owner, minlength=count)
    start = np.cumsum(sizes) - sizes
    ordered = values[np.lexsort((values, owner))]
    median = np.full(count, np.nan)
    some = sizes > 0
    low, high = (start + (sizes - 1) // 2)[some], (start + sizes // 2)[some]
    median[some] = (ordered[low] + ordered[high]) / 2
    return median


def _differs(rows: pa.Table, owner: np.ndarray, count: int) -> np.ndarray:
    """Whether the slices of a series differ in width, height or spacing, as far as they tell them."""
    spacing = vectors(rows["spacing_mm"], 2)
    differs = np.zeros(count, bool)
    for values, tolerance in (
        (floats(rows["width"]), 0.0),
        (floats(rows["height"]), 0.0),
        (spacing[:, 0], SAME_SPACING),
        (spacing[:, 1], SAME_SPACING),
    ):
        told = np.isfinite(values)
        low, high = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low, owner[told], values[told])
        np.maximum.at(high, owner[told], values[told])
        differs |= high * (1 - tolerance) > low  # False without any
    return differs
