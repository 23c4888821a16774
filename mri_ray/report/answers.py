"""The results table, read back and brought together with what is known: labels, and sides of a split."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mri_ray import metrics
from mri_ray.archive.storage import Location
from mri_ray.report.facts import Answers

COLUMNS = [
    "row_id",
    "object_id",
    "version_id",
    "uri",
    "size",
    "etag",
    "pixel_digest",
    "logit",
    "probability",
    "decision",
]


def read(snapshot: Location) -> pa.Table:
    """The slices of a snapshot that have an answer: the columns COLUMNS."""
    filesystem, path = snapshot.arrow()
    table = pq.read_table(path, filesystem=filesystem, columns=COLUMNS)
    return table.filter(pc.is_valid(table["logit"]))


def lookup(wanted: pa.ChunkedArray, known: Any, values: np.ndarray, default: Any) -> np.ndarray:
    """For each of `wanted` (N,) the value that belongs to it among `known` (M,) and `values` (M,), or the default."""
    place = pc.index_in(wanted, value_set=pa.array(known) if not isinstance(known, pa.ChunkedArray) else known)
    position = place.fill_null(-1).to_numpy()
    found = np.full(len(position), default, dtype=values.dtype)
    found[position >= 0] = values[position[position >= 0]]
    return found


def answers(results: pa.Table, *, label: np.ndarray, side: np.ndarray) -> Answers:
    """label int8 (N,), -1 unknown; side str (N,), "" none: in the order of the results (`read`)."""
    return Answers(
        row_id=results["row_id"].to_numpy(),
        label=label,
        logit=results["logit"].to_numpy(),
        probability=results["probability"].to_numpy(),
        side=side,
    )


def by_side(found: Answers, *, temperature: float, threshold: float) -> dict[str, dict[str, Any]]:
    """The figures of every side that has labelled slices, in the order train, validation, test, others."""
    order = {"train": 0, "validation": 1, "test": 2}
    sides = sorted(np.unique(found.side[found.label >= 0]).tolist(), key=lambda name: (order.get(name, 3), name))
    figures = {}
    for name in sides:
        mine = (found.side == name) & (found.label >= 0)
        figures[name] = metrics.evaluate(
            found.label[mine], found.logit[mine], temperature=temperature, threshold=threshold
        )
    return figures
