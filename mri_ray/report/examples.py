"""Which slices are worth a look, and their pictures as the model saw them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.prepare.objects import rows
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report.facts import Answers, Example

EACH = 6  # pictures of a kind


def choose(answers: Answers, threshold: float, *, side: str | None = None) -> dict[str, np.ndarray]:
    """Positions into the answers by the title they are shown under: errors, then what is certain, and what is not.

    side: only slices of this side of the split.
    """
    inside = np.ones(len(answers.label), bool) if side is None else answers.side == side
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


def pictures(
    chosen: dict[str, np.ndarray],
    answers: Answers,
    results: pa.Table,
    source: tuple[Location, DecodeConfig, PrepareConfig],
) -> list[Example]:
    """Fetch and prepare the chosen slices again (a few dozen objects).

    results: the rows of `answers`, with the columns of the manifest, row_id and decision. What cannot be read any more
    is left out.
    """
    wanted = sorted({int(i) for positions in chosen.values() for i in positions})
    archive, decode, prepare = source
    objects = results.take(pa.array(wanted, pa.int64())).select(["object_id", "version_id", "uri", "size", "etag"])
    objects = objects.group_by(objects.column_names, use_threads=False).aggregate([])  # once each, however many frames
    keys = pc.utf8_slice_codeunits(objects["uri"], start=len(archive.uri) + 1)
    objects = objects.append_column("key", keys).drop_columns(["uri"])
    found = {row.row_id: row.pixels for row in rows(objects, archive, decode, prepare) if row.pixels is not None}
    names = {1: "tumor", 0: "normal"}
    examples = []
    for title, positions in chosen.items():
        for i in positions.tolist():
            picture = found.get(str(answers.row_id[i]))
            if picture is not None:
                examples.append(
                    Example(
                        picture=picture[0],
                        title=title,
                        name=results["uri"][i].as_py().rpartition("/")[2],
                        probability=float(answers.probability[i]),
                        decision=results["decision"][i].as_py(),
                        label=names.get(int(answers.label[i])),
                    )
                )
    return examples
