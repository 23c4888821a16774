"""Near copies among prepared rows: thumbnails are read and turned, looked up and compared by Ray tasks.

What is found is kept beside the prepared rows, by what it was found among. A million pictures take 9 GB of Ray's object
store for their thumbnails (it spills to disk), 1 GB of the driver while the index is made, and 0.3 GB of a worker that
looks pictures up.
"""

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mri_ray.archive.identity import digest
from mri_ray.archive.storage import Location
from mri_ray.cohort import columns, copies, thumbnails
from mri_ray.cohort.copies import Candidates
from mri_ray.on_ray.work import ONE_CPU, discreet
from mri_ray.records import THUMBNAIL_SIDE, Flag

INDEX = ["pixel_digest", "flags", "patient_key", "study_key"]  # what `links` reads of prepared rows
_BLOCK = 1024  # pictures of a task
_PAIRS = 512  # compared by a task
_AHEAD = 64  # tasks handed to Ray at a time

# Copies of pictures by the digests of their pixels: enough pairs to join all copies of each.
LINKS = pa.schema([pa.field("one", pa.string(), nullable=False), pa.field("other", pa.string(), nullable=False)])

log = logging.getLogger(__name__)


def links(rows: pa.Table, files: Sequence[tuple[Location, str]], place: Location) -> pa.Table:
    """Near copies (LINKS) among prepared rows that have a slice: INDEX, and part and place, which count `files`.

    place: where it is kept. Blank pictures are copies of nothing.
    """
    rows = _pictures(rows)
    # Copies within a patient are not looked for, so what is found depends on who is known.
    name = f"{digest('copies', str(copies.METHOD), _owner(rows).tobytes(), *rows['pixel_digest'].to_pylist())}.parquet"
    if place.exists(name):
        return place.read_table(name)
    log.info("looking for near copies among %s pictures", f"{rows.num_rows:,}")
    found = _found(rows, files)
    digests = rows["pixel_digest"]
    table = pa.table([digests.take(pa.array(found.one)), digests.take(pa.array(found.other))], schema=LINKS)
    place.write_table(name, table)
    return table


def _pictures(rows: pa.Table) -> pa.Table:
    """The first row of every picture in the order of the files, without blank ones."""
    rows = rows.filter(pa.array(~columns.flagged(rows["flags"], [Flag.BLANK])))
    rows = rows.sort_by([("part", "ascending"), ("place", "ascending")])
    first = pc.index_in(pc.unique(rows["pixel_digest"]), value_set=rows["pixel_digest"])
    return rows.take(first)


def _owner(rows: pa.Table) -> np.ndarray:
    """Whose each row is, int64 (N,), -1 where nobody knows."""
    return columns.codes(pc.coalesce(rows["patient_key"], rows["study_key"]))


def _found(rows: pa.Table, files: Sequence[tuple[Location, str]]) -> Candidates:
    count = rows.num_rows
    if count < 2:
        return copies.best([])
    part, place = rows["part"].to_numpy(), rows["place"].to_numpy()
    blocks = [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]
    reads = [_read.remote(files, part[block], place[block]) for block in blocks]
    pictures, vectors = zip(*reads, strict=True)
    held = ray.put(copies.index(np.concatenate(ray.get(list(vectors)))))
    owner = ray.put(_owner(rows))
    looked = [_near.remote(held, block, number * _BLOCK, owner) for number, block in enumerate(pictures)]
    found = copies.best([ray.get(ref) for ref in looked])
    return copies.links(found, count, partial(_judge, pictures))


def _judge(pictures: Sequence[ray.ObjectRef], pairs: Candidates) -> np.ndarray:
    """The likeness of each pair, in tasks of pairs that lie in the same blocks, as far as there are enough."""
    order = np.lexsort((pairs.other // _BLOCK, pairs.one // _BLOCK))
    likeness = np.empty(len(pairs), np.float32)
    waiting: list[tuple[np.ndarray, ray.ObjectRef]] = []
    for start in range(0, len(order), _PAIRS):
        some = order[start : start + _PAIRS]
        mine = pairs.take(some)
        blocks = np.unique(np.concatenate([mine.one, mine.other]) // _BLOCK).tolist()
        waiting.append((some, _likeness.remote(mine, {block: pictures[block] for block in blocks})))
        if len(waiting) == _AHEAD:
            done, ref = waiting.pop(0)
            likeness[done] = ray.get(ref)
    for done, ref in waiting:
        likeness[done] = ray.get(ref)
    return likeness


@ray.remote(**ONE_CPU, num_returns=2)
def _read(files: Sequence[tuple[Location, str]], part: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails uint8 (N, side, side) of rows, and their vectors."""
    with discreet():
        found = np.empty((len(part), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        for number in np.unique(part).tolist():
            mine = np.flatnonzero(part == number)
            location, name = files[number]
            column = location.read_table(name, ["thumbnail"])["thumbnail"].take(pa.array(place[mine]))
            raw = b"".join(column.to_pylist())
            found[mine] = np.frombuffer(raw, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        return found, thumbnails.vectors(found)


@ray.remote(**ONE_CPU)
def _near(held: np.ndarray, pictures: np.ndarray, first: int, owner: np.ndarray) -> Candidates:
    with discreet():
        return copies.near(held, thumbnails.versions(pictures), first, owner)


@ray.remote(**ONE_CPU)
def _likeness(pairs: Candidates, blocks: dict[int, ray.ObjectRef]) -> np.ndarray:
    with discreet():
        pictures = dict(zip(blocks, ray.get(list(blocks.values())), strict=True))
        wanted = np.unique(np.concatenate([pairs.one, pairs.other])).tolist()
        return copies.judged(pairs, {place: pictures[place // _BLOCK][place % _BLOCK] for place in wanted})
