"""Near copies of pictures: mirrored, turned, rescaled, re-encoded, brightened or slightly cropped ones.

Vectors of thumbnails (`thumbnails.versions`) are looked up in an index, which gives candidates; of these `verified` are
copies. Only candidates that would join what is not joined yet are looked at, so a large group of copies costs little.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from mri_ray.cohort import thumbnails
from mri_ray.cohort.groups import components
from mri_ray.cohort.thumbnails import COPY, LENGTH, VERSIONS

METHOD = 1  # raised when the same thumbnails begin to give other copies
_CANDIDATE = 0.8  # least correlation of their vectors
_NEIGHBOURS = 64  # of a vector that are looked at
_JUDGED, _LIKELY = 16, 0.9  # candidates of a picture that are judged, besides all from this correlation on
_EXACT = 16_384  # pictures up to which every vector is compared
_TRAINED_ON, _PROBED = 131_072, 32  # vectors that a larger index is made from, and its cells that are looked into


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Pairs of pictures that may be copies, each pair once; arrays (E,).

    one, other: int64, positions. version: int8, of `one`, in which it looks like the other. score: float32, how much.
    """

    one: np.ndarray
    other: np.ndarray
    version: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.one)

    def take(self, where: np.ndarray) -> "Candidates":
        return Candidates(
            one=self.one[where], other=self.other[where], version=self.version[where], score=self.score[where]
        )


_KINDS = {"one": np.int64, "other": np.int64, "version": np.int8, "score": np.float32}
Judge = Callable[[Candidates], np.ndarray]  # the likeness of each pair, float32 (E,)


def index(vectors: np.ndarray) -> np.ndarray:
    """float32 (N, LENGTH) -> an index of them as bytes, uint8 (B,). The same vectors give the same bytes.

    Above _EXACT pictures it holds a byte a number, and only parts of it are looked at: some 280 bytes a picture.
    """
    faiss.omp_set_num_threads(1)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if len(vectors) <= _EXACT:
        made: Any = faiss.IndexFlatIP(LENGTH)
    else:
        cells = int(4 * np.sqrt(len(vectors)))
        made = faiss.index_factory(LENGTH, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        made.nprobe = _PROBED
        some = np.random.default_rng(0).permutation(len(vectors))[:_TRAINED_ON]
        made.train(vectors[np.sort(some)])
    made.add(vectors)
    return faiss.serialize_index(made)


def near(held: np.ndarray, versions: np.ndarray, first: int, owner: np.ndarray) -> Candidates:
    """Candidates of the pictures numbered from `first`, looked up by their vectors float32 (N, len(VERSIONS), LENGTH).

    held: what `index` gives. owner: int64, of all pictures; those that are together anyway have the same number, -1 is
    unknown. Of each picture the likeliest are taken, so that what is to be judged grows no faster than the archive.
    """
    faiss.omp_set_num_threads(1)
    known: Any = faiss.deserialize_index(held)
    queries = np.ascontiguousarray(versions.reshape(-1, LENGTH))
    score, found = known.search(queries, min(_NEIGHBOURS, known.ntotal))
    query, place = np.nonzero((score >= _CANDIDATE) & (found >= 0))
    pairs = Candidates(
        one=first + query // len(VERSIONS),
        other=found[query, place],
        version=(query % len(VERSIONS)).astype(np.int8),
        score=score[query, place],
    )
    together = (pairs.one == pairs.other) | ((owner[pairs.one] == owner[pairs.other]) & (owner[pairs.one] >= 0))
    pairs = pairs.take(~together)
    pairs = _first(pairs, (pairs.version, -pairs.score), (pairs.other, pairs.one))
    order = np.lexsort((pairs.other, -pairs.score, pairs.one))
    rank = np.arange(len(order)) - np.searchsorted(pairs.one[order], pairs.one[order])
    return best([pairs.take(order[(rank < _JUDGED) | (pairs.score[order] >= _LIKELY)])])


def best(parts: Sequence[Candidates]) -> Candidates:
    """Of every pair, whichever of its pictures it was met from, the version that is most alike."""
    every = Candidates(
        **{
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in _KINDS.items()
        }
    )
    ends = np.maximum(every.one, every.other), np.minimum(every.one, every.other)
    return _first(every, (every.version, every.one, -every.score), ends)


def _first(pairs: Candidates, order: tuple[np.ndarray, ...], keys: tuple[np.ndarray, ...]) -> Candidates:
    """One of the pairs that have equal keys, the first in order; as for lexsort, the last array decides most."""
    rows = np.lexsort((*order, *keys))
    starts = np.ones(len(rows), bool)
    starts[1:] = np.any([np.diff(key[rows]) != 0 for key in keys], axis=0)
    return pairs.take(rows[starts])


def links(found: Candidates, count: int, judge: Judge) -> Candidates:
    """Of the candidates among `count` pictures, copies that join all that are to be joined.

    The likeliest pairs that can join all are judged first; of the others only those whose pictures are still apart.
    """
    chosen = np.zeros(len(found), bool)
    chosen[_spanning(found, count)] = True
    first = _copies(found.take(chosen), judge)
    part = components(count, first.one, first.other)
    rest = found.take(~chosen & (part[found.one] != part[found.other]))
    return best([first, _copies(rest, judge)])


def judged(found: Candidates, pictures: Mapping[int, np.ndarray] | np.ndarray) -> np.ndarray:
    """The likeness of each pair, float32 (E,); pictures: their thumbnails, by position."""
    pairs = zip(found.one.tolist(), found.other.tolist(), found.version.tolist(), strict=True)
    values = [thumbnails.likeness(pictures[one], pictures[other], version) for one, other, version in pairs]
    return np.array(values, np.float32)


def find(pictures: np.ndarray) -> Candidates:
    """`links` among thumbnails uint8 (N, side, side), in this process: for some thousand pictures."""
    held, unknown = index(thumbnails.vectors(pictures)), np.full(len(pictures), -1)
    found = near(held, thumbnails.versions(pictures), 0, unknown)
    return links(found, len(pictures), lambda pairs: judged(pairs, pictures))


def _copies(found: Candidates, judge: Judge) -> Candidates:
    return found.take(judge(found) >= COPY) if len(found) else found


def _spanning(found: Candidates, count: int) -> np.ndarray:
    """Positions of the pairs of a forest that joins what all of them would, of the highest scores."""
    rank = np.empty(len(found), np.int64)
    rank[np.argsort(-found.score, kind="stable")] = np.arange(1, len(found) + 1)
    graph = coo_array((rank, (found.one, found.other)), shape=(count, count)).tocsr()
    position = np.empty(len(found) + 1, np.int64)
    position[rank] = np.arange(len(found))
    return position[minimum_spanning_tree(graph).data.astype(np.int64)]
