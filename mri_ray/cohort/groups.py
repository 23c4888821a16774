"""Rows that must stay together: those of one patient or study, and exact and near copies of one picture."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group(
    pixel_digests: Sequence[str | None],
    joinable: np.ndarray,
    *owners: tuple[Sequence[str | None], ...],
    near: Sequence[tuple[str, str]] = (),
) -> np.ndarray:
    """Number the groups of N rows by first appearance, int32 (N,).

    Two rows share a group when a chain of equal owners and equal pixels links them. owners: for each kind (patients,
    studies) the columns that tell them; a value in one of its columns is the same owner in another. joinable: bool
    (N,); a row that is not (a blank picture looks like any other) is linked by its owners only. near: pairs of digests
    of pictures that are copies though their pixels differ. None links nothing.
    """
    count = len(pixel_digests)
    lengths = [count, len(joinable), *(len(column) for columns in owners for column in columns)]
    if len(set(lengths)) > 1:
        raise ValueError(f"group: lengths must agree, got {lengths}")
    if not count:
        return np.empty(0, np.int32)
    edges, size = [], count
    everywhere = np.ones(count, bool)
    pictures = _merged(pixel_digests, near)
    kinds = (((pictures,), np.asarray(joinable, bool)), *((columns, everywhere) for columns in owners))
    for columns, usable in kinds:
        links, nodes = _links(columns, usable, size)
        edges.append(links)
        size += nodes
    row, node = np.concatenate(edges, axis=1)
    component = components(size, row, node)[:count]
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[number]


def _merged(digests: Sequence[str | None], near: Sequence[tuple[str, str]]) -> Sequence[str | None]:
    """The digests, with one of them in place of all that a chain of pairs links."""
    if not near:
        return digests
    names = pa.array(chain.from_iterable(near), pa.string()).dictionary_encode()
    one, other = names.indices.to_numpy().reshape(-1, 2).T
    part = components(len(names.dictionary), one, other)
    _, first = np.unique(part, return_index=True)
    known = names.dictionary.to_pylist()
    stands_for = {name: known[first[number]] for name, number in zip(known, part.tolist(), strict=True)}
    return [digest if digest is None else stands_for.get(digest, digest) for digest in digests]


def components(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The number of the part of a graph that each of `count` nodes belongs to, int32 (count,)."""
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def contradicting(picture: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Of every picture that has both labels the first row of each, normal before tumor, int64 (M, 2).

    picture: int (N,), the same number for copies. label: (N,) of 0 and 1.
    """
    (normals, first), (tumors, other) = (_firsts(picture, label == code) for code in (0, 1))
    _, one, two = np.intersect1d(normals, tumors, assume_unique=True, return_indices=True)
    found = np.stack([first[one], other[two]], axis=1)
    return found[np.argsort(found.min(axis=1))]


def _firsts(picture: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.flatnonzero(chosen)
    pictures, first = np.unique(picture[rows], return_index=True)
    return pictures, rows[first]


def _links(columns: tuple[Sequence[str | None], ...], usable: np.ndarray, first_node: int) -> tuple[np.ndarray, int]:
    """Edges (2, E) from rows to the nodes of their values, numbered from `first_node`, and the number of such nodes."""
    encoded = pa.array(chain.from_iterable(columns), pa.string()).dictionary_encode()
    places = np.flatnonzero(np.asarray(encoded.is_valid()) & np.tile(usable, len(columns)))
    nodes = encoded.indices.take(pa.array(places)).to_numpy() + first_node
    return np.stack([places % len(usable), nodes]), len(encoded.dictionary)
