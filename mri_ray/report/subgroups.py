"""Figures of parts of one side: by source, scanner, plane, size of the slice and of the lesion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray import metrics
from mri_ray.cohort.columns import encoded, floats, vectors

COLUMNS = ["width", "height", "manufacturer", "field_strength_t", "normal", "spacing_mm"]  # of the results
LEAST_ROWS, LEAST_GROUPS = 20, 5  # of a part, for figures worth giving
UNKNOWN = "not known"
MOST = 12  # parts of a kind that are listed by name
_PLANES = ("sagittal", "coronal", "axial")  # by the axis that a slice's normal is nearest to
_SIDES_PX = (256, 512)
_LESION = (50, 150, 500, 1500)  # bounds of classes, in pixels, or mm2 where spacings are known


@dataclass(frozen=True, kw_only=True)
class Subgroups:
    """side: the side they are of. parts: {kind, name, n, groups, positives, small, figures}; figures as of
    `metrics.evaluate`, or None where the part is too small. lesions: {name, n, groups, found, sensitivity,
    sensitivity_interval, sensitivity_bootstrap} by ascending size, of tumor slices alone; unit: of those sizes.
    untold: kinds that tell nothing here, as nothing is known or all is of one part.
    """

    side: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    lesions: list[dict[str, Any]] = field(default_factory=list)
    unit: str = "px"
    untold: list[str] = field(default_factory=list)

    @property
    def worst(self) -> list[dict[str, Any]]:
        """Parts with figures, the lowest AUROC (else accuracy) first."""
        told = [part for part in self.parts if part["figures"] is not None]
        return sorted(told, key=lambda part: part["figures"]["auroc"] or part["figures"]["accuracy"])


def kinds(results: pa.Table, source: np.ndarray) -> dict[str, np.ndarray]:
    """What part each row of the results (with COLUMNS) belongs to, str (N,), by kind. source: str (N,)."""
    width, height = floats(results["width"]), floats(results["height"])
    told_t = floats(results["field_strength_t"])
    # 1.494 and 1.5 T are one kind of scanner, 0.2 and 0.06 T are not.
    field_t = np.where(told_t < 1, np.round(told_t, 2), np.round(told_t * 2) / 2)
    maker = encoded(results["manufacturer"])
    names = np.array([*(name.strip().title() for name in maker.dictionary.to_pylist()), UNKNOWN])
    return {
        "source": source,
        "manufacturer": names[maker.indices.fill_null(-1).to_numpy()],
        "field strength": np.array([UNKNOWN if np.isnan(t) else f"{t:g} T" for t in np.unique(field_t)])[
            np.unique(field_t, return_inverse=True)[1]
        ],
        "plane": _plane(vectors(results["normal"], 3)),
        "longer side of the slice": _classes(np.fmax(width, height), _SIDES_PX, "px"),
    }


def lesion_sizes(results: pa.Table, lesion_px: np.ndarray) -> tuple[np.ndarray, str]:
    """Sizes of lesions, NaN unknown: in mm2 where every one has a spacing, else as they are, in pixels.

    A slice that is called tumor and shows no lesion has its label from elsewhere: that is no size either.
    """
    lesion_px = np.where(lesion_px > 0, lesion_px, np.nan)
    spacing = vectors(results["spacing_mm"], 2)
    area = lesion_px * spacing[:, 0] * spacing[:, 1]
    known = np.isfinite(lesion_px)
    return (area, "mm2") if known.any() and np.isfinite(area[known]).all() else (lesion_px, "px")


def lesion_classes(sizes: np.ndarray, unit: str) -> np.ndarray:
    return _classes(sizes, _LESION, unit)


def in_order(names: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Each part and its rows, bool (N,): the largest first, then all others as one, then what is not known."""
    found, count = np.unique(names[names != UNKNOWN], return_counts=True)
    order = sorted(range(len(found)), key=lambda i: (-count[i], found[i]))
    parts = [(str(found[i]), names == found[i]) for i in order[:MOST]]
    if rest := [found[i] for i in order[MOST:]]:
        parts.append((f"{len(rest)} others", np.isin(names, rest)))
    return [*parts, *([(UNKNOWN, names == UNKNOWN)] if (names == UNKNOWN).any() else [])]


def small(n: int, groups: int) -> str | None:
    """Why a part has no figures."""
    if n < LEAST_ROWS or groups < LEAST_GROUPS:
        return f"too small: {n} slices of {groups} groups"
    return None


def sensitivities(
    classes: np.ndarray, found: np.ndarray, groups: np.ndarray, unit: str, rounds: int
) -> list[dict[str, Any]]:
    """By class of lesion, ascending: how many of its tumor slices are found. classes str, found bool, groups, (N,)."""
    rows = []
    for name in (*_class_names(_LESION, unit), UNKNOWN):
        mine = np.flatnonzero(classes == name)
        if not len(mine):
            continue
        # As logits far to either side, since only decisions count here.
        told = metrics.evaluate(
            np.ones(len(mine)), np.where(found[mine], 9.0, -9.0), groups=groups[mine], rounds=rounds
        )
        rows.append(
            {"name": name, "n": len(mine), "found": int(found[mine].sum())}
            | {key: told[key] for key in ("groups", *(f"sensitivity{end}" for end in ("", "_interval", "_bootstrap")))}
        )
    return rows


def untold(found: Mapping[str, np.ndarray]) -> list[str]:
    return [kind for kind, names in found.items() if len(np.unique(names)) < 2]


def _plane(normal: np.ndarray) -> np.ndarray:
    known = np.isfinite(normal).all(axis=1)
    nearest = np.argmax(np.abs(np.where(known[:, None], normal, 0)), axis=1)
    return np.where(known, np.array(_PLANES)[nearest], UNKNOWN)


def _class_names(bounds: tuple[int, ...], unit: str) -> list[str]:
    inner = [f"{low + 1} to {high} {unit}" for low, high in pairwise(bounds)]
    return [f"up to {bounds[0]} {unit}", *inner, f"over {bounds[-1]} {unit}"]


def _classes(values: np.ndarray, bounds: tuple[int, ...], unit: str) -> np.ndarray:
    names = np.array([*_class_names(bounds, unit), UNKNOWN])
    return names[np.where(np.isfinite(values), np.searchsorted(bounds, values), -1)]
