"""What passes over whole tables are made of: columns to arrays and back, without a Python object a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.errors import Reason


def groups(rows: pa.Table, *keys: str) -> tuple[np.ndarray, pa.Table]:
    """Number the rows' groups by equal keys (null is a value), int64 (N,), and the keys of each, ascending."""
    code = np.zeros(rows.num_rows, np.int64)
    for key in keys:
        part = codes(rows[key]) + 1
        code = code * (part.max(initial=0) + 1) + part
    _, first, number = np.unique(code, return_index=True, return_inverse=True)
    names = rows.select(list(keys)).take(pa.array(first))
    order = pc.sort_indices(names, sort_keys=[(key, "ascending") for key in keys]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[number], names.take(pa.array(order))


def least(column: Any, owner: np.ndarray, count: int) -> tuple[pa.Array, np.ndarray]:
    """The least value of each owner, null where it has none, and whether it has several; null is no value."""
    found = encoded(column)
    order = pc.sort_indices(found.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    code = found.indices.fill_null(-1).to_numpy()
    known = code >= 0
    low, high = np.full(count, len(order)), np.full(count, -1)
    np.minimum.at(low, owner[known], rank[code[known]])
    np.maximum.at(high, owner[known], rank[code[known]])
    return found.dictionary.take(order).take(pa.array(low, mask=high < 0)), high > low


def outcomes(reasons: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which rows failed, and which were skipped as valid objects that are no MR images; bool (N,) each."""
    found = encoded(reasons)
    skipping = {reason.value for reason in Reason if reason.skips}
    skips = [reason in skipping for reason in found.dictionary.to_pylist()]
    code = found.indices.fill_null(-1).to_numpy()
    skipped = np.array([*skips, False])[code]
    return (code >= 0) & ~skipped, skipped


def flagged(flags: Any, names: Sequence[str]) -> np.ndarray:
    """Whether each row's list of flags holds one of `names`, bool (N,)."""
    lists = whole(flags)
    hits = pc.is_in(pc.list_flatten(lists), value_set=pa.array([str(name) for name in names], pa.string()))
    held = np.zeros(len(lists), bool)
    held[pc.list_parent_indices(lists).filter(hits).to_numpy()] = True
    return held


def flag_lists(held: np.ndarray, names: Sequence[str]) -> pa.Array:
    """bool (N, K) and the K names -> for each row the list of its names, ascending."""
    order = np.argsort([str(name) for name in names])
    ascending = pa.array([str(names[i]) for i in order], pa.string())
    return nested(held.sum(axis=1), ascending.take(pa.array(np.nonzero(held[:, order])[1])))


def codes(column: Any) -> np.ndarray:
    """A number for each distinct value, -1 for null, int64 (N,)."""
    return encoded(column).indices.fill_null(-1).to_numpy().astype(np.int64)


def ranks(column: Any) -> np.ndarray:
    """The place of each value among all, ascending, int64 (N,); equal ones share theirs."""
    return whole(pc.rank(whole(column), tiebreaker="dense")).to_numpy().astype(np.int64)


def whole(column: Any) -> pa.Array:
    """One array, also of a column that came in chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def encoded(column: Any) -> pa.DictionaryArray:
    array = whole(column)
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def starts(*keys: np.ndarray) -> np.ndarray:
    """Where a run of equal keys begins, bool (N,)."""
    begins = np.zeros(len(keys[0]), bool)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins


def nested(sizes: np.ndarray, values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def vectors(column: Any, length: int) -> np.ndarray:
    """Lists of `length` numbers -> float64 (N, length), NaN where there is no such list."""
    lists = whole(column)
    usable = pc.fill_null(pc.equal(pc.list_value_length(lists), length), False)
    found = np.full((len(lists), length), np.nan)
    flat = pc.list_flatten(lists.filter(usable)).to_numpy(zero_copy_only=False)
    found[usable.to_numpy(zero_copy_only=False)] = flat.reshape(-1, length)
    return found


def floats(column: Any) -> np.ndarray:
    return whole(column).cast(pa.float64()).to_numpy(zero_copy_only=False)


def cast(column: Any, kind: pa.DataType) -> pa.Array:
    return (column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)).cast(kind)
