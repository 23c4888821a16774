"""Which source each row comes from, as far as folders tell: those that name neither a class nor a side of a split."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.cohort import columns
from mri_ray.cohort.labels import class_words, fold_word

MOST = 12
_LEAST_GROUPS = 2


def no_sources(classes: Mapping[str, Sequence[str]], sides: Mapping[str, Sequence[str]]) -> set[str]:
    """The words, folded, of folders that name a class or a side of a split."""
    return {*class_words(classes), *(fold_word(word) for words in sides.values() for word in words)}


def folders(paths: pa.Array | pa.ChunkedArray, without: Collection[str]) -> list[str]:
    """The folders around each path, but those of the words `no_sources`: where a slice came from."""
    around = columns.encoded(pc.replace_substring_regex(paths, "[^/]*$", ""))
    left = [
        "/".join(part for part in folder.split("/") if part and fold_word(part) not in without)
        for folder in around.dictionary.to_pylist()
    ]
    return [left[code] for code in around.indices.to_pylist()]


def sources(
    paths: pa.Array | pa.ChunkedArray, groups: np.ndarray, without: Collection[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """The source of each row as a position in the names, int16 (N,), and their names, ascending.

    paths: below the archive's root, (N,). The first of the `folders` of each is its source when they are at most MOST
    and each holds several groups: those of single patients (whose names may stand there) are none. Then all rows are of
    one source without a name.
    """
    first = pa.array([folder.partition("/")[0] for folder in folders(paths, without)], pa.string())
    names = sorted(pc.unique(first).to_pylist())
    code = pc.index_in(first, value_set=pa.array(names, pa.string())).to_numpy().astype(np.int16)
    few = 1 < len(names) <= MOST
    if few and min(len(np.unique(groups[code == number])) for number in range(len(names))) >= _LEAST_GROUPS:
        return code, names
    return np.zeros(len(code), np.int16), [""]


def others(names: Sequence[str], number: int) -> str:
    """What a network learned from that never saw source `number`."""
    return ", ".join(name or "the root" for place, name in enumerate(names) if place != number)
