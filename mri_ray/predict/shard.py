"""Prepared rows -> rows of the results table: the same for a shard of an archive and for a training's evaluation."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.effort import DECODE, PREDICT, Effort
from mri_ray.prepare.masks import pixels_each
from mri_ray.prepare.objects import Row, batched, states
from mri_ray.records import RESULTS


def score(rows: Iterable[Row], predictor: Predictor, *, run_id: str, effort: Effort | None = None) -> pa.Table:
    """Score the rows of one shard -> a table of `records.RESULTS`, one row each, in the same order.

    Which objects are duplicates is decided by a pass over all shards (`predict.snapshot`), so that it does not depend
    on their order. effort: is told where the time went, and how many pictures were predicted at a time.
    """
    effort = effort or Effort()
    names = {
        "state": "",  # known when all rows of an object are
        "bundle_digest": predictor.bundle.digest,
        "prepare_digest": predictor.bundle.prepare.digest(),
        "run_id": run_id,
    }
    batches = [
        pa.RecordBatch.from_pylist([entry | names for entry in _answers(chunk, predictor, effort)], schema=RESULTS)
        for chunk in batched(effort.drawing(DECODE, rows))
    ]
    table = pa.Table.from_batches(batches, RESULTS)
    return table.set_column(table.schema.get_field_index("state"), RESULTS.field("state"), states(table))


def _answers(chunk: list[Row], predictor: Predictor, effort: Effort) -> list[dict[str, Any]]:
    entries = [dict(row.columns) for row in chunk]
    pictures = [(entry, row.pixels) for entry, row in zip(entries, chunk, strict=True) if row.pixels is not None]
    if not pictures:
        return entries
    effort.pictures.append(len(pictures))
    with effort.stage(PREDICT):
        answers = predictor.predict(np.stack([pixels for _, pixels in pictures]))
    for (entry, _), logit, probability, decision in zip(
        pictures, answers.logit, answers.probability, answers.decision, strict=True
    ):
        entry.update(logit=logit, probability=probability, decision=decision.value)
    if answers.lesion is not None:
        for (entry, pixels), marked in zip(pictures, answers.lesion.tolist(), strict=True):
            entry.update(_extent(marked, entry, pixels.shape[-1]))
    return entries


def _extent(marked: float, entry: dict[str, Any], size: int) -> dict[str, float | None]:
    """How large a lesion of so many pixels of a prepared picture is in its slice."""
    spacing = entry["spacing_mm"]
    pixels = marked * pixels_each(entry["crop"], entry["width"], entry["height"], spacing, size)
    return {"lesion_px": pixels, "lesion_mm2": None if spacing is None else pixels * spacing[0] * spacing[1]}


def fills(pictures: Iterable[int], micro_batch: int) -> dict[float, int]:
    """How full the batches of the network were: from the pictures of each call, batches by share of what one holds."""
    batches: Counter[float] = Counter()
    for count in pictures:
        whole, rest = divmod(count, micro_batch)
        batches[1.0] += whole
        batches[rest / micro_batch] += rest > 0
    return dict(+batches)


def tally(table: pa.Table) -> dict[str, Any]:
    """What a shard's table holds, for progress: objects by state, rows, rows by reason."""
    ended = dict(zip(table["object_id"].to_pylist(), table["state"].to_pylist(), strict=True))
    reasons = Counter(reason for reason in table["reason"].to_pylist() if reason is not None)
    return {"rows": table.num_rows, "objects": len(ended), **Counter(ended.values()), "reasons": dict(reasons)}
