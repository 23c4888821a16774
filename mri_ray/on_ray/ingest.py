"""An archive -> manifest -> prepared rows on storage, decoded once for all that share a preparation."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Shard, Update
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import ArchiveNotFound
from mri_ray.learn.plan import CHUNK_ROWS
from mri_ray.on_ray import shards
from mri_ray.on_ray.settings import ShardSettings
from mri_ray.prepare.objects import Row, from_table, rows, to_table
from mri_ray.prepare.settings import PrepareConfig

log = logging.getLogger(__name__)


def take_stock(archive: Location, manifest: Manifest, settings: ShardSettings) -> Update:
    """List the archive and add what is new to the manifest. Raises ArchiveNotFound when there is no object at all."""
    log.info("listing %s", archive.uri)
    update = manifest.update(archive.list(), shard_objects=settings.objects, shard_bytes=settings.megabytes * 2**20)
    log.info(
        "listed %s objects: %s new or changed, %s known, %s gone; %s shards",
        *(f"{number:,}" for number in (update.new + update.known, update.new, update.known, update.gone)),
        len(update.shards),
    )
    if not update.new + update.known:
        raise ArchiveNotFound(f"archive: must hold at least one object, got none below {archive.uri}")
    return update


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


def prepared_location(root: Location, source: FromArchive) -> Location:
    """Where the prepared rows of an archive under its settings lie: another setting is another folder."""
    return root / digest("prepared", source.archive.uri, digest_json(source.decode), source.prepare.digest())


def prepare_all(source: FromArchive, prepared: Location, *, workers: int | None) -> int:
    """Prepare what is not there yet; returns how many objects that were."""
    work = PrepareShard(source=source, prepared=prepared)
    todo = outputs.missing(source.manifest, prepared)
    total = sum(shard.objects for shard in todo)
    shards.followed(shards.run(todo, lambda: work, workers=workers), total=total, what="prepared")
    return total
