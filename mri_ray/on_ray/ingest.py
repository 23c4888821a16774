"""An archive -> manifest -> prepared rows on storage, decoded once for all that share a preparation."""

from collections.abc import Iterator
from dataclasses import dataclass

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn.plan import CHUNK_ROWS
from mri_ray.on_ray import shards
from mri_ray.prepare.objects import Row, from_table, rows, to_table
from mri_ray.prepare.settings import PrepareConfig


@dataclass(frozen=True, kw_only=True)
class FromArchive:
    """Rows of a shard, fetched, decoded and prepared."""

    archive: Location
    manifest: Manifest
    decode: DecodeConfig
    prepare: PrepareConfig

    def __call__(self, shard: Shard) -> Iterator[Row]:
        return rows(self.manifest.read_shard(shard), self.archive, self.decode, self.prepare)


@dataclass(frozen=True, kw_only=True)
class FromPrepared:
    """Rows of a shard that were prepared before."""

    prepared: Location
    size: int

    def __call__(self, shard: Shard) -> Iterator[Row]:
        return from_table(self.prepared.read_table(outputs.name(shard)), self.size)


@dataclass(frozen=True, kw_only=True)
class PrepareShard:
    """Writes the prepared rows of one shard as one Parquet file."""

    source: FromArchive
    prepared: Location

    def __call__(self, shard: Shard) -> shards.Facts:
        table = to_table(self.source(shard), self.source.prepare.size)
        self.prepared.write_table(outputs.name(shard), table, if_absent=True, row_group_size=CHUNK_ROWS)
        usable = set(table.filter(table["reason"].is_null())["object_id"].to_pylist())
        return {"objects": shard.objects, "quarantined": shard.objects - len(usable)}


def prepared_location(root: Location, archive: Location, decode: DecodeConfig, prepare: PrepareConfig) -> Location:
    """Where the prepared rows of an archive under these settings lie: another setting is another folder."""
    return root / digest("prepared", archive.uri, digest_json(decode), prepare.digest())


def prepare_all(source: FromArchive, prepared: Location, *, workers: int | None) -> int:
    """Prepare what is not there yet; returns how many objects that were."""
    work = PrepareShard(source=source, prepared=prepared)
    todo = outputs.missing(source.manifest, prepared)
    total = sum(shard.objects for shard in todo)
    shards.followed(shards.run(todo, lambda: work, workers=workers), total=total, what="prepared")
    return total
