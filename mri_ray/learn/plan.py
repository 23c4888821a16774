"""Which rows an epoch holds, and in which order: a pure function of the seed and the epoch.

Prepared rows lie in chunks (Parquet row groups). An epoch permutes the chunks, cuts the sequence into windows and
permutes the rows within each: a shuffle over the whole archive that reads every chunk once and holds one window.
"""

from dataclasses import dataclass, replace

import numpy as np

CHUNK_ROWS = 64  # rows of a row group: 3 MB at 224 x 224


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of one side in archive order; arrays of length N.

    part, place: int32, the file and the row in it. label: int8, 1 tumor and 0 normal. row_id: str. source: int32, the
    archive. known: bool, whether the row's mask is; None: no mask is.
    """

    part: np.ndarray
    place: np.ndarray
    label: np.ndarray
    row_id: np.ndarray
    source: np.ndarray | None = None
    known: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.part)

    def take(self, positions: np.ndarray) -> "Rows":
        return replace(self, **{name: array[positions] for name, array in vars(self).items() if array is not None})


def epoch_order(rows: Rows, *, seed: int, epoch: int, window: int, batch: int, balanced: bool = False) -> np.ndarray:
    """Positions into `rows` in the order of an epoch, int64 (M,); M is the largest multiple of `batch` within N.

    balanced: each class of each source has as many rows; of those that are few, some come again (`copies`). What is
    left over differs from epoch to epoch and depends neither on the number of workers nor on restarts.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    drawn = _balanced(rows, rng) if balanced else np.arange(len(rows))
    chunk_of = (rows.part.astype(np.int64) << 32 | rows.place // CHUNK_ROWS)[drawn]
    chunks, inverse = np.unique(chunk_of, return_inverse=True)
    order = drawn[np.argsort(rng.permutation(len(chunks))[inverse], kind="stable")]
    for start in range(0, len(order), window):
        order[start : start + window] = rng.permutation(order[start : start + window])
    return order[: len(order) - len(order) % batch]


def _balanced(rows: Rows, rng: np.random.Generator) -> np.ndarray:
    """Positions in archive order, as many of each class of each source, about N in all."""
    stratum = rows.label.astype(np.int64) + (0 if rows.source is None else 2 * rows.source.astype(np.int64))
    strata, inverse = np.unique(stratum, return_inverse=True)
    found = []
    for number in range(len(strata)):
        mine = np.flatnonzero(inverse == number)
        times, rest = divmod(len(rows) // len(strata), len(mine))
        found += [np.tile(mine, times), rng.permutation(mine)[:rest]]
    return np.sort(np.concatenate(found))


def copies(order: np.ndarray) -> np.ndarray:
    """How often each position has occurred in an order before, int64 (M,)."""
    ranked = np.argsort(order, kind="stable")
    begins = np.flatnonzero(np.diff(order[ranked], prepend=-1))
    counts = np.diff(begins, append=len(order))
    earlier = np.empty(len(order), np.int64)
    earlier[ranked] = np.arange(len(order)) - np.repeat(begins, counts)
    return earlier


def class_weights(label: np.ndarray) -> tuple[float, float]:
    """Of normal and tumor, so that both count alike; their mean over the rows is 1. label: int8 (N,), both occur."""
    count = np.bincount(label, minlength=2)
    normal, tumor = (len(label) / (2 * count)).tolist()
    return normal, tumor


def share(order: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The part of an order that one worker reads: contiguous, so that each chunk is read once; sizes differ by <= 1."""
    bounds = np.linspace(0, len(order), workers + 1).astype(np.int64)
    return order[bounds[rank] : bounds[rank + 1]]


def effective_batch(batch: int, rows: int, workers: int) -> int:
    """The global batch: `batch`, or less where the side is smaller; always a multiple of `workers`."""
    return max(workers, min(batch, rows) // workers * workers)
