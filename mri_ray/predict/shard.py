"""Prepared rows -> rows of the results table: the same for a shard of an archive and for a training's evaluation."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.objects import COLUMNS, Row
from mri_ray.records import RESULTS, State

CHUNK = 256  # rows held at a time; the predictor cuts them into its own micro-batches


def score(rows: Iterable[Row], predictor: Predictor, *, run_id: str) -> pa.Table:
    """Score the rows of one shard -> a table of `records.RESULTS`, one row each, in the same order.

    The state of an object is `scored` when it has at least one slice, else `quarantined`; which objects are
    duplicates is decided by a pass over all shards (`predict.snapshot`), so that it does not depend on their order.
    """
    names = {
        "bundle_digest": predictor.bundle.digest,
        "prepare_digest": predictor.bundle.prepare.digest(),
        "run_id": run_id,
    }
    entries: list[dict[str, Any]] = []
    for chunk in _chunks(rows):
        entries += _answers(chunk, predictor)
    scored = {entry["object_id"] for entry in entries if entry["reason"] is None}
    for entry in entries:
        entry.update(names)
        entry["state"] = (State.SCORED if entry["object_id"] in scored else State.QUARANTINED).value
    return pa.Table.from_pylist(entries, schema=RESULTS)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _answers(chunk: list[Row], predictor: Predictor) -> list[dict[str, Any]]:
    entries = [{name: getattr(row, name) for name in COLUMNS} for row in chunk]
    pictures = [(entry, row.pixels) for entry, row in zip(entries, chunk, strict=True) if row.pixels is not None]
    if not pictures:
        return entries
    answers = predictor.predict(np.stack([pixels for _, pixels in pictures]))
    for (entry, _), logit, probability, decision in zip(
        pictures, answers.logit, answers.probability, answers.decision, strict=True
    ):
        entry.update(logit=logit, probability=probability, decision=decision.value)
    return entries


def tally(table: pa.Table) -> dict[str, Any]:
    """What a shard's table holds, for progress: objects by state, rows, rows by reason."""
    states = dict(zip(table["object_id"].to_pylist(), table["state"].to_pylist(), strict=True))
    reasons = Counter(reason for reason in table["reason"].to_pylist() if reason is not None)
    return {"rows": table.num_rows, "objects": len(states), **Counter(states.values()), "reasons": dict(reasons)}
