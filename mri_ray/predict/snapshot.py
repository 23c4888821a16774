"""The finished shards of one generation -> the snapshot: the rows of all live objects, each once, with final states.

Passes over tables, cheap to repeat: nothing is decoded or predicted here. Only ids, digests, states and URIs of the
whole archive are held at once (`_Objects`); all other columns pass through some shards at a time, and many shards make
one file of the snapshot.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest
from mri_ray.archive.ids import DTYPE, among, fixed, text
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.cohort.columns import flagged
from mri_ray.errors import Reason
from mri_ray.records import RESULTS, Flag, State

COUNTS = "_counts.json"  # written last; readers of Parquet folders pass over names that begin so
_KEPT = ["object_id", "version_id", "uri", "member", "reason", "flags", "pixel_digest"]
_OBJECT = ["part", "version_id", "object_id"]
_STATES = list(State)
_SKIPS = pa.array([reason.value for reason in Reason if reason.skips])


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where the snapshot lies, and the archive as it is now: objects by state, packs opened, rows by reason.

    named_paths: rows whose path repeats a name or id of their own header.
    """

    uri: str
    counts: dict[str, int]
    packs: int
    named_paths: int
    reasons: dict[str, int]
    rows: int


def build(manifest: Manifest, generation: Location, snapshots: Location, schema: pa.Schema = RESULTS) -> Snapshot:
    """Publish the snapshot of a generation whose shards are all there, or find it already whole.

    schema: RESULTS, or LEDGER for the shards of a preparation. Which of several tries of a version stands:
    `outputs.standing`. AssertionError when the objects do not add up: that would be our mistake.
    """
    target = place(manifest, generation, snapshots)
    if (done := finished(target)) is not None:
        return done
    objects = _objects(manifest, generation)
    kept = _duplicates(objects)
    state = np.where(kept >= 0, _STATES.index(State.DUPLICATE), objects.state)
    # Shards of packs may be large: what is read ahead is no more than a few files of the snapshot.
    largest = int(np.bincount(objects.part, weights=objects.rows).max(initial=1))
    threads = max(1, min(generation.config.threads, outputs.CHUNK_ROWS // largest))
    reasons: Counter[str] = Counter()
    rows = named = 0
    columns = [name for name in schema.names if name not in ("state", "duplicate_of")]
    for number, table in enumerate(outputs.tables(generation, manifest.shards(), columns, threads)):
        table = _ended(table, objects, state, kept, schema)
        if not table.num_rows:
            continue
        target.write_table(f"part-{number:06d}.parquet", table)
        rows += table.num_rows
        named += int(flagged(table["flags"], [Flag.NAMED_PATH]).sum())
        reasons.update(
            {one["values"]: one["counts"] for one in pc.value_counts(table["reason"].drop_null()).to_pylist()}
        )
    counts = {"objects": len(state)} | {each.value: int((state == code).sum()) for code, each in enumerate(_STATES)}
    assert counts["objects"] == sum(counts[each.value] for each in _STATES), counts
    assert rows == objects.rows.sum(), (rows, objects.rows.sum())
    packs = len(np.unique(objects.version_id[objects.packed]))
    result = Snapshot(uri=target.uri, counts=counts, packs=packs, named_paths=named, reasons=dict(reasons), rows=rows)
    target.write(COUNTS, json.dumps(asdict(result)).encode())
    return result


def place(manifest: Manifest, generation: Location, snapshots: Location) -> Location:
    """Where the snapshot of a generation lies for what a manifest says the archive holds."""
    return snapshots / digest("snapshot", generation.uri, manifest.digest(), str(outputs.CHUNK_ROWS))


def finished(place: Location) -> Snapshot | None:
    """The snapshot at a place, if it is whole: the rows that it counted are there, and its objects add up."""
    try:
        counted = Snapshot(**json.loads(place.read(COUNTS)))
    except FileNotFoundError:
        return None
    filesystem, path = place.arrow()
    rows = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").count_rows()
    adds_up = counted.counts["objects"] == sum(counted.counts[state.value] for state in State)
    return counted if adds_up and rows == counted.rows else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Objects:
    """Arrays, one entry an object and try, by part ascending: some 60 bytes each, and its URI.

    version_id, object_id, picture: `archive.ids`. picture: names all its pixels; b"" for what is never called a copy of
    another: an object with a failed frame or a blank slice. state: position in _STATES. rows: how many it has.
    """

    version_id: np.ndarray
    object_id: np.ndarray
    picture: np.ndarray
    uri: pa.ChunkedArray
    part: np.ndarray
    state: np.ndarray
    packed: np.ndarray
    lost: np.ndarray
    rows: np.ndarray

    def where(self, mask: np.ndarray) -> "_Objects":
        chosen = {field.name: getattr(self, field.name)[mask] for field in fields(self) if field.name != "uri"}
        return _Objects(**chosen, uri=self.uri.filter(pa.array(mask)))


def _objects(manifest: Manifest, generation: Location) -> _Objects:
    """The live objects as the tries that stand have found them; notes all tries for later runs."""
    every = _gathered(outputs.tables(generation, manifest.shards(), _KEPT))
    outputs.note_tries(manifest, generation, every.version_id, every.part, every.lost)
    stands = ~among(every.version_id, fixed(manifest.gone()))
    live = np.flatnonzero(stands)
    version = np.unique(every.version_id[live], return_inverse=True)[1]
    stands[live] = outputs.standing(version, every.part[live], every.lost[live], every.rows[live])
    return every if stands.all() else every.where(stands)


def _gathered(tables: Iterable[pa.Table]) -> _Objects:
    parts = [_by_object(table) for table in tables]
    columns: dict[str, Any] = {}
    for name in [field.name for field in fields(_Objects)]:
        found = [part.pop(name) for part in parts]
        columns[name] = pa.chunked_array(found) if name == "uri" else np.concatenate(found)
    return _Objects(**columns)


def _by_object(rows: pa.Table) -> dict[str, Any]:
    """The columns of _Objects, from whole parts."""
    fine = pc.is_null(rows["reason"])
    plain = pc.and_(fine, pa.array(~flagged(rows["flags"], [Flag.BLANK])))
    columns = {
        "packed": pc.is_valid(rows["member"]),
        "fine": fine,
        "skips": pc.is_in(rows["reason"], value_set=_SKIPS),
        "lost": pa.array(outputs.transient(rows["reason"])),
        "picture": pc.if_else(plain, rows["pixel_digest"], pa.scalar(None, pa.string())),
    }
    aggregates = [("uri", "first"), ("packed", "first"), ("fine", "any"), ("fine", "count"), ("skips", "all")]
    aggregates += [("lost", "any"), ("picture", "list")]
    table = pa.table({name: rows[name] for name in (*_OBJECT, "uri")} | columns)
    found = table.group_by(_OBJECT, use_threads=False).aggregate(aggregates)
    scored, skipped = found["fine_any"].to_numpy(), found["skips_all"].to_numpy()
    others = np.where(skipped, _STATES.index(State.SKIPPED), _STATES.index(State.QUARANTINED))
    return {
        "version_id": fixed(found["version_id"]),
        "object_id": fixed(found["object_id"]),
        # Joining a list that holds a null gives null: one frame that does not count and the object does not.
        "picture": _pictures(pc.binary_join(found["picture_list"], " ").combine_chunks()),
        "uri": found["uri_first"].combine_chunks().cast(pa.large_string()),  # so many make more than 2 GiB
        "part": found["part"].to_numpy(),
        "state": np.where(scored, _STATES.index(State.SCORED), others).astype(np.int8),
        "packed": found["packed_first"].to_numpy(),
        "lost": found["lost_any"].to_numpy(),
        "rows": found["fine_count"].to_numpy().astype(np.int32),
    }


def _pictures(digests: pa.Array) -> np.ndarray:
    """Digests of each object's slices, joined -> one of `ids.DTYPE` for each, b"" for null."""
    found = np.zeros(len(digests), DTYPE)
    length = pc.fill_null(pc.binary_length(digests), 0).to_numpy()
    one, several = length == 2 * DTYPE.itemsize, np.flatnonzero(length > 2 * DTYPE.itemsize)
    found[one] = fixed(digests.filter(pa.array(one)))
    names = [digest("pictures", each) for each in digests.take(pa.array(several)).to_pylist()]
    found[several] = fixed(pa.array(names, pa.string()))
    return found


def _duplicates(objects: _Objects) -> np.ndarray:
    """For each object the place of the first by URI with the same pixels; -1 for the first itself, and for most."""
    _, code, count = np.unique(objects.picture, return_inverse=True, return_counts=True)
    alike = np.flatnonzero((objects.picture != b"") & (count[code] > 1))
    order = alike[pc.sort_indices(objects.uri.take(pa.array(alike))).to_numpy()]
    first = np.full(len(count), -1)
    first[code[order][::-1]] = order[::-1]  # the earliest is written last
    kept = np.full(len(code), -1)
    kept[order] = first[code[order]]
    return np.where(kept == np.arange(len(kept)), -1, kept)


def _ended(table: pa.Table, objects: _Objects, state: np.ndarray, kept: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Those rows of whole parts that belong to the snapshot, with their final states, in their order."""
    part = table["part"].to_numpy()
    begin, end = np.searchsorted(objects.part, [part[0], part[-1] + 1])
    known = _pairs(objects.version_id[begin:end], objects.object_id[begin:end])
    place = pc.index_in(_pairs(fixed(table["version_id"]), fixed(table["object_id"])), value_set=known)
    place = place.fill_null(-1).to_numpy()
    mine = (place >= 0) & (np.append(objects.part[begin:end], -1)[place] == part)  # else another try of it stands
    place = begin + place[mine]
    first = kept[place]
    names = text(objects.object_id[first[first >= 0]])
    found = {
        "state": pa.array(_STATES, pa.string()).take(pa.array(state[place])),
        "duplicate_of": names.take(pa.array(np.cumsum(first >= 0) - 1, mask=first < 0)),
    }
    table = table.filter(pa.array(mine))
    for name, column in found.items():
        table = table.append_column(name, column)
    return table.select(schema.names).cast(schema)


def _pairs(versions: np.ndarray, objects: np.ndarray) -> pa.Array:
    raw = np.stack([versions, objects], axis=1).tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * DTYPE.itemsize), len(versions), [None, pa.py_buffer(raw)])
