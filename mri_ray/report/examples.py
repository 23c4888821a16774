"""Which slices are worth a look, and their pictures as they were prepared."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.cohort.columns import flagged, whole
from mri_ray.records import Decision, Flag
from mri_ray.report.facts import Answers, Example

EACH = 6  # pictures of a kind
EACH_FLAG = 3
_LOOKED_AT = 20 * EACH  # of a kind: among these are pictures that differ


def choose(
    answers: Answers, results: pa.Table, threshold: float, *, usable: np.ndarray, side: str | None = None
) -> dict[str, np.ndarray]:
    """Positions into the answers by the title they are shown under: errors, then what is certain, and what is not.

    results: the rows of `answers`, with decision and pixel_digest: a picture is shown once under a title. usable: bool
    (N,), what may be shown. side: only slices of this side of the split.
    """
    inside = usable if side is None else usable & (answers.side == side)
    decided = {name: pc.equal(results["decision"], name.value).to_numpy() for name in Decision}
    positive, negative = decided[Decision.POSITIVE], decided[Decision.NEGATIVE]
    near = np.abs(answers.probability - threshold)
    kinds = {
        "missed tumor": (inside & (answers.label == 1) & negative, answers.probability),
        "false alarm": (inside & (answers.label == 0) & positive, -answers.probability),
        "most certain positive": (inside & positive, -answers.probability),
        "most certain negative": (inside & negative, answers.probability),
        "to refer, nearest the threshold": (inside & decided[Decision.REFER], near),
        "decided, nearest the threshold": (inside & (positive | negative), near),
    }
    chosen = {}
    for title, (wanted, order) in kinds.items():
        found = np.flatnonzero(wanted)
        if len(found):
            first = found[np.argsort(order[found], kind="stable")[:_LOOKED_AT]]
            chosen[title] = _distinct(results["pixel_digest"], first)[:EACH]
    return chosen


def by_flag(answers: Answers, results: pa.Table, usable: np.ndarray) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Slices by flag, and for each flag that tells of the picture those suspected most, each of another object."""
    told = pc.value_counts(pc.list_flatten(whole(results["flags"]))).to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in told}
    chosen = {}
    for flag in counts.keys() - {Flag.NAMED_PATH.value}:
        found = np.flatnonzero(flagged(results["flags"], [flag]) & usable)
        if len(found):
            first = found[np.argsort(-answers.probability[found], kind="stable")[:_LOOKED_AT]]
            chosen[flag] = _distinct(results["object_id"], first)[:EACH_FLAG]
    return counts, dict(sorted(chosen.items()))


def _distinct(names: pa.ChunkedArray, positions: np.ndarray) -> np.ndarray:
    """Of the positions, in their order, the first of each name."""
    some = names.take(pa.array(positions))
    return positions[np.sort(pc.index_in(pc.unique(some), value_set=some).to_numpy())]


def rows(chosen: Mapping[str, np.ndarray]) -> list[int]:
    """All positions, in the order of the titles."""
    return [position for positions in chosen.values() for position in positions.tolist()]


def shown(
    chosen: Mapping[str, np.ndarray],
    answers: Answers,
    results: pa.Table,
    pictures: Mapping[int, np.ndarray],
    heat: Mapping[int, np.ndarray] | None = None,
) -> list[Example]:
    """The chosen slices with their pictures; those without one are left out.

    results: the rows of `answers`, with uri and decision. pictures: by row, uint8 (1, S, S). heat: by row, (S, S).
    """
    made = (
        one(position, title, answers, results, pictures, heat)
        for title, positions in chosen.items()
        for position in positions.tolist()
    )
    return [example for example in made if example is not None]


def one(
    position: int,
    title: str,
    answers: Answers,
    results: pa.Table,
    pictures: Mapping[int, np.ndarray],
    heat: Mapping[int, np.ndarray] | None = None,
) -> Example | None:
    """One slice with its picture; None where there is none, as its object cannot be read any more or is too large."""
    if position not in pictures:
        return None
    return Example(
        picture=pictures[position][0],
        title=title,
        name=results["uri"][position].as_py().rpartition("/")[2],
        frame=results["frame"][position].as_py(),
        probability=float(answers.probability[position]),
        decision=results["decision"][position].as_py(),
        label={1: "tumor", 0: "normal"}.get(int(answers.label[position])),
        heat=(heat or {}).get(position),
    )
