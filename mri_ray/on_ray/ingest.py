"""An archive -> manifest -> prepared rows on storage, decoded once for all that share a preparation."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pyarrow as pa
import ray

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.several import Archive
from mri_ray.archive.storage import Location
from mri_ray.decode.read import Window
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn.plan import CHUNK_ROWS
from mri_ray.on_ray import progress, prometheus, shards
from mri_ray.on_ray.work import Facts, Members, discreet
from mri_ray.prepare.effort import DECODE, FETCH, WRITE, Effort
from mri_ray.prepare.objects import BATCH_ROWS, Row, from_batches, holds_identifiers, joined, rows, states, to_batches
from mri_ray.prepare.objects import crashed as crashed_rows
from mri_ray.prepare.objects import members as members_of
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import LISTING, prepared_schema

_PART_OBJECTS = 64  # decoded by one task, for a worker that does not decode
_AHEAD = 2  # batches that such a task holds ready
_PROBED_PAGES, _PROBED = 20, 64  # of the listing, and objects from them, looked at before anything is written
# What leads from an object's id back to its path below the archive's root.
LINKS = pa.schema([pa.field("object_id", pa.string()), pa.field("path", pa.string())])


@dataclass(frozen=True, kw_only=True)
class FromArchive:
    """Rows of a shard, fetched, decoded, prepared. links: where what leads back to paths goes, if they are not kept.

    effort: is told how long that takes.
    """

    archive: Archive
    manifest: Manifest
    decode: DecodeConfig
    prepare: PrepareConfig
    identifiers: Identifiers
    links: Location | None
    evidence: bool = False  # with the columns that only prepared rows have
    effort: Effort = field(default_factory=Effort, compare=False)

    def __call__(self, shard: Shard) -> Iterator[Row]:
        with self.effort.stage(FETCH):
            objects = self.manifest.read_shard(shard)
        return self._linked(self._rows(objects), outputs.name(shard))

    def part(
        self, shard: Shard, start: int, stop: int, *, crashed: bool = False, members: Members | None = None
    ) -> Iterator[Row]:
        """Rows of some of the shard's objects; crashed: of those that end whatever process looks at them.

        members: of a single object only these.
        """
        objects = self.manifest.read_shard(shard).slice(start, stop - start)
        name = f"{shard.digest}-{start}" if members is None else f"{shard.digest}-{start}-{members[0]}"
        return self._linked(self._rows(objects, crashed=crashed, members=members), f"{name}.parquet")

    def count(self, shard: Shard, place: int) -> int:
        """How many members an object of the shard has."""
        return members_of(self.manifest.read_shard(shard).slice(place, 1), self.archive, self.decode)

    def _rows(self, objects: pa.Table, *, crashed: bool = False, members: Members | None = None) -> Iterator[Row]:
        if crashed and members is None:
            return crashed_rows(objects, self.archive, self.prepare, self.identifiers)
        window = None if members is None else Window(start=members[0], stop=members[1], crashed=crashed)
        return rows(
            *(objects, self.archive, self.decode, self.prepare, self.identifiers, self.effort),
            evidence=self.evidence,
            window=window,
        )

    def _linked(self, found: Iterator[Row], name: str) -> Iterator[Row]:
        paths: dict[str, str] = {}
        for row in found:
            if self.links is not None:
                paths[row.columns["object_id"]] = row.path
            yield row
        if self.links is not None and paths:  # before the shard's own file, which tells that the shard is done
            # In place of what an earlier try has left, which may have read less of a pack.
            self.links.write_table(name, pa.table([list(paths), list(paths.values())], schema=LINKS))


@dataclass(frozen=True, kw_only=True)
class FromOthers:
    """The rows of `source`, fetched, decoded and prepared by tasks on any node with free CPUs, ahead of who asks."""

    source: FromArchive
    effort: Effort = field(default_factory=Effort, compare=False)  # is told how long their batches were waited for

    def __call__(self, shard: Shard) -> Iterator[Row]:
        starts = range(0, shard.objects, _PART_OBJECTS)
        yield from self._rows(shard, [(start, min(start + _PART_OBJECTS, shard.objects)) for start in starts])

    def part(
        self, shard: Shard, start: int, stop: int, *, crashed: bool = False, members: Members | None = None
    ) -> Iterator[Row]:
        return self._rows(shard, [(start, stop)], crashed=crashed, members=members)

    def count(self, shard: Shard, place: int) -> int:
        return self.source.count(shard, place)

    def _rows(
        self,
        shard: Shard,
        parts: list[tuple[int, int]],
        *,
        crashed: bool = False,
        members: Members | None = None,
    ) -> Iterator[Row]:
        streams = [_batches.remote(self.source, shard, *part, crashed=crashed, members=members) for part in parts]
        try:
            for stream in streams:
                batches = self.effort.drawing(FETCH, map(ray.get, stream))
                yield from from_batches(batches, self.source.prepare.size)
        finally:
            for stream in streams:
                ray.cancel(stream)


@ray.remote(num_cpus=1, num_returns="streaming", max_retries=0, _generator_backpressure_num_objects=_AHEAD)  # type: ignore[call-overload]
def _batches(
    source: FromArchive, shard: Shard, start: int, stop: int, *, crashed: bool, members: Members | None
) -> Iterator[pa.RecordBatch]:
    with discreet():
        yield from to_batches(source.part(shard, start, stop, crashed=crashed, members=members), source.prepare.size)


@dataclass(frozen=True, kw_only=True)
class FromPrepared:
    """Rows of a shard that were prepared before."""

    prepared: Location
    size: int
    effort: Effort = field(default_factory=Effort, compare=False)

    def __call__(self, shard: Shard) -> Iterator[Row]:
        batches = self.prepared.read_batches(outputs.name(shard), BATCH_ROWS)
        return from_batches(self.effort.drawing(FETCH, batches), self.size)

    def part(
        self, shard: Shard, start: int, stop: int, *, crashed: bool = False, members: Members | None = None
    ) -> Iterator[Row]:
        """Nothing is decoded here, so no object can be to blame for a worker's death: one part is the whole shard."""
        assert not crashed, "a worker that only computes died again and again"
        return self(shard) if start == 0 else iter(())

    def count(self, shard: Shard, place: int) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class PrepareShard:
    """Writes the prepared rows of one shard as one Parquet file."""

    source: FromArchive
    prepared: Location

    def __call__(self, shard: Shard) -> Facts:
        effort = Effort()
        source = replace(self.source, effort=effort)
        return self._write(shard, to_batches(source(shard), self.source.prepare.size), effort)

    def part(self, shard: Shard, start: int, stop: int, *, crashed: bool, members: Members | None = None) -> pa.Table:
        found = self.source.part(shard, start, stop, crashed=crashed, members=members)
        size = self.source.prepare.size
        return pa.Table.from_batches(to_batches(found, size), prepared_schema(size))

    def count(self, shard: Shard, place: int) -> int:
        return self.source.count(shard, place)

    def gather(self, shard: Shard, parts: Sequence[pa.Table]) -> Facts:
        return self._write(shard, joined(parts).to_batches(), Effort())

    def _write(self, shard: Shard, batches: Iterable[pa.RecordBatch], effort: Effort) -> Facts:
        seen: list[pa.RecordBatch] = []

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in effort.drawing(DECODE, batches):
                seen.append(batch.select(["object_id", "reason"]))
                yield batch

        schema, name = prepared_schema(self.source.prepare.size), outputs.name(shard)
        with effort.stage(WRITE):
            self.prepared.write_batches(name, schema, watched(), if_absent=True, row_group_size=CHUNK_ROWS)
        table = pa.Table.from_batches(seen)
        ended = dict(zip(table["object_id"].to_pylist(), states(table).to_pylist(), strict=True))
        facts: Facts = {
            "listed": shard.objects,
            "bytes": shard.bytes,
            "objects": len(ended),
            **Counter(ended.values()),
            "stages_s": effort.stages_s,
        }
        prometheus.export("prepare", facts)
        return facts


