"""Rows that must stay together: those of one patient or study, and exact copies of one picture."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group(pixel_digests: Sequence[str | None], joinable: np.ndarray, *owners: Sequence[str | None]) -> np.ndarray:
    """Number the groups of N rows by first appearance, int32 (N,).

    Two rows share a group when a chain of equal owners (a patient, a study; each sequence is a kind of its own) and
    equal pixels links them. joinable: bool (N,); a row that is not (a blank picture looks like any other) is linked by
    its owners only. None links nothing.
    """
    count = len(pixel_digests)
    lengths = [count, len(joinable), *map(len, owners)]
    if len(set(lengths)) > 1:
        raise ValueError(f"group: lengths must agree, got {lengths}")
    if not count:
        return np.empty(0, np.int32)
    edges, size = [], count
    everywhere = np.ones(count, bool)
    for values, usable in ((pixel_digests, np.asarray(joinable, bool)), *((owner, everywhere) for owner in owners)):
        links, nodes = _links(values, usable, size)
        edges.append(links)
        size += nodes
    row, node = np.concatenate(edges, axis=1)
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
