"""The results table, read back and brought together with what is known: labels, and sides of a split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mri_ray import metrics
from mri_ray.archive.storage import Location
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.operate import referred
from mri_ray.learn.settings import EvaluationConfig
from mri_ray.predict.levels import level_figures, level_labels
from mri_ray.report import subgroups
from mri_ray.report.facts import Answers

COLUMNS = [
    *("row_id", "object_id", "uri", "member", "frame", "size", "flags", "pixel_digest"),
    *("patient_key", "study_key", "series_key", "instance_key"),
    *("logit", "probability", "decision"),
]


def read(snapshot: Location, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """The slices of a snapshot that have an answer, always in the same order; with COLUMNS some 350 bytes each."""
    filesystem, path = snapshot.arrow()
    rows = ds.dataset(path, filesystem=filesystem, format="parquet")
    # Reading further ahead takes as much again as all that is kept.
    some = rows.scanner([*columns], filter=ds.field("logit").is_valid(), batch_readahead=2, fragment_readahead=2)
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


def answers(
    results: pa.Table,
    *,
    label: np.ndarray,
    side: np.ndarray,
    group: np.ndarray,
    source: np.ndarray,
    lesion_px: np.ndarray,
) -> Answers:
    """What is known beside the results (`read`) and in their order, as of `facts.Answers`."""
    return Answers(
        row_id=results["row_id"].to_numpy(),
        label=label,
        logit=results["logit"].to_numpy(),
        probability=results["probability"].to_numpy(),
        side=side,
        group=group,
        source=source,
        lesion_px=lesion_px,
    )


def by_side(found: Answers, bundle: Bundle, evaluation: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """The figures of every side that has labelled slices, in the order train, validation, test, others.

    Beside those of `metrics.evaluate`: what they are `uncalibrated`, and what is `referred`.
    """
    figures = {}
    for name in _in_order(np.unique(found.side[found.label >= 0]).tolist()):
        mine = np.flatnonzero((found.side == name) & (found.label >= 0))
        label, raw = found.label[mine], found.logit[mine]
        figures[name] = figures_of(found, mine, bundle, evaluation) | {
            "uncalibrated": metrics.uncalibrated(label, raw),
            "referred": referred(label, bundle.calibrated(raw), bundle.threshold, bundle.refer),
        }
    return figures


def figures_of(found: Answers, rows: np.ndarray, bundle: Bundle, evaluation: EvaluationConfig) -> dict[str, Any]:
    """What `metrics.evaluate` gives for some labelled rows (positions) at the bundle's operating point."""
    return metrics.evaluate(
        found.label[rows],
        bundle.calibrated(found.logit[rows]),
        threshold=bundle.threshold,
        groups=found.group[rows],
        prevalences=evaluation.prevalences,
        rounds=evaluation.rounds,
    )


def by_subgroup(
    found: Answers, details: pa.Table, side: str, bundle: Bundle, evaluation: EvaluationConfig
) -> subgroups.Subgroups:
    """Figures of parts of one side. details: of the same rows the columns `subgroups.COLUMNS`."""
    rows = np.flatnonzero((found.side == side) & (found.label >= 0))
    details = details.take(pa.array(rows))
    kinds = subgroups.kinds(details, found.source[rows])
    untold = subgroups.untold(kinds)
    parts: list[dict[str, Any]] = []
    for kind in (kind for kind in kinds if kind not in untold):
        for name, inside in subgroups.in_order(kinds[kind]):
            mine = rows[inside]
            held = {"n": len(mine), "groups": len(np.unique(found.group[mine]))}
            small = subgroups.small(**held)
            figures = None if small else figures_of(found, mine, bundle, evaluation)
            positives = int(found.label[mine].sum())
            parts.append(
                {"kind": kind, "name": name, **held, "positives": positives, "small": small, "figures": figures}
            )
    tumors = found.label[rows] == 1
    sizes, unit = subgroups.lesion_sizes(details.filter(pa.array(tumors)), found.lesion_px[rows[tumors]])
    lesions = subgroups.sensitivities(
        subgroups.lesion_classes(sizes, unit),
        metrics.sigmoid(bundle.calibrated(found.logit[rows[tumors]])) >= bundle.threshold,
        found.group[rows[tumors]],
        unit,
        evaluation.rounds,
    )
    known = np.isfinite(sizes).any()
    untold += [] if known else ["size of the lesion"]
    return subgroups.Subgroups(side=side, parts=parts, lesions=lesions if known else [], unit=unit, untold=untold)


def worst_groups(found: Answers, side: str, bundle: Bundle, most: int = 8) -> list[dict[str, Any]]:
    """Groups of a side with wrong decisions, those with the most first: {n, positives, missed, alarms, row_id}.

    row_id: of the slice whose answer is furthest off; it leads to the rows of the results.
    """
    rows = np.flatnonzero((found.side == side) & (found.label >= 0))
    truth, probability = found.label[rows] == 1, metrics.sigmoid(bundle.calibrated(found.logit[rows]))
    missed, alarms = truth & (probability < bundle.threshold), ~truth & (probability >= bundle.threshold)
    number = np.unique(found.group[rows], return_inverse=True)[1]
    wrong = np.bincount(number, missed | alarms)
    worst = [group for group in np.argsort(-wrong, kind="stable")[:most] if wrong[group]]
    told = []
    for group in worst:
        mine = np.flatnonzero(number == group)
        furthest = mine[np.argmax(np.abs(probability[mine] - truth[mine]))]
        told.append(
            {"n": len(mine), "positives": int(truth[mine].sum())}
            | {"missed": int(missed[mine].sum()), "alarms": int(alarms[mine].sum())}
            | {"row_id": str(found.row_id[rows[furthest]])}
        )
    return told


def most_telling(figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The larger side that the network has not met; where there is none, validation, else training."""
    fresh = [name for name in ("test", "unseen") if name in figures]
    if fresh:
        return max(fresh, key=lambda name: figures[name]["n"])
    return next((name for name in ("validation", "train") if name in figures), None)


def by_level(
    found: Answers,
    keys: pa.Table,
    levels: Mapping[str, pa.Table],
    blank: np.ndarray,
    *,
    threshold: float,
    evaluation: EvaluationConfig,
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
            if (values := level_figures(table, name, mine, threshold=threshold, evaluation=evaluation)) is not None:
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
