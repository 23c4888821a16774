"""What the shards of a manifest have given: one file a shard, under the shard's own name, read back as one table.

Beside them lies TRIED, which tells what need not be read again to know what is to be tried again; without it all is.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.ahead import in_order
from mri_ray.archive.ids import among, fixed, joined, text
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason

CHUNK_ROWS = 2**14  # looked at together: what a pass over small files costs is mostly calls
TRIED = "_tried.parquet"  # readers of Parquet folders pass over names that begin so

# Of all shards that have been looked at, by digest: the versions that were lost to the storage there, and in a retry
# those that were not; one row without a version where there is neither.
_TRIES = pa.schema([("shard", pa.string()), ("version_id", pa.string()), ("lost", pa.bool_())])
_TRANSIENT = pa.array([reason.value for reason in Reason if reason.transient])


def name(shard: Shard) -> str:
    """The name of a shard's output below its generation; it is there whole or not at all."""
    return f"{shard.digest}.parquet"


def missing(manifest: Manifest, outputs: Location) -> list[Shard]:
    """Shards without output, in the manifest's order."""
    there = set(outputs.keys())
    return [shard for shard in manifest.shards() if name(shard) not in there]


def tables(
    outputs: Location, shards: Sequence[Shard], columns: list[str], threads: int | None = None
) -> Iterator[pa.Table]:
    """The rows of shards in their order, read ahead by threads: tables of whole shards, with the place of each row.

    All tables but the last have at least CHUNK_ROWS rows. part: the shard's number; place: the row's, in its file;
    int32 both.
    """
    held: list[pa.Table] = []
    part = rows = 0
    reads = in_order(lambda shard: outputs.read_table(name(shard), columns), shards, threads or outputs.config.threads)
    for number, table in enumerate(reads):
        held.append(table)
        rows += table.num_rows
        if rows >= CHUNK_ROWS or (rows and number == len(shards) - 1):
            yield _placed(held, part)
            held, part, rows = [], number + 1, 0
            pa.default_memory_pool().release_unused()  # else it keeps most of what all passes have freed


def transient(reasons: pa.ChunkedArray) -> np.ndarray:
    """Which rows tell of a failure that may have passed (`Reason.transient`), bool (N,)."""
    return pc.is_in(reasons, value_set=_TRANSIENT).to_numpy()


