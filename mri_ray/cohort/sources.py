"""Which source each row comes from, as far as folders tell: the first one below the archive's root."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST = 12
_LEAST_GROUPS = 2


def sources(paths: pa.Array | pa.ChunkedArray, groups: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The source of each row as a position in the names, int16 (N,), and their names, ascending.

    paths: below the archive's root, (N,). Folders are sources when they are at most MOST and each holds several groups:
    those of single patients (whose names may stand there) are none. Then all rows are of one source without a name.
    """
    first = pc.replace_substring_regex(paths, "^([^/]*)/.*$|^[^/]*$", "\\1")
    names = sorted(pc.unique(first).to_pylist())
    code = pc.index_in(first, value_set=pa.array(names, pa.string())).to_numpy().astype(np.int16)
    few = 1 < len(names) <= MOST
    if few and min(len(np.unique(groups[code == number])) for number in range(len(names))) >= _LEAST_GROUPS:
        return code, names
    return np.zeros(len(code), np.int16), [""]


def others(names: Sequence[str], number: int) -> str:
    """What a network learned from that never saw source `number`."""
    return ", ".join(name or "the root" for place, name in enumerate(names) if place != number)
