"""Which slices are worth a look, and their pictures as the model saw them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from mri_ray.report.facts import Answers, Example

EACH = 6  # pictures of a kind


def choose(answers: Answers, threshold: float, *, usable: np.ndarray, side: str | None = None) -> dict[str, np.ndarray]:
    """Positions into the answers by the title they are shown under: errors, then what is certain, and what is not.

    usable: bool (N,), what may be shown. side: only slices of this side of the split.
    """
    inside = usable if side is None else usable & (answers.side == side)
    positive = answers.probability >= threshold
    kinds = {
        "missed tumor": (inside & (answers.label == 1) & ~positive, answers.probability),
        "false alarm": (inside & (answers.label == 0) & positive, -answers.probability),
        "most certain positive": (inside & positive, -answers.probability),
        "most certain negative": (inside & ~positive, answers.probability),
        "nearest the threshold": (inside, np.abs(answers.probability - threshold)),
    }
    chosen = {}
    for title, (wanted, order) in kinds.items():
        found = np.flatnonzero(wanted)
        if len(found):
            chosen[title] = found[np.argsort(order[found], kind="stable")[:EACH]]
    return chosen


def shown(
    chosen: dict[str, np.ndarray],
    answers: Answers,
    results: pa.Table,
    pictures: Mapping[int, np.ndarray],
) -> list[Example]:
    """The chosen slices with their pictures.

    results: the rows of `answers`, with uri and decision. pictures: by row, uint8 (1, S, S); a slice without one, as
    its object cannot be read any more, is left out.
    """
    names = {1: "tumor", 0: "normal"}
    examples = []
    for title, positions in chosen.items():
        for i in positions.tolist():
            found = pictures.get(i)
            if found is not None:
                examples.append(
                    Example(
                        picture=found[0],
                        title=title,
                        name=results["uri"][i].as_py().rpartition("/")[2],
                        probability=float(answers.probability[i]),
                        decision=results["decision"][i].as_py(),
                        label=names.get(int(answers.label[i])),
                    )
                )
    return examples