def standing(versions: np.ndarray, part: np.ndarray, lost: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which entries belong to the try of their version that stands, bool (N,).

    Of each version it is the try (the entries of one part) that lost nothing to the storage, else the one that got
    furthest, that is, has most rows; of equals, the newest. rows: how many each entry stands for.
    """
    order = np.lexsort((part, versions))
    begins = np.ones(len(order), bool)
    begins[1:] = (versions[order][1:] != versions[order][:-1]) | (part[order][1:] != part[order][:-1])
    first = np.flatnonzero(begins)
    if not first.size:
        return np.zeros(0, bool)
    version, number = versions[order[first]], part[order[first]]
    spoilt = np.logical_or.reduceat(lost[order], first)
    ranking = np.lexsort((-number, -np.add.reduceat(rows[order], first), spoilt, version))
    best = np.ones(len(first), bool)
    best[1:] = version[ranking][1:] != version[ranking][:-1]
    stands = np.zeros(len(first), bool)
    stands[ranking[best]] = True
    found = np.zeros(len(order), bool)
    found[order] = stands[np.cumsum(begins) - 1]
    return found


def live(manifest: Manifest, outputs: Location, columns: list[str], shards: Sequence[Shard] | None = None) -> pa.Table:
    """Rows of all live objects (of `shards`; None: of all), with the place of each as of `tables`.

    Where a version was tried again, the rows of the try stand that `standing` names. `columns` must hold version_id
    and reason.
    """
    gone = fixed(manifest.gone())
    found = tables(outputs, manifest.shards() if shards is None else shards, columns)
    # Never empty: a run refuses an archive without objects.
    every = pa.concat_tables(rows.filter(pa.array(~among(fixed(rows["version_id"]), gone))) for rows in found)
    versions = np.unique(fixed(every["version_id"]), return_inverse=True)[1]
    rows = np.ones(every.num_rows, np.int64)
    return every.filter(pa.array(standing(versions, every["part"].to_numpy(), transient(every["reason"]), rows)))


def to_retry(manifest: Manifest, outputs: Location) -> pa.Array:
    """Live versions whose failure may have passed (`Reason.transient`), unless a shard yet to be done holds them."""
    todo = set(missing(manifest, outputs))
    again = set(manifest.retries())
    tries = _tries(outputs, [shard for shard in manifest.shards() if shard not in todo], again)
    first = pc.invert(pc.is_in(tries["shard"], value_set=_digests(again)))
    failed = np.unique(fixed(tries["version_id"].filter(pc.and_(first, tries["lost"]))))
    passed = [fixed(tries["version_id"].filter(pc.invert(tries["lost"]))), fixed(manifest.gone())]
    # What a first shard held is in no other that is yet to be done but a retry.
    passed += [fixed(manifest.read_shard(shard)["version_id"]) for shard in (todo & again if failed.size else ())]
    return text(failed[~among(failed, np.sort(joined(passed)))])


def note_tries(manifest: Manifest, outputs: Location, versions: np.ndarray, part: np.ndarray, lost: np.ndarray) -> None:
    """Write TRIED for all shards. versions (`ids`), part, lost: (N,), of all tries, those of gone versions too."""
    shards = manifest.shards()
    some = _telling(part, lost, shards, set(manifest.retries()))
    kept = _as_tries(shards, versions[some], part[some], lost[some])
    digests = _digests(shards)
    others = digests.filter(pc.invert(pc.is_in(digests, value_set=kept["shard"])))
    nothing = [others, pa.nulls(len(others), pa.string()), pa.nulls(len(others), pa.bool_())]
    outputs.write_table(TRIED, pa.concat_tables([kept, pa.table(nothing, schema=_TRIES)]))


def _tries(outputs: Location, finished: Sequence[Shard], again: Collection[Shard]) -> pa.Table:
    """The tries (_TRIES) of shards that are done; only those that TRIED does not tell of are looked at."""
    noted = outputs.read_table(TRIED) if outputs.exists(TRIED) else _TRIES.empty_table()
    noted = noted.filter(pc.is_in(noted["shard"], value_set=_digests(finished)))
    there = set(pc.unique(noted["shard"]).to_pylist())
    fresh = [shard for shard in finished if shard.digest not in there]
    looked = [noted.filter(pc.is_valid(noted["version_id"]))]
    for rows in tables(outputs, fresh, ["version_id", "reason"]):
        first, last = rows["part"][0].as_py(), rows["part"][-1].as_py()
        shards, part, lost = fresh[first : last + 1], rows["part"].to_numpy() - first, transient(rows["reason"])
        some = _telling(part, lost, shards, again)
        looked.append(_as_tries(shards, fixed(rows["version_id"])[some], part[some], lost[some]))
    return pa.concat_tables(looked)


def _telling(part: np.ndarray, lost: np.ndarray, shards: Sequence[Shard], again: Collection[Shard]) -> np.ndarray:
    """The places of what is kept of tries."""
    return np.flatnonzero(lost | np.array([shard in again for shard in shards], bool)[part])


def _as_tries(shards: Sequence[Shard], versions: np.ndarray, part: np.ndarray, lost: np.ndarray) -> pa.Table:
    rows = [_digests(shards).take(pa.array(part)), text(versions), pa.array(lost)]
    tries = pa.table(rows, schema=_TRIES).group_by(["shard", "version_id"]).aggregate([("lost", "max")])
    return tries.rename_columns(_TRIES.names)


def _digests(shards: Iterable[Shard]) -> pa.Array:
    return pa.array([shard.digest for shard in shards], pa.string())


def _placed(held: list[pa.Table], part: int) -> pa.Table:
    """The rows of consecutive shards, the first of that number, with the columns part and place."""
    counts = [table.num_rows for table in held]
    parts = np.repeat(np.arange(part, part + len(held), dtype=np.int32), counts)
    places = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    return pa.concat_tables(held).append_column("part", pa.array(parts)).append_column("place", pa.array(places))
