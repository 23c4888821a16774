"""Rows that must stay together: those of one patient, and exact copies of one picture."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group(patients: Sequence[str | None], pixel_digests: Sequence[str | None], joinable: np.ndarray) -> np.ndarray:
    """Number the groups of N rows by first appearance, int32 (N,).

    Two rows share a group when a chain of equal patients and equal pixels links them. joinable: bool (N,); a row that
    is not (a blank picture looks like any other) is linked by its patient only. None links nothing.
    """
    count = len(patients)
    if not len(pixel_digests) == len(joinable) == count:
        raise ValueError(f"group: lengths must agree, got {count}, {len(pixel_digests)} and {len(joinable)}")
    if not count:
        return np.empty(0, np.int32)
    by_patient, patient_count = _links(patients, np.ones(count, bool), count)
    by_pixels, pixels_count = _links(pixel_digests, np.asarray(joinable, bool), count + patient_count)
    row, node = np.concatenate([by_patient, by_pixels], axis=1)
    size = count + patient_count + pixels_count
    graph = coo_array((np.ones(len(row), bool), (row, node)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:count]
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[number]


def _links(values: Sequence[str | None], usable: np.ndarray, first_node: int) -> tuple[np.ndarray, int]:
    """Edges (2, E) from rows to the nodes of their values, numbered from `first_node`, and the number of such nodes."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    rows = np.flatnonzero(np.asarray(encoded.is_valid()) & usable)
    nodes = encoded.indices.take(pa.array(rows)).to_numpy() + first_node
    return np.stack([rows, nodes]), len(encoded.dictionary)
