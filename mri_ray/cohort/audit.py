"""What is to be known of a cohort before anything is learned from it: copies, leaks of a split, contradictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.cohort import columns, shortcuts
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.groups import contradicting
from mri_ray.cohort.labels import CLASSES
from mri_ray.cohort.shortcuts import AuditConfig
from mri_ray.cohort.sources import folders, no_sources
from mri_ray.cohort.split import TEST, SplitConfig

LISTED = 20  # contradictions and groups that are named


def audit(
    cohort: Cohort, config: AuditConfig, split: SplitConfig, classes: Mapping[str, Sequence[str]], seed: int
) -> dict[str, Any]:
    """Plain values: pictures, contradictions, shortcuts (`shortcuts.shortcuts`), leaks of the cohort's own split."""
    traits = shortcuts.traits(cohort.index, folders(cohort.index["path"], no_sources(classes, split.folders)))
    return {
        "pictures": pictures(cohort),
        "contradictions": contradictions(cohort),
        "shortcuts": shortcuts.shortcuts(traits, cohort.label, cohort.group, config, seed),
        "leaks": leaks(cohort, cohort.side),
    }


def pictures(cohort: Cohort) -> dict[str, dict[str, int]]:
    """By class: slices, pictures with other pixels, pictures that are no copies of each other, groups."""
    counted = {
        "pixels": columns.codes(cohort.index["pixel_digest"]),
        "pictures": cohort.index["picture"].to_numpy(),
        "groups": cohort.group,
    }
    return {
        name: {"slices": int((cohort.label == code).sum())}
        | {kind: len(np.unique(numbers[cohort.label == code])) for kind, numbers in counted.items()}
        for code, name in enumerate(CLASSES)
    }


def contradictions(cohort: Cohort) -> dict[str, Any]:
    """How many pictures are labelled both ways; of the first LISTED the URIs of one row called normal, one tumor."""
    both = contradicting(cohort.index["picture"].to_numpy(), cohort.label)
    uris = cohort.index["uri"]
    return {"pictures": len(both), "first": [uris.take(pa.array(pair)).to_pylist() for pair in both[:LISTED]]}


def leaks(cohort: Cohort, side: np.ndarray) -> dict[str, int]:
    """Slices of a split's test side, and how many of them have something on the other sides that spoils them.

    same_pixels: the same picture. copy: that, or a near copy. owner: the same patient or study. any: one of these, be
    it by way of others. side: int8 (N,), of the split, -1 for rows that it leaves out.
    """
    test, others = side == TEST, (side >= 0) & (side != TEST)
    by = {
        "same_pixels": _exact(cohort),
        "copy": cohort.index["picture"].to_numpy(),
        "owner": cohort.index["owner"].combine_chunks().fill_null(-1).to_numpy(),
        "any": cohort.group,
    }
    found = {"test_slices": int(test.sum())}
    for name, number in by.items():
        found[name] = int(np.sum((number[test] >= 0) & np.isin(number[test], number[others])))
    return found


def largest(cohort: Cohort, number: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of the largest sets of rows with one number, the largest first; without those of a single row."""
    values, sizes = np.unique(number, return_counts=True)
    order = np.lexsort((values, -sizes))[:count]
    return [np.flatnonzero(number == values[place]) for place in order if sizes[place] > 1]


def different(number: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The first of the rows with different numbers."""
    _, first = np.unique(number[rows], return_index=True)
    return rows[np.sort(first)[:count]]


def groups(cohort: Cohort) -> list[dict[str, int]]:
    """Of the largest groups: slices, tumor slices, pictures, patients or studies that are known."""
    owner = cohort.index["owner"].combine_chunks().fill_null(-1).to_numpy()
    picture = cohort.index["picture"].to_numpy()
    return [
        {
            "slices": len(rows),
            "tumor": int(cohort.label[rows].sum()),
            "pictures": len(np.unique(picture[rows])),
            "owners": len(np.unique(owner[rows][owner[rows] >= 0])),
        }
        for rows in largest(cohort, cohort.group, LISTED)
    ]


def _exact(cohort: Cohort) -> np.ndarray:
    """The number of each row's pixels among those of its picture: blank ones have none in common."""
    digest = columns.codes(cohort.index["pixel_digest"])
    picture = cohort.index["picture"].to_numpy().astype(np.int64)
    return np.unique(picture * (digest.max(initial=0) + 1) + digest, return_inverse=True)[1]
