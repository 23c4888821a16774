"""What the shards of a manifest have given: one file a shard, under the shard's own name, read back as one table."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason

_TRANSIENT = pa.array([reason.value for reason in Reason if reason.transient])


def name(shard: Shard) -> str:
    """The name of a shard's output below its generation; it is there whole or not at all."""
    return f"{shard.digest}.parquet"


def missing(manifest: Manifest, outputs: Location) -> list[Shard]:
    """Shards without output, in the manifest's order."""
    there = set(outputs.keys())
    return [shard for shard in manifest.shards() if name(shard) not in there]


def live(manifest: Manifest, outputs: Location, columns: list[str], shards: Sequence[Shard] | None = None) -> pa.Table:
    """Rows of all live objects (of `shards`; None: of all), with the place of each.

    part: the shard's number; place: the row's, in its file; int32 both.
    Where a version was tried again, the rows of the try stand that lost nothing to the storage, else of the one that
    got furthest; of equals, the newest. `columns` must hold version_id and reason.
    """
    gone = manifest.gone()
    pieces = []
    for number, shard in enumerate(manifest.shards() if shards is None else shards):
        table = outputs.read_table(name(shard), columns=columns)
        count = table.num_rows
        table = table.append_column("part", pa.array(np.full(count, number), pa.int32()))
        table = table.append_column("place", pa.array(np.arange(count), pa.int32()))
        pieces.append(table.filter(pc.invert(pc.is_in(table["version_id"], value_set=gone))))
    every = pa.concat_tables(pieces)  # never empty: a run refuses an archive without objects
    tries = pa.table(
        {
            "version_id": every["version_id"],
            "part": every["part"],
            "lost": pc.is_in(every["reason"], value_set=_TRANSIENT),
            "rows": pa.array(np.ones(every.num_rows, np.int64)),
        }
    )
    tries = tries.group_by(["version_id", "part"]).aggregate([("lost", "max"), ("rows", "sum")])
    tries = tries.sort_by([("lost_max", "ascending"), ("rows_sum", "descending"), ("part", "descending")])
    best = tries.group_by("version_id", use_threads=False).aggregate([("part", "first")])
    current = best["part_first"].take(pc.index_in(every["version_id"], value_set=best["version_id"]))
    return every.filter(pc.equal(every["part"], current))


def to_retry(manifest: Manifest, outputs: Location) -> pa.Array:
    """Live versions whose failure may have passed (`Reason.transient`), unless a shard yet to be done holds them."""
    todo = set(missing(manifest, outputs))
    finished = [shard for shard in manifest.shards() if shard not in todo]
    if not finished:
        return pa.array([], pa.string())
    rows = live(manifest, outputs, ["version_id", "reason"], finished)
    failed = pc.unique(rows["version_id"].filter(pc.is_in(rows["reason"], value_set=_TRANSIENT)))
    for shard in todo if len(failed) else ():
        failed = failed.filter(pc.invert(pc.is_in(failed, value_set=manifest.read_shard(shard)["version_id"])))
    return failed
