"""The archive by its folders, in one pass over the rows of a snapshot."""

import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.records import Decision, State
from mri_ray.report.rows import BATCH_ROWS

COLUMNS = ["uri", "state", "decision", "probability"]
SHOWN = 30
_HELD = 100_000  # folders whose rows are counted apart, in about 10 MB; those met later are counted together
_SUMS = ["objects", *(state.value for state in State), "slices", "positive", "probability"]


@dataclass(frozen=True, kw_only=True)
class Folders:
    """common: the folder that holds all objects, below the archive's root: empty, or ending in "/".

    folders: the biggest ones in it, by objects; each {folder, objects, scored, quarantined, duplicate, skipped, slices,
    positive_share, mean_probability}, the last two None without an answer. A pack is a folder, whose name ends in
    "!"; the folder "" is what lies in `common` itself. others: the same of all other folders together, None where there
    are none. whole: the sum. further: how many folders are in `others`. exact: False where there were too many to hold:
    then `folders` are the biggest of those met first, and `further` is the least there are.
    """

    common: str
    folders: list[dict[str, Any]]
    others: dict[str, Any] | None
    whole: dict[str, Any]
    further: int
    exact: bool


def by_folder(batches: Iterable[pa.RecordBatch], root: str, *, shown: int = SHOWN, held: int = _HELD) -> Folders:
    """Rows (COLUMNS) of a snapshot, in its order, where an object's rows stand together -> sums by folder.

    root: the archive's URI. Folders are those of the first level; while that is one alone, those in it.
    """
    common, sums, rest = None, _EMPTY, _EMPTY
    for paths, batch in _objects(batches, root):
        ends = pc.min_max(paths).as_py()  # what these share, all between share
        shared = os.path.commonprefix([ends["min"], ends["max"], *([] if common is None else [common])])  # noqa: RUF071 - cut below
        shared = shared[: shared.rfind("/") + 1]
        if common is not None and shared != common:  # all so far lies in one folder of those that are counted now
            name = common[len(shared) :].partition("/")[0]
            sums, rest = _together(pa.concat_tables([sums, rest]), name), _EMPTY
        common = shared
        sums = _merged(pa.concat_tables([sums, _by_name(paths, batch, len(shared))]))
        if sums.num_rows > held:
            rest = _together(pa.concat_tables([rest, sums.slice(held)]), "")
            sums = sums.slice(0, held)
    # By name too, so that equal sizes stand in an order that says nothing.
    order = pc.sort_indices(sums, [("objects", "descending"), ("folder", "ascending")])
    ranked = sums.take(order)
    others = _together(pa.concat_tables([ranked.slice(shown), rest]), "")
    return Folders(
        common=common or "",
        folders=[_figures(row) for row in ranked.slice(0, shown).to_pylist()],
        others=_figures(others.to_pylist()[0]) if others["objects"][0].as_py() else None,
        whole=_figures(_together(pa.concat_tables([sums, rest]), "").to_pylist()[0]),
        further=max(ranked.num_rows - shown, 0) + rest.num_rows,
        exact=not rest.num_rows,
    )


_EMPTY = pa.schema([pa.field("folder", pa.string()), *(pa.field(name, pa.float64()) for name in _SUMS)]).empty_table()


def _objects(batches: Iterable[pa.RecordBatch], root: str) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
    """Each batch's paths below the root, and its rows with `begins`: whether a row is the first of its object."""
    last = None
    for batch in _larger(batches):
        uri = batch.column("uri")
        begins = np.ones(len(uri), bool)
        begins[0] = uri[0].as_py() != last
        begins[1:] = pc.not_equal(uri[1:], uri[:-1]).to_numpy(zero_copy_only=False)
        last = uri[-1].as_py()
        yield pc.utf8_slice_codeunits(uri, start=len(root) + 1), batch.append_column("begins", pa.array(begins))


def _larger(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer batches: a snapshot has thousands of small files, and each batch is added to all sums."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) >= BATCH_ROWS:
            yield _one(held)
            held = []
    if any(part.num_rows for part in held):
        yield _one(held)


def _one(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


def _by_name(paths: pa.Array, batch: pa.RecordBatch, skipped: int) -> pa.Table:
    """The sums of a batch by the part of each path that follows the `skipped` first characters, up to the next "/"."""
    parts = pc.split_pattern(pc.utf8_slice_codeunits(paths, start=skipped), "/", max_splits=1)
    nested = pc.greater(pc.list_value_length(parts), 1)
    begins = batch.column("begins")
    probability = batch.column("probability")
    columns = {"objects": begins}
    columns |= {state.value: pc.and_(begins, pc.equal(batch.column("state"), state.value)) for state in State}
    columns["slices"] = pc.is_valid(probability)
    columns["positive"] = pc.fill_null(pc.equal(batch.column("decision"), Decision.POSITIVE.value), False)
    columns["probability"] = pc.fill_null(probability, 0)
    names = pc.if_else(nested, pc.list_element(parts, 0), "")
    return _merged(pa.table([names, *(columns[name].cast(pa.float64()) for name in _SUMS)], schema=_EMPTY.schema))


def _merged(table: pa.Table) -> pa.Table:
    """One row a folder, in the order in which they are met."""
    grouped = table.group_by("folder", use_threads=False).aggregate([(name, "sum") for name in _SUMS])
    return grouped.select(["folder", *(f"{name}_sum" for name in _SUMS)]).rename_columns(_EMPTY.schema.names)


def _together(table: pa.Table, name: str) -> pa.Table:
    """All rows as one folder of this name."""
    sums = [[pc.sum(table[column]).as_py() or 0.0] for column in _SUMS]
    return pa.table([[name], *sums], schema=_EMPTY.schema)


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    counts = {name: int(row[name]) for name in _SUMS[:-2]}
    slices = counts["slices"]
    return {
        "folder": row["folder"],
        **counts,
        "positive_share": row["positive"] / slices if slices else None,
        "mean_probability": row["probability"] / slices if slices else None,
    }
