"""Objects that have no answer of their own: some of each reason, and some copies, looked for until there are enough."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mri_ray.records import State
from mri_ray.report.facts import Case, Example

COLUMNS = ["object_id", "uri", "frame", "state", "reason", "detail", "duplicate_of"]
WHERE = ds.field("reason").is_valid() | (ds.field("state") == State.DUPLICATE.value)
EACH = 3  # objects of a reason, pairs of copies
_TRIED = 4 * EACH  # copies, as some cannot be shown
_BESIDE = 12  # pictures of what an object holds beside what failed


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows (COLUMNS) as dicts: of each reason some that have it, each of another object; and some copies."""

    failed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    copies: list[dict[str, Any]] = field(default_factory=list)


def seek(batches: Iterable[pa.RecordBatch], reasons: Mapping[str, int], duplicates: int) -> Found:
    """Read rows (of WHERE) until each reason and the copies have their examples, and no further.

    reasons: rows by reason, duplicates: objects, both of the whole snapshot: they say what there is to find.
    """
    found = Found(failed={reason: [] for reason in reasons})
    wanted = {reason: min(EACH, rows) for reason, rows in reasons.items()}
    copies = min(_TRIED, duplicates)
    for batch in batches if wanted or copies else ():
        if not batch.num_rows:
            continue
        for reason, rows in found.failed.items():
            if len(rows) < wanted[reason]:
                _take(batch, pc.equal(batch.column("reason"), reason), rows, wanted[reason])
        if len(found.copies) < copies:
            _take(batch, pc.equal(batch.column("state"), State.DUPLICATE.value), found.copies, copies)
        if len(found.copies) >= copies and all(len(found.failed[reason]) >= wanted[reason] for reason in wanted):
            break
    return found


def _take(batch: pa.RecordBatch, mask: pa.Array, rows: list[dict[str, Any]], enough: int) -> None:
    """Add the first row of each object that is not there yet, until there are enough."""
    some = batch.filter(pc.fill_null(mask, False))
    known = {row["object_id"] for row in rows}
    ids = pc.unique(some.column("object_id"))[: enough + len(known)]
    first = pc.index_in(ids, value_set=some.column("object_id"))
    fresh = [row for row in some.take(first).to_pylist() if row["object_id"] not in known]
    rows += fresh[: enough - len(rows)]


def siblings(found: Found, results: pa.Table, usable: np.ndarray) -> dict[str, int]:
    """For objects of which some slices failed, the place in the results of the nearest that did not, by object_id.

    results: slices with an answer, with object_id and frame. usable: bool (N,), those that may be shown.
    """
    frames = {row["object_id"]: row["frame"] for rows in found.failed.values() for row in rows}
    nearest: dict[str, int] = {}
    for position in _of_objects(results, frames, usable):
        name = results["object_id"][position].as_py()
        failed, best = frames[name], nearest.get(name)
        # Without a number it is what follows the last good one.
        if best is None or failed is None or _distance(results, position, failed) < _distance(results, best, failed):
            nearest[name] = position
    return {name: nearest[name] for name in list(nearest)[:_BESIDE]}


def _distance(results: pa.Table, position: int, frame: int) -> int:
    return abs((results["frame"][position].as_py() or 0) - frame)


def pairs(found: Found, results: pa.Table, usable: np.ndarray) -> list[tuple[int, int]]:
    """Copies and what they are copies of, as places in the results; those alone that may be shown."""
    wanted = [(row["object_id"], row["duplicate_of"]) for row in found.copies]
    place: dict[str, int] = {}
    for position in _of_objects(results, {name for pair in wanted for name in pair}, usable):
        place.setdefault(results["object_id"][position].as_py(), position)
    return [(place[copy], place[original]) for copy, original in wanted if {copy, original} <= place.keys()][:EACH]


def _of_objects(results: pa.Table, names: Iterable[str], usable: np.ndarray) -> list[int]:
    """Where the slices of a few objects stand that may be shown."""
    hits = pc.is_in(results["object_id"], value_set=pa.array(sorted(names), pa.string()))
    return np.flatnonzero(hits.to_numpy() & usable).tolist()


def told(found: Found, root: str, beside: Mapping[str, Example | None]) -> list[Case]:
    """For the page. root: the archive's URI. beside: pictures of `siblings`, by object_id."""
    return [
        Case(
            reason=reason,
            state=row["state"],
            name=row["uri"].removeprefix(f"{root}/"),
            frame=row["frame"],
            detail=row["detail"] or "",
            beside=beside.get(row["object_id"]),
        )
        for reason, rows in found.failed.items()
        for row in rows
    ]