def prepared_location(
    root: Location, archive: Archive, decode: DecodeConfig, prepare: PrepareConfig, identifiers: Identifiers
) -> Location:
    """Where the prepared rows of an archive under these settings lie: another setting is another folder."""
    name = digest("prepared 4", archive.uri, digest_json(decode), prepare.digest(), *identifiers.names)
    return root / "prepared" / name


def prepare_all(
    source: FromArchive,
    prepared: Location,
    *,
    workers: int | None,
    deadline: float | None = None,
    tell: progress.Tell = progress.nobody,
) -> Facts:
    """Prepare what is not there yet; what this run did (`progress.followed`)."""
    work = PrepareShard(source=replace(source, evidence=True), prepared=prepared)
    todo = outputs.missing(source.manifest, prepared)
    running = shards.run(todo, lambda: work, workers=workers)
    return progress.followed(running, todo, what="prepared", tell=tell, deadline=deadline)


def probe(archive: Archive, pages: Iterable[pa.RecordBatch], decode: DecodeConfig) -> bool:
    """Whether some objects, spread over the beginning of a listing, hold identifiers in their headers."""
    keys = pa.Table.from_batches(islice(pages, _PROBED_PAGES), LISTING)["key"]
    step = max(1, len(keys) // _PROBED)
    return any(holds_identifiers(archive, key, decode) for key in keys.to_pylist()[::step])
