"""Masks of an archive's lesions, brought beside its prepared rows: one file a shard, of the same name and rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest
from mri_ray.archive.ids import among, fixed
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.several import Archive
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import LabelError
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.plan import CHUNK_ROWS, Rows
from mri_ray.on_ray import shards
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.work import ONE_CPU, Facts, Members, discreet
from mri_ray.predict import heatmap
from mri_ray.predict.heatmap import Agreement
from mri_ray.prepare.masks import COLUMNS, SCHEMA, UNREADABLE, MaskNames, masks_of

_LOOKED_AT = 128  # rows of a task
_MOST = 20_000  # rows of a side whose heat maps are looked at


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskShard:
    """Writes what masks tell of the prepared rows of one shard."""

    manifest: Manifest
    prepared: Location
    masks: Archive
    names: MaskNames
    decode: DecodeConfig
    size: int
    place: Location

    def __call__(self, shard: Shard) -> Facts:
        return self.gather(shard, [self.part(shard, 0, shard.objects, crashed=False)])

    def part(self, shard: Shard, start: int, stop: int, *, crashed: bool, members: Members | None = None) -> pa.Table:
        """Rows of the objects; members of packs belong to the last of them, and have no masks."""
        objects = self.manifest.read_shard(shard)
        rows = self.prepared.read_table(outputs.name(shard), COLUMNS)
        ids = objects["object_id"].to_pylist()
        number = {object_id: place for place, object_id in enumerate(ids)}
        mine = [start <= number.get(object_id, len(ids) - 1) < stop for object_id in rows["object_id"].to_pylist()]
        keys = self.names.of_objects(objects["key"].to_pylist())
        known = {object_id: key for object_id, key in zip(ids, keys, strict=True) if key is not None}
        some = rows.filter(pa.array(mine, pa.bool_()))
        found = masks_of(some, {} if crashed else known, self.masks, self.decode, self.size)
        if crashed:
            fault = pa.array(
                [UNREADABLE if object_id in known else None for object_id in some["object_id"].to_pylist()]
            )
            found = found.set_column(3, SCHEMA.field("fault"), fault.cast(pa.string()))
        return found

    def count(self, shard: Shard, place: int) -> int:
        return 1

    def gather(self, shard: Shard, parts: Sequence[pa.Table]) -> Facts:
        every = pa.concat_tables([SCHEMA.empty_table(), *parts])
        order = self.prepared.read_table(outputs.name(shard), ["row_id"])["row_id"]
        place = {row_id: number for number, row_id in enumerate(every["row_id"].to_pylist())}
        every = every.take(pa.array([place[row_id] for row_id in order.to_pylist()], pa.int64()))
        self.place.write_table(outputs.name(shard), every, if_absent=True, row_group_size=CHUNK_ROWS)
        return {"listed": shard.objects, "objects": shard.objects, "bytes": shard.bytes}


def bring(
    masks: Archive,
    prepared: Location,
    manifest: Manifest,
    cache: Location,
    *,
    decode: DecodeConfig,
    size: int,
    workers: int | None,
) -> tuple[Location, MaskNames]:
    """Bring the masks below a location beside the prepared rows, those that are not there yet; where they lie.

    Raises LabelError when there is no mask.
    """
    batches = list(masks.list())
    listing = pa.Table.from_batches(batches) if batches else None
    if listing is None or not listing.num_rows:
        raise LabelError(f"masks: must hold at least one object, got none below {masks.uri}")
    entries = digest("listing", *(text for name in ("key", "etag") for text in listing[name].to_pylist()))
    place = cache / "masks" / digest("masks 1", masks.uri, entries, prepared.name)
    names = MaskNames(keys=listing["key"].combine_chunks())
    work = MaskShard(
        manifest=manifest, prepared=prepared, masks=masks, names=names, decode=decode, size=size, place=place
    )
    for _ in shards.run(outputs.missing(manifest, place), lambda: work, workers=workers):
        pass
    return place, names


def told(rows: pa.Table, place: Location, manifest: Manifest, names: MaskNames) -> tuple[np.ndarray, np.ndarray, int]:
    """Of labelled rows (with part and place): marked float64 (N,), NaN without a mask; fault str (N,); and how many
    masks are of none of them."""
    table = pa.concat_tables(outputs.tables(place, manifest.shards(), ["lesion_px", "fault"]))
    some = table.take(pa.array(np.searchsorted(_places(table), _places(rows))))
    marked = some["lesion_px"].to_numpy().astype(np.float64)
    fault = np.array([reason or "" for reason in some["fault"].to_pylist()], object)
    used: set[str | None] = set()
    labelled = np.unique(fixed(rows["object_id"]))
    for shard in manifest.shards():
        objects = manifest.read_shard(shard)
        some = objects.filter(pa.array(among(fixed(objects["object_id"]), labelled)))
        used.update(names.of_objects(some["key"].to_pylist()))
    return marked, fault, len(names.keys) - len(used - {None})


def looked_at(bundle: Bundle, prepared: Prepared, rows: Rows, group: np.ndarray, *, seed: int) -> dict[str, Any]:
    """How well heat maps agree with the masks of one side (`heatmap.figures`); of at most _MOST rows, whole groups.

    rows: with what is known of their masks. group: int (N,), whose they are.
    """
    some = np.flatnonzero(rows.known if rows.known is not None else np.zeros(len(rows), bool))
    some = some[_some_groups(group[some], seed)]
    held, at = ray.put(bundle), ray.put(prepared)
    parts = [rows.take(some[start : start + _LOOKED_AT]) for start in range(0, len(some), _LOOKED_AT)]
    seen = ray.get([_agreement.remote(held, at, part) for part in parts])
    names = [field.name for field in fields(Agreement)]
    joined = {name: np.concatenate([getattr(part, name) for part in seen]) for name in names} if seen else {}
    return heatmap.figures(Agreement(**joined), group[some]) if joined else {}


def _some_groups(group: np.ndarray, seed: int) -> np.ndarray:
    """Positions of rows of groups drawn until they are _MOST, ascending; at least one group's."""
    names, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = np.cumsum(counts[order]) <= _MOST
    taken[:1] = True
    return np.flatnonzero(np.isin(inverse, order[taken]))


@ray.remote(**ONE_CPU)
def _agreement(bundle: Bundle, prepared: Prepared, rows: Rows) -> Agreement:
    with discreet():
        return heatmap.agreement(heatmap.heatmaps(bundle, prepared.pixels(rows)), prepared.lesions(rows))


def _places(rows: pa.Table) -> np.ndarray:
    """Ascending in the order of shards and their rows."""
    return rows["part"].to_numpy().astype(np.int64) << 32 | rows["place"].to_numpy()
