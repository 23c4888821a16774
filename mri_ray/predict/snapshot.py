"""The finished shards of one generation -> the snapshot: the rows of all live objects, each once, with final states.

Passes over tables, cheap to repeat: nothing is decoded or predicted here. Only ids, digests and states of the whole
archive are held at once (about 200 bytes a row); all other columns pass through shard by shard.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.cohort.columns import flagged
from mri_ray.prepare.objects import joinable, states
from mri_ray.records import RESULTS, Flag, State

COUNTS = "_counts.json"  # written last; readers of Parquet folders pass over names that begin so
_KEPT = ["object_id", "version_id", "uri", "member", "reason", "flags", "pixel_digest"]


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

    schema: RESULTS, or LEDGER for the shards of a preparation. The last shard that holds a version wins (a retry
    supersedes the first try). AssertionError when the objects do not add up: that would be our mistake.
    """
    target = place(manifest, generation, snapshots)
    if (done := finished(target)) is not None:
        return done
    objects = _objects(manifest, generation)
    kept = _duplicates(objects)
    ended = np.where(
        pc.is_valid(kept).to_numpy(zero_copy_only=False), State.DUPLICATE.value, objects["state"].to_numpy()
    )
    overlay = pa.table(
        {
            "object_id": objects["object_id"],
            "part": objects["part"],
            "new_state": pa.array(ended, pa.string()),
            "kept": kept,
        }
    )
    reasons: dict[str, int] = {}
    rows = named = 0
    for number, shard in enumerate(manifest.shards()):
        there = [name for name in schema.names if name not in ("state", "duplicate_of")]
        table = _publish(generation.read_table(outputs.name(shard), there), number, overlay, schema)
        if not table.num_rows:
            continue
        target.write_table(f"part-{number:06d}.parquet", table)
        rows += table.num_rows
        named += int(flagged(table["flags"], [Flag.NAMED_PATH]).sum())
        for entry in pc.value_counts(table["reason"].drop_null()).to_pylist():
            reasons[entry["values"]] = reasons.get(entry["values"], 0) + entry["counts"]
    counts = {"objects": objects.num_rows} | {state.value: int((ended == state.value).sum()) for state in State}
    assert counts["objects"] == sum(counts[state.value] for state in State), counts
    packs = pc.count_distinct(objects["version_id"].filter(objects["packed"])).as_py()
    result = Snapshot(uri=target.uri, counts=counts, packs=packs, named_paths=named, reasons=reasons, rows=rows)
    target.write(COUNTS, json.dumps(asdict(result)).encode())
    return result


def place(manifest: Manifest, generation: Location, snapshots: Location) -> Location:
    """Where the snapshot of a generation lies for what a manifest says the archive holds."""
    return snapshots / digest("snapshot", generation.uri, manifest.digest())


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


def _objects(manifest: Manifest, generation: Location) -> pa.Table:
    """One row a live object, ascending by URI: version_id, object_id, uri, state, part, whether it is packed, digest of
    all its pixels.

    The digest is null for what is never called a copy of another: an object with a failed frame or a blank slice.
    """
    rows = outputs.live(manifest, generation, _KEPT)
    plain = pc.and_(pc.is_null(rows["reason"]), pa.array(joinable(rows["flags"])))
    rows = rows.append_column("packed", pc.is_valid(rows["member"])).append_column("state", states(rows))
    keys = ["version_id", "object_id", "uri", "state", "part", "packed"]
    grouped = (
        rows.select(keys)
        .append_column("picture", pc.if_else(plain, rows["pixel_digest"], pa.scalar(None, pa.string())))
        .group_by(keys, use_threads=False)
        .aggregate([("picture", "list")])
        .sort_by("uri")
    )
    # Joining a list that holds a null gives null: one frame that does not count and the object does not.
    return grouped.select(keys).append_column("digest", pc.binary_join(grouped["picture_list"], " "))


def _duplicates(objects: pa.Table) -> pa.Array:
    """For each object (ascending by URI) the object_id of the first with the same pixels, null for the first itself."""
    digests = objects["digest"].combine_chunks()
    codes = digests.dictionary_encode()
    indices = codes.indices.fill_null(-1).to_numpy()
    first = np.full(len(codes.dictionary), -1, np.int64)
    known = np.flatnonzero(indices >= 0)
    first[indices[known][::-1]] = known[::-1]  # the earliest is written last
    leader = np.where(indices >= 0, first[indices] if len(first) else -1, -1)
    copies = (leader >= 0) & (leader != np.arange(len(leader)))
    ids = objects["object_id"].combine_chunks()
    return ids.take(pa.array(np.where(copies, leader, 0), mask=~copies))


def _publish(table: pa.Table, number: int, overlay: pa.Table, schema: pa.Schema) -> pa.Table:
    """The shard's rows that belong to the snapshot, with their final states, in the shard's order."""
    here = overlay.filter(pc.equal(overlay["part"], number))
    place = pc.index_in(table["object_id"], value_set=here["object_id"])
    table = table.filter(pc.is_valid(place))
    ended = here.take(place.drop_null())
    table = table.append_column("state", ended["new_state"]).append_column("duplicate_of", ended["kept"])
    return table.select(schema.names).cast(schema)
