"""What an archive held at each listing, cut into shards that never change.

    shards/<digest>.parquet   objects (`records.MANIFEST`), ascending by key; named by the versions it holds
    gone/<digest>.parquet     all version ids that stand in shards but no longer in the archive; named by its content
    listings/<000001>.json    the shards that a listing added, and the gone it left

Writing the listing is the one commit: last, whole, and only if its number is free. Until then shards and gone
files are orphans that nothing names; a rerun over the same archive makes the same names. Nothing is ever rewritten,
so two runs at once do no harm and no lock is left behind.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mri_ray.archive import journal
from mri_ray.archive.ahead import in_order
from mri_ray.archive.identity import digest, object_id, version_bytes
from mri_ray.archive.ids import DTYPE, among, digits, fixed, joined, text
from mri_ray.archive.journal import Chain, Listing, Shard
from mri_ray.archive.listing import lies_below
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError, ConfigError
from mri_ray.records import MANIFEST

SHARD_OBJECTS = 512
SHARD_BYTES = 256 * 2**20

_THREADS = 8
_BLOCK = 2**16  # keys looked up at a time


@dataclass(frozen=True)
class Update:
    """What a listing found. listing: its number, 0 while nothing was ever found.

    new + known = objects listed; kept: those that were not, but lie where it could not look; gone: versions in shards
    that are not in the archive; shards: all there are, in the order they were added, so that of two that hold the same
    version the later one is its retry.
    """

    listing: int
    new: int
    known: int
    gone: int
    shards: tuple[Shard, ...]
    kept: int = 0


class Manifest:
    """The manifest kept at a location; holds nothing in memory, so any number of processes may use the same one.

    listing: sees the manifest as of that listing, and cannot add to it; None sees the latest.
    secret: keys the ids that an update makes (`identity.object_id`).
    """

    def __init__(self, location: Location, listing: int | None = None, *, secret: bytes = b"") -> None:
        self._location = location
        self._listing = listing
        self._secret = secret

    @property
    def name(self) -> str:
        return self._location.name

    @property
    def number(self) -> int:
        """Of the listing that it is seen as of."""
        return self._chain().number if self._listing is None else self._listing

    def at(self, number: int) -> "Manifest":
        """The manifest as of a listing; 0: before the first."""
        return Manifest(self._location, number)

    def pinned(self) -> "Manifest":
        """The manifest as of now: what another run adds while this one works does not change what this one sees."""
        return self.at(self.number)

    def update(
        self,
        pages: Iterable[pa.RecordBatch],
        *,
        denied: Collection[str] = (),
        shard_objects: int = SHARD_OBJECTS,
        shard_bytes: int = SHARD_BYTES,
    ) -> Update:
        """Add what a listing (`records.LISTING`, keys ascending) holds that no shard holds, and note what is gone.

        `pages` is drawn after the manifest was read, so hand over the lazy listing. denied: where it could not look
        (`Location.list`), asked when all pages are drawn; what was known there is not gone. A listing that changes
        nothing writes nothing. Raises ArchiveError for keys out of order or a damaged manifest.
        """
        _check_cut(shard_objects, shard_bytes)
        assert self._listing is None, "a pinned manifest is only read"
        chain = self._chain()
        before = chain.last_update
        known = self._ids(chain.first_shards)
        listed: list[np.ndarray] = []
        fresh = self._unknown(pages, known, listed)
        while True:
            added = self._write_shards(_cut(fresh, shard_objects, shard_bytes))
            here = np.sort(joined(listed))
            unseen = known[~among(known, here)]
            kept = self._kept(chain, unseen, denied)
            gone = unseen[~among(unseen, kept)]
            if chain.last_update != before:
                # Another run listed while this one did. Which looked later is unknown, and an object wrongly called
                # gone would be lost, so what is gone must be missing from both.
                gone = gone[among(gone, self._gone(chain))]
            listing = Listing(retry=False, shards=added, gone=self._write_gone(gone))
            longer = journal.append(self._location, chain, listing) if added or listing.gone != chain.gone else chain
            if longer is not None:
                new = sum(shard.objects for shard in added)
                counts = {"new": new, "known": len(here) - new, "kept": len(kept), "gone": len(gone)}
                return Update(longer.number, **counts, shards=longer.shards)
            chain = journal.read_past(self._location, chain)
            known = self._ids(chain.first_shards)
            fresh = self._without(added, known)

    def add_retry(
        self,
        version_ids: pa.Array | pa.ChunkedArray,
        *,
        after: int | None = None,
        shard_objects: int = SHARD_OBJECTS,
        shard_bytes: int = SHARD_BYTES,
    ) -> list[Shard]:
        """Make new shards for live objects that are to be tried again -> the shards added.

        after: the listing (`Update.listing`) whose shards' results were looked at; what another run has put up for
        retry since then is left out, and so is what is gone. The ids must be in the manifest.
        """
        _check_cut(shard_objects, shard_bytes)
        assert self._listing is None, "a pinned manifest is only read"
        chain = self._chain()
        after = chain.number if after is None else after
        wanted = np.unique(fixed(version_ids))
        while True:
            wanted = wanted[~among(wanted, self._ids(chain.retried_after(after)))]
            live = wanted[~among(wanted, self._gone(chain))]
            if not live.size:
                return []
            rows = self._rows(chain, live)
            # The number makes the name, and with it the output's name, differ from every earlier try.
            added = self._write_shards(_cut([rows], shard_objects, shard_bytes), salt=str(chain.number + 1))
            listing = Listing(retry=True, shards=added, gone=chain.gone)
            if journal.append(self._location, chain, listing) is not None:
                return list(added)
            chain = journal.read_past(self._location, chain)

    def plan(
        self,
        pages: Iterable[pa.RecordBatch],
        again: pa.Array,
        *,
        denied: Collection[str] = (),
        shard_objects: int = SHARD_OBJECTS,
        shard_bytes: int = SHARD_BYTES,
    ) -> tuple[Update, tuple[Shard, ...]]:
        """What `update` with a listing, and then `add_retry` with these ids, would find and add; writes nothing.

        The listing's number in the Update is that of the manifest as it is.
        """
        _check_cut(shard_objects, shard_bytes)
        chain = self._chain()
        known = self._ids(chain.first_shards)
        listed: list[np.ndarray] = []
        added = tuple(map(_named, _cut(self._unknown(pages, known, listed), shard_objects, shard_bytes)))
        here = np.sort(joined(listed))
        new = sum(shard.objects for shard in added)
        unseen = known[~among(known, here)]
        kept = self._kept(chain, unseen, denied)
        gone = unseen[~among(unseen, kept)]
        wanted = np.unique(fixed(again))
        live = wanted[~among(wanted, gone)]
        retried = map(_named, _cut([self._rows(chain, live)], shard_objects, shard_bytes)) if live.size else ()
        counts = {"new": new, "known": len(here) - new, "kept": len(kept), "gone": len(gone)}
        update = Update(chain.number, **counts, shards=(*chain.shards, *added))
        return update, tuple(retried)

    def shards(self) -> list[Shard]:
        """All shards in the order they were added."""
        return list(self._chain().shards)

    def first_shards(self) -> list[Shard]:
        """Those that hold every version exactly once: without retries."""
        return self._chain().first_shards

    def tables(self, shards: Iterable[Shard], columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of shards, in order, read ahead."""
        return self._tables([_shard_key(shard) for shard in shards], columns)

    def retries(self) -> list[Shard]:
        """Those of them that `add_retry` added."""
        return self._chain().retried_after(0)

    def read_shard(self, shard: Shard) -> pa.Table:
        """The objects of a shard: `records.MANIFEST`, ascending by key."""
        return next(self._tables([_shard_key(shard)]))

    def gone(self) -> pa.Array:
        """Version ids (string, ascending) that are in shards but not in the archive."""
        return text(self._gone(self._chain()))

    def digest(self) -> str:
        """Names what the manifest says the archive holds."""
        chain = self._chain()
        return digest("manifest", chain.gone or "", *(shard.digest for shard in chain.shards))

    def _chain(self) -> Chain:
        return journal.read(self._location, self._listing)

    def _ids(self, shards: list[Shard]) -> np.ndarray:
        return self._read_ids([_shard_key(shard) for shard in shards])

    def _gone(self, chain: Chain) -> np.ndarray:
        return self._read_ids([] if chain.gone is None else [_gone_key(chain.gone)])

    def _read_ids(self, keys: list[str]) -> np.ndarray:
        """Sorted version ids of Parquet files, (N,) of `ids.DTYPE`."""
        parts = [fixed(table["version_id"]) for table in self._tables(keys, ["version_id"])]
        return np.sort(joined(parts))

    def _kept(self, chain: Chain, unseen: np.ndarray, denied: Collection[str]) -> np.ndarray:
        """Those of the sorted ids, live so far, whose objects lie in a denied place; sorted."""
        live = unseen[~among(unseen, self._gone(chain))] if denied else unseen[:0]
        if not live.size:
            return live
        rows = self._rows(chain, live)
        lies = pa.array([lies_below(key, denied) for key in rows["key"].to_pylist()], pa.bool_())
        return np.sort(fixed(rows["version_id"].filter(lies)))

    def _rows(self, chain: Chain, ids: np.ndarray) -> pa.Table:
        """The manifest's rows of sorted ids, ascending by key."""
        tables = self._tables([_shard_key(shard) for shard in chain.first_shards])
        parts = [table.filter(pa.array(among(fixed(table["version_id"]), ids))) for table in tables]
        rows = pa.concat_tables([MANIFEST.empty_table(), *parts])
        assert rows.num_rows == len(ids), f"{len(ids) - rows.num_rows} version ids are in no shard"
        return rows.sort_by([("key", "ascending"), ("version_id", "ascending")])

    def _without(self, shards: Iterable[Shard], known: np.ndarray) -> Iterator[pa.Table]:
        """The rows of shards that are not known."""
        for table in self._tables([_shard_key(shard) for shard in shards]):
            yield table.filter(pa.array(~among(fixed(table["version_id"]), known)))

    def _tables(self, keys: list[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
        for key, body in zip(keys, journal.bodies(self._location, keys), strict=True):
            try:
                yield pq.ParquetFile(pa.BufferReader(body)).read(columns=columns, use_threads=False)
            except pa.ArrowException as exc:
                where = f"{key} at {self._location.uri}"
                raise ArchiveError(f"manifest: a shard must be a whole Parquet file, got {exc} in {where}") from exc

    def _unknown(
        self, pages: Iterable[pa.RecordBatch], known: np.ndarray, listed: list[np.ndarray]
    ) -> Iterator[pa.Table]:
        """Pages -> the rows whose version is not known; adds every page's version ids to `listed`."""
        last = None
        for block in _blocks(pages, _BLOCK if known.size else 1):
            keys, sizes, etags = (block.column(name) for name in ("key", "size", "etag"))
            ascends = pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py()
            if not ascends or (last is not None and not pc.less(last, keys[0]).as_py()):
                raise ArchiveError(
                    f"listing: keys must ascend, each once, got one out of order for {self._location.uri}"
                )
            last = keys[-1]
            triples = zip(keys.to_pylist(), sizes.to_pylist(), etags.to_pylist(), strict=True)
            versions = np.fromiter(version_bytes(triples, self._secret), DTYPE, block.num_rows)
            listed.append(versions)
            new = ~among(versions, known)
            if new.any():
                mask = pa.array(new)
                keys = keys.filter(mask)
                names = pa.array([object_id(key, self._secret) for key in keys.to_pylist()], pa.string())
                columns = [names, text(versions[new]), keys, sizes.filter(mask), etags.filter(mask)]
                yield pa.Table.from_arrays(columns, schema=MANIFEST)

    def _write_shards(self, tables: Iterable[pa.Table], salt: str = "") -> tuple[Shard, ...]:
        def write(table: pa.Table) -> Shard:
            shard = _named(table, salt)
            self._location.write_table(_shard_key(shard), table, if_absent=True)
            return shard

        return tuple(in_order(write, tables, _THREADS))

    def _write_gone(self, ids: np.ndarray) -> str | None:
        if not ids.size:
            return None
        name = digest("gone", digits(ids))
        self._location.write_table(_gone_key(name), pa.table({"version_id": text(ids)}), if_absent=True)
        return name


def _named(table: pa.Table, salt: str = "") -> Shard:
    return Shard(digest("shard", salt, *table["version_id"].to_pylist()), table.num_rows, pc.sum(table["size"]).as_py())


def _shard_key(shard: Shard) -> str:
    return f"shards/{shard.digest}.parquet"


def _gone_key(name: str) -> str:
    return f"gone/{name}.parquet"


def _blocks(pages: Iterable[pa.RecordBatch], least: int) -> Iterator[pa.RecordBatch]:
    """The rows of pages, at least so many at a time: looking up many at once takes a fraction of the time."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for page in pages:
        held.append(page)
        rows += page.num_rows
        if rows >= least:
            yield pa.concat_batches(held)
            held, rows = [], 0
    if rows:
        yield pa.concat_batches(held)


def _check_cut(objects: int, size: int) -> None:
    for name, value in (("shard_objects", objects), ("shard_bytes", size)):
        if value < 1:
            raise ConfigError(f"{name}: at least 1, got {value}")


def _cut(tables: Iterable[pa.Table], objects: int, size: int) -> Iterator[pa.Table]:
    """Rows -> shards of at most so many objects and bytes, at least one object each.

    Where the cuts fall depends on the order of the rows only, not on the pages they come in.
    """
    rest = MANIFEST.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table])
        totals = np.cumsum(rest["size"].to_numpy())
        start, end = 0, _end(totals, 0, objects, size)
        while end < rest.num_rows:  # the last one stays open: the next page may add to it
            yield rest.slice(start, end - start)
            start, end = end, _end(totals, end, objects, size)
        rest = rest.slice(start)
    if rest.num_rows:
        yield rest


def _end(totals: np.ndarray, start: int, objects: int, size: int) -> int:
    """Where the shard that begins at `start` ends; totals: running sums of the sizes."""
    before = totals[start - 1] if start else 0
    fits = int(np.searchsorted(totals, before + size, side="right"))
    return min(max(fits, start + 1), start + objects, len(totals))
