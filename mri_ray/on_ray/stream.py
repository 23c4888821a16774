"""Prepared rows -> the batches of one training worker, streamed from storage in every epoch.

Windows are read and augmented by Ray tasks, on any node with a free CPU, a few ahead of the training. Not by a Ray Data
pipeline: its executor's loop runs in the process that iterates, and took three quarters of that process's time from
the training (README, notes).
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mri_ray.archive.storage import Location
from mri_ray.learn.plan import CHUNK_ROWS, Rows, copies, epoch_order, share
from mri_ray.prepare.augment import AugmentConfig, apply, draw, moved
from mri_ray.prepare.masks import unpacked

Arrays = dict[str, np.ndarray]
READERS = 4  # files of a window read at once
AHEAD = 2  # windows read ahead of the training


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The files that hold prepared rows, in the order that `Rows.part` counts.

    masks: where files of the same names and rows hold their masks (`prepare.masks.SCHEMA`); None: there are none.
    """

    location: Location
    names: tuple[str, ...]
    size: int  # of a side of a picture, in pixels
    masks: Location | None = None

    def pixels(self, rows: Rows) -> np.ndarray:
        """Pixels of the rows, uint8 (N, 1, size, size), in their order; only the row groups that hold them are read."""
        pictures = np.empty((len(rows), 1, self.size, self.size), np.uint8)
        for mine, column in self._column(self.location, "pixels", rows, np.arange(len(rows))):
            pictures[mine] = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, *pictures.shape[1:])
        return pictures

    def lesions(self, rows: Rows) -> np.ndarray:
        """Masks of the rows, uint8 (N, 1, size, size), 255 where a known lesion is."""
        found = np.zeros((len(rows), 1, self.size, self.size), np.uint8)
        if self.masks is not None and rows.known is not None:
            some = np.flatnonzero(rows.known & (rows.label == 1))
            for mine, column in self._column(self.masks, "mask", rows, some):
                for place, packed in zip(mine.tolist(), column.to_pylist(), strict=True):
                    found[place, 0] = unpacked(packed, self.size)
        return found

    def _column(
        self, location: Location, name: str, rows: Rows, wanted: np.ndarray
    ) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """Values of one column for some of the rows, with their positions: one pair a file and row group."""
        part_of, place_of = rows.part[wanted], rows.place[wanted]

        def read(part: int) -> list[tuple[np.ndarray, pa.Array]]:
            filesystem, root = location.arrow()
            mine = np.flatnonzero(part_of == part)
            groups = place_of[mine] // CHUNK_ROWS
            with pq.ParquetFile(f"{root}/{self.names[part]}", filesystem=filesystem) as file:
                found = []
                for group in np.unique(groups):
                    here = mine[groups == group]
                    column = file.read_row_group(int(group), columns=[name])[name]
                    taken = column.take(place_of[here] % CHUNK_ROWS)
                    found.append((wanted[here], pa.concat_arrays(taken.chunks)))
                return found

        with ThreadPoolExecutor(READERS) as pool:
            for found in pool.map(read, np.unique(part_of).tolist()):
                yield from found


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One worker's share of one side, from epoch `first` up to and without epoch `last`.

    batch: rows of a global batch when training (the order is shuffled, the remainder left out); None when evaluating
    (every row once, in archive order). Everything follows from the seed and the epoch, not from what ran before.
    """

    prepared: Prepared
    rows: Rows
    rank: int
    workers: int
    window: int
    first: int = 0
    last: int = 1
    seed: int = 0
    batch: int | None = None
    augment: AugmentConfig | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None:  # whole global batches, so that the order does not depend on the workers
            object.__setattr__(self, "window", max(1, self.window // self.batch) * self.batch)

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions into `rows` that this worker reads in an epoch, and how often each has come before in it."""
        if self.batch is None:
            order = np.arange(len(self.rows))
        else:
            order = epoch_order(
                self.rows,
                seed=self.seed,
                epoch=epoch,
                window=self.window,
                batch=self.batch,
                balanced=self.balanced,
            )
        return share(order, self.rank, self.workers), share(copies(order), self.rank, self.workers)

    def batches(self, size: int) -> Iterator[Arrays]:
        """pixels uint8 (B, 1, S, S), label int64 (B,), row int64 (B,) into `rows`; B = size, or less at an epoch's end.

        Where masks are given also mask uint8 (B, 1, S, S / 8), bits that are set where lesion is, and known bool (B,).
        Arrays are read-only views of shared memory.
        """
        prepared = ray.put(self.prepared)
        ahead: deque[ray.ObjectRef] = deque()
        for epoch in range(self.first, self.last):
            order, copy = self.order(epoch)
            for start in range(0, len(order), self.window):
                row, again = (values[start : start + self.window] for values in (order, copy))
                ahead.append(_read.remote(prepared, self.rows.take(row), row, again, self.augment, self.seed, epoch))
                if len(ahead) > AHEAD:
                    yield from _cut(ray.get(ahead.popleft()), size)
        while ahead:
            yield from _cut(ray.get(ahead.popleft()), size)


# Asks for no CPU: workers hold theirs while they wait for this, and where a lost node left them all there is, both
# would wait for ever. How many run is bounded by AHEAD. The strategy is named, as the default would be the placement
# group of the trial that the training is part of, which has no room.
@ray.remote(  # type: ignore[call-overload]
    num_cpus=0, max_retries=3, retry_exceptions=[OSError], scheduling_strategy="DEFAULT"
)
def _read(
    prepared: Prepared,
    rows: Rows,
    row: np.ndarray,
    again: np.ndarray,
    augment: AugmentConfig | None,
    seed: int,
    epoch: int,
) -> Arrays:
    """The rows of one window, augmented when training: one that comes again in other ways."""
    pixels = prepared.pixels(rows)
    masks = None if rows.known is None else prepared.lesions(rows)
    if augment is not None:
        ids = [f"{name}+{number}" if number else name for name, number in zip(rows.row_id, again.tolist(), strict=True)]
        parameters = draw(augment, seed=seed, epoch=epoch, row_ids=ids)
        pixels = apply(pixels, parameters)
        masks = masks if masks is None else moved(masks, parameters)
    found = {"pixels": pixels, "label": rows.label.astype(np.int64), "row": row}
    if masks is not None and rows.known is not None:
        found |= {"mask": np.packbits(masks > 0, axis=-1), "known": rows.known}
    return found


def _cut(window: Arrays, size: int) -> Iterator[Arrays]:
    for start in range(0, len(window["row"]), size):
        yield {name: array[start : start + size] for name, array in window.items()}
