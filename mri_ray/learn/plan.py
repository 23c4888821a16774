"""Which rows an epoch holds, and in which order: a pure function of the seed and the epoch.

Prepared rows lie in chunks (Parquet row groups). An epoch permutes the chunks, cuts the sequence into windows and
permutes the rows within each: a shuffle over the whole archive that reads every chunk once and holds one window.
"""

from dataclasses import dataclass

import numpy as np

CHUNK_ROWS = 64  # rows of a row group: 3 MB at 224 x 224


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of one side in archive order; arrays of length N.

    part, place: int32, the file and the row in it. label: int8, 1 tumor and 0 normal. row_id: str.
    """

    part: np.ndarray
    place: np.ndarray
    label: np.ndarray
    row_id: np.ndarray

    def __len__(self) -> int:
        return len(self.part)

    def take(self, positions: np.ndarray) -> "Rows":
        return Rows(
            part=self.part[positions],
            place=self.place[positions],
            label=self.label[positions],
            row_id=self.row_id[positions],
        )


def epoch_order(rows: Rows, *, seed: int, epoch: int, window: int, batch: int) -> np.ndarray:
    """Positions into `rows` in the order of an epoch, int64 (M,); M is the largest multiple of `batch` within N.

    What is left over differs from epoch to epoch and depends neither on the number of workers nor on restarts.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    chunk_of = rows.part.astype(np.int64) << 32 | rows.place // CHUNK_ROWS
    chunks, inverse = np.unique(chunk_of, return_inverse=True)
    order = np.argsort(rng.permutation(len(chunks))[inverse], kind="stable")
    for start in range(0, len(order), window):
        order[start : start + window] = rng.permutation(order[start : start + window])
    return order[: len(order) - len(order) % batch]


def share(order: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The part of an order that one worker reads: contiguous, so that each chunk is read once; sizes differ by <= 1."""
    bounds = np.linspace(0, len(order), workers + 1).astype(np.int64)
    return order[bounds[rank] : bounds[rank + 1]]


def effective_batch(batch: int, rows: int, workers: int) -> int:
    """The global batch: `batch`, or less where the side is smaller; always a multiple of `workers`."""
    return max(workers, min(batch, rows) // workers * workers)
