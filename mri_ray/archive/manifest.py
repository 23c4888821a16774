"""What an archive held at each listing, cut into shards that never change.

    shards/<digest>.parquet   objects (`records.MANIFEST`), ascending by key; named by the versions it holds
    gone/<digest>.parquet     all version ids that stand in shards but no longer in the archive; named by its content
    listings/<000001>.json    the shards that a listing added, and the gone it left

Writing the listing is the one commit: last, whole, and only if its number is free. Until then shards and gone
files are orphans that nothing names; a rerun over the same archive makes the same names. Nothing is ever rewritten,
so two runs at once do no harm and no lock is left behind.
"""

from collections.abc import Iterable, Iterator
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

    new + known = objects listed; gone: versions in shards that are not in the archive; shards: all there are, in the
    order they were added, so that of two that hold the same version the later one is its retry.
    """

    listing: int
    new: int
    known: int
    gone: int
    shards: tuple[Shard, ...]


class Manifest:
    """The manifest kept at a location; holds nothing in memory, so any number of processes may use the same one.

    listing: sees the manifest as of that listing, and cannot add to it; None sees the latest.
    secret: keys the ids that an update makes (`identity.object_id`).
    """

    def __init__(self, location: Location, listing: int | None = None, *, secret: bytes = b"") -> None:
        self._location = location
        self._listing = listing
        self._secret = secret

    def pinned(self) -> "Manifest":
        """The manifest as of now: what another run adds while this one works does not change what this one sees."""
        return Manifest(self._location, self._chain().number)

    def update(
        self, pages: Iterable[pa.RecordBatch], *, shard_objects: int = SHARD_OBJECTS, shard_bytes: int = SHARD_BYTES
    ) -> Update:
        """Add what a listing (`records.LISTING`, keys ascending) holds that no shard holds, and note what is gone.

        `pages` is drawn after the manifest was read, so hand over the lazy listing. A listing that changes nothing
        writes nothing. Raises ArchiveError for keys out of order or a damaged manifest.
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
            gone = known[~among(known, here)]
            if chain.last_update != before:
                # Another run listed while this one did. Which looked later is unknown, and an object wrongly called
                # gone would be lost, so what is gone must be missing from both.
                gone = gone[among(gone, self._gone(chain))]
            listing = Listing(retry=False, shards=added, gone=self._write_gone(gone))
            longer = journal.append(self._location, chain, listing) if added or listing.gone != chain.gone else chain
            if longer is not None:
                new = sum(shard.objects for shard in added)
                return Update(longer.number, new=new, known=len(here) - new, gone=len(gone), shards=longer.shards)
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

    def shards(self) -> list[Shard]:
        """All shards in the order they were added."""
        return list(self._chain().shards)

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
            name = digest("shard", salt, *table["version_id"].to_pylist())
            shard = Shard(name, table.num_rows, pc.sum(table["size"]).as_py())
            self._location.write_table(_shard_key(shard), table, if_absent=True)
            return shard

        return tuple(in_order(write, tables, _THREADS))

    def _write_gone(self, ids: np.ndarray) -> str | None:
        if not ids.size:
            return None
        name = digest("gone", digits(ids))
        self._location.write_table(_gone_key(name), pa.table({"version_id": text(ids)}), if_absent=True)
        return name


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
