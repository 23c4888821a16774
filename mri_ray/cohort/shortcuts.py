"""What tells the class without looking at anatomy: each trait of files and pictures by itself.

A network may be right for such a trait's sake, and then fails wherever tumors and traits do not come together. Each is
held against the class by a small model of its own, cross-validated by group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.cohort import columns
from mri_ray.errors import ConfigError

# What is read of prepared rows.
INDEX = [
    *("size", "width", "height", "stored", "mode", "mean_level", "border_level", "spacing_mm"),
    *("manufacturer", "field_strength_t", "sequence", "body_part"),
]
REMOVED, PARTLY, KEPT = "yes", "partly", "no"
_MEANING = {
    REMOVED: "preparation removes it, but what came with it may stay",
    PARTLY: "preparation removes a part of it, but the rest and what came with it may stay",
    KEPT: "preparation does not remove it",
}

_DEPTH, _LEAST_LEAF, _LEAF_SHARE = 4, 5, 1 / 200  # of the trees
_PRIOR = 2.0  # rows of the average that a word begins with
_DRAWS = 400  # of the bootstrap
_MOST_ROWS = 100_000  # whole groups are drawn up to so many


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """shortcut_auroc: where the interval of a trait's AUROC lies above it, the run warns; 0.5 to 1."""

    shortcut_auroc: float = 0.75
    folds: int = 5

    def __post_init__(self) -> None:
        if not 0.5 <= self.shortcut_auroc <= 1:
            raise ConfigError(f"shortcut_auroc: must lie between 0.5 and 1, got {self.shortcut_auroc}")
        if not 2 <= self.folds <= 20:
            raise ConfigError(f"folds: must lie between 2 and 20, got {self.folds}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trait:
    """values: float64 (N, K), NaN where unknown; or codes int64 (N,) of words, -1 where unknown.

    removed: whether the network still sees it, one of REMOVED, PARTLY, KEPT.
    """

    name: str
    values: np.ndarray
    removed: str

    @property
    def known(self) -> np.ndarray:
        return self.values >= 0 if self.values.ndim == 1 else ~np.isnan(self.values).any(axis=1)


def traits(rows: pa.Table, folders: Sequence[str]) -> Iterator[Trait]:
    """Those that are known of any row: columns INDEX; folders: what `sources.folders` gives."""
    number = {name: columns.floats(rows[name]) for name in INDEX if _is_number(rows[name].type)}
    spacing = columns.vectors(rows["spacing_mm"], 2)
    every = [
        Trait(name="size", values=np.stack([number["width"], number["height"]], axis=1), removed=REMOVED),
        Trait(name="aspect", values=(number["width"] / number["height"])[:, None], removed=PARTLY),
        Trait(name="mode", values=columns.codes(rows["mode"]), removed=REMOVED),
        Trait(name="format", values=columns.codes(rows["stored"]), removed=REMOVED),
        Trait(name="file bytes", values=number["size"][:, None], removed=REMOVED),
        Trait(name="border", values=number["border_level"][:, None], removed=PARTLY),
        Trait(name="mean intensity", values=number["mean_level"][:, None], removed=KEPT),
        Trait(name="pixel spacing", values=spacing, removed=PARTLY),
        Trait(name="source folder", values=columns.codes(pa.array(folders, pa.string())), removed=KEPT),
        Trait(name="manufacturer", values=columns.codes(rows["manufacturer"]), removed=KEPT),
        Trait(name="field strength", values=number["field_strength_t"][:, None], removed=KEPT),
        Trait(name="sequence", values=columns.codes(rows["sequence"]), removed=KEPT),
        Trait(name="body part", values=columns.codes(rows["body_part"]), removed=KEPT),
    ]
    return (trait for trait in every if trait.known.any())


def shortcuts(
    every: Iterator[Trait], label: np.ndarray, group: np.ndarray, config: AuditConfig, seed: int
) -> dict[str, dict[str, Any]]:
    """How well each trait alone tells the class of rows in groups it has not seen, the best first; plain values.

    auroc with auroc_interval (95 %, by a bootstrap over groups), known: the share of rows that it is known of, removed,
    suspect: whether the whole interval lies above the bound. None where there are fewer than two groups of a class.
    """
    some = _sample(group, seed)
    label, group = label[some], np.unique(group[some], return_inverse=True)[1]
    groups = min((len(np.unique(group[label == code])) for code in (0, 1)), default=0)
    parts = _folds(label, group, min(config.folds, groups), seed) if groups > 1 else []
    found: dict[str, dict[str, Any]] = {}
    area: float | None
    interval: list[float] | None
    for trait in every:
        values, known = trait.values[some], float(trait.known.mean())
        area, interval = None, None
        if parts and (values == values[0]).all():
            area, interval = 0.5, [0.5, 0.5]
        elif parts:
            area, interval = _area(_scores(values, label, parts), label, group, seed)
        found[trait.name] = {
            "auroc": area,
            "auroc_interval": interval,
            "known": round(known, 4),
            "removed": trait.removed,
            "suspect": interval is not None and interval[0] >= config.shortcut_auroc,
        }
    return dict(sorted(found.items(), key=lambda item: -(item[1]["auroc"] or 0)))


def warnings(found: Mapping[str, Mapping[str, Any]], config: AuditConfig) -> list[str]:
    """A sentence for every suspect trait."""
    return [
        f"shortcut: {name} alone tells the class with an AUROC of {facts['auroc']:.3f} "
        f"({facts['auroc_interval'][0]:.3f} to {facts['auroc_interval'][1]:.3f}, on groups not seen; "
        f"audit.shortcut_auroc is {config.shortcut_auroc:g}); "
        f"{_MEANING[facts['removed']]}: figures on this archive alone do not tell "
        "whether tumors were learned"
        for name, facts in found.items()
        if facts["suspect"]
    ]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _sample(group: np.ndarray, seed: int) -> np.ndarray:
    """Positions of the rows of whole groups, all of them or groups drawn until there are enough rows."""
    if len(group) <= _MOST_ROWS:
        return np.arange(len(group))
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    kept = np.zeros(len(sizes), bool)
    kept[order[np.cumsum(sizes[order]) <= _MOST_ROWS]] = True
    return np.flatnonzero(kept[group])


def _folds(label: np.ndarray, group: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold  # half a second, which not every process needs

    return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(label, label, group))


def _scores(values: np.ndarray, label: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """How likely each row is a tumor, by a model that has not seen its group; float64 (N,)."""
    score = np.empty(len(label))
    for train, test in parts:
        predict = _of_words if values.ndim == 1 else _of_numbers
        score[test] = predict(values[train], label[train], values[test])
    return score


def _of_words(known: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The share of tumors among rows with the same word."""
    size = int(max(known.max(initial=-1), asked.max(initial=-1))) + 2  # the last one is for unknown
    known, asked = known % size, asked % size
    tumors, rows = np.bincount(known, label, size), np.bincount(known, minlength=size)
    return ((tumors + _PRIOR * label.mean()) / (rows + _PRIOR))[asked]


def _of_numbers(known: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.tree import DecisionTreeClassifier

    if len(np.unique(label)) < 2:
        return np.full(len(asked), label.mean())
    least = max(_LEAST_LEAF, round(_LEAF_SHARE * len(label)))
    tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=least, random_state=0)
    return tree.fit(known, label).predict_proba(asked)[:, 1]


def _area(score: np.ndarray, label: np.ndarray, group: np.ndarray, seed: int) -> tuple[float, list[float]]:
    """AUROC, and its 95 % interval by a bootstrap over groups."""
    from scipy.sparse import coo_array  # slow to import, and every job reads this module for its settings

    levels, level = np.unique(score, return_inverse=True)
    shape = (len(levels), int(group.max()) + 1)
    sums = [coo_array((label == code, (level, group)), shape=shape, dtype=np.float64).tocsr() for code in (1, 0)]
    rng, whole = np.random.default_rng(seed), np.ones(shape[1])
    drawn = [np.bincount(rng.integers(shape[1], size=shape[1]), minlength=shape[1]) for _ in range(_DRAWS)]
    area, *others = (_auroc(*(part @ times for part in sums)) for times in (whole, *drawn))
    low, high = np.nanquantile(others, (0.025, 0.975)).tolist()
    return round(area, 4), [round(low, 4), round(high, 4)]


def _auroc(tumors: np.ndarray, normals: np.ndarray) -> float:
    """From how many of each class have each score, ascending; ties count half; NaN with one class only."""
    below = np.cumsum(normals) - normals
    pairs = tumors.sum() * normals.sum()
    return float(tumors @ (below + normals / 2) / pairs) if pairs else float("nan")
