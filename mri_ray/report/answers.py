"""The results table, read back and brought together with what is known: labels, and sides of a split."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mri_ray import metrics
from mri_ray.archive.storage import Location
from mri_ray.predict.levels import level_figures, level_labels
from mri_ray.report.facts import Answers

COLUMNS = [
    *("row_id", "object_id", "uri", "member", "frame", "size", "flags", "pixel_digest"),
    *("patient_key", "study_key", "series_key", "instance_key"),
    *("logit", "probability", "decision"),
]


def read(snapshot: Location) -> pa.Table:
    """The slices of a snapshot that have an answer: the columns COLUMNS, some 350 bytes each."""
    filesystem, path = snapshot.arrow()
    rows = ds.dataset(path, filesystem=filesystem, format="parquet")
    # Reading further ahead takes as much again as all that is kept.
    some = rows.scanner(COLUMNS, filter=ds.field("logit").is_valid(), batch_readahead=2, fragment_readahead=2)
    table = some.to_table()
    pa.default_memory_pool().release_unused()
    return table


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
    figures = {}
    for name in _in_order(np.unique(found.side[found.label >= 0]).tolist()):
        mine = (found.side == name) & (found.label >= 0)
        figures[name] = metrics.evaluate(
            found.label[mine], found.logit[mine], temperature=temperature, threshold=threshold
        )
    return figures


def by_level(
    found: Answers, keys: pa.Table, levels: Mapping[str, pa.Table], blank: np.ndarray, *, threshold: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of studies and patients, by level and side.

    keys: study_key and patient_key of the slices of `found`. levels: the answers, by `study` and `patient`. blank:
    bool (N,), slices that tell nothing of a side, as they look like any other blank one. A study belongs to the most
    spoilt side of its slices: what was trained on is no test.
    """
    order = _in_order(np.unique(found.side).tolist())
    rank = np.zeros(len(found.side), np.int8)
    for code, side in enumerate(order):
        rank[found.side == side] = code
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for level, table in levels.items():
        name = f"{level}_key"
        labels = level_labels(keys[name], found.label)
        sides = _least(keys[name], rank, ~blank, labels["key"])
        for code, side in enumerate(order):
            mine = labels.filter(pa.array(sides == code))
            if (values := level_figures(table, name, mine, threshold=threshold)) is not None:
                figures.setdefault(level, {})[side] = values
    return figures


def _in_order(sides: list[str]) -> list[str]:
    known = {"train": 0, "validation": 1, "test": 2}
    return sorted(sides, key=lambda name: (known.get(name, 3), name))


def _least(owners: pa.ChunkedArray, rank: np.ndarray, usable: np.ndarray, names: pa.ChunkedArray) -> np.ndarray:
    """The lowest rank of each owner (in the order of `names`) among its usable rows; -1 where it has none."""
    place = pc.index_in(owners, value_set=names).fill_null(-1).to_numpy()
    least = np.full(len(names), np.iinfo(np.int8).max, np.int8)
    chosen = usable & (place >= 0)
    np.minimum.at(least, place[chosen], rank[chosen])
    return np.where(least == np.iinfo(np.int8).max, -1, least)
