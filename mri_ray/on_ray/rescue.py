"""What to do with shards whose worker died again and again: find the objects that kill, and save all others.

A shard is halved until a half passes or is a single object; one that kills its worker twice is quarantined as
`crashed.decoder`. The results of the pieces are put together as if the shard had been done at once.
"""

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError

from mri_ray.archive.manifest import Shard
from mri_ray.errors import MriRayError, RunError

log = logging.getLogger(__name__)

# Of a shard that ended, plain values; at least `listed` (its objects) and `objects` (these, or the members of packs).
Facts = dict[str, Any]
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)
_TRIES = 2  # of a single object: a worker may die of something else


class Work(Protocol):
    """What is done with a shard; made anew in each worker process."""

    def __call__(self, shard: Shard) -> Facts:
        """All of it, ending with the one file that tells that it is done."""

    def part(self, shard: Shard, start: int, stop: int, *, crashed: bool) -> pa.Table:
        """The rows of the shard's objects from start to below stop; crashed: not looked at, but said to be so."""

    def gather(self, shard: Shard, parts: Sequence[pa.Table]) -> Facts:
        """What `__call__` does at its end, with rows from `part`."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    shard: Shard
    start: int
    stop: int
    tries: int = 0
    crashed: bool = False

    @property
    def after_death(self) -> list["_Piece"]:
        """What is tried next."""
        if self.stop - self.start > 1:
            middle = (self.start + self.stop) // 2
            return [
                _Piece(shard=self.shard, start=self.start, stop=middle),
                _Piece(shard=self.shard, start=middle, stop=self.stop),
            ]
        tries = self.tries + 1
        return [
            _Piece(shard=self.shard, start=self.start, stop=self.stop, tries=tries, crashed=tries == _TRIES),
        ]


def rescue(lost: Sequence[Shard], make: Callable[[], Work], *, gpus: int) -> Iterator[Facts]:
    """The facts of shards that were lost with their workers, each as it ends.

    Raises RunError when a worker dies before it has looked at any object; what the work itself raises passes through.
    """
    cost: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    part = ray.remote(_part).options(max_retries=0, num_returns=2, **cost)
    gather = ray.remote(_gather).options(**cost)
    _check(part, lost[0], make)
    running: dict[ray.ObjectRef, tuple[_Piece, ray.ObjectRef]] = {}
    finished: dict[str, dict[int, tuple[int, ray.ObjectRef]]] = {shard.digest: {} for shard in lost}

    def start(piece: _Piece) -> None:
        two: Any = part.remote(make, piece)  # Ray's annotation knows of one value only
        running[two[0]] = (piece, two[1])

    for shard in lost:
        start(_Piece(shard=shard, start=0, stop=shard.objects))
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        piece, rows = running.pop(done)
        try:
            ray.get(done)
        except _DEATHS:
            for smaller in piece.after_death:
                start(smaller)
            continue
        if piece.crashed:
            log.warning("an object of shard %s kills its worker and is quarantined", piece.shard.digest[:12])
        pieces = finished[piece.shard.digest]
        pieces[piece.start] = (piece.stop - piece.start, rows)
        if sum(size for size, _ in pieces.values()) == piece.shard.objects:
            yield ray.get(gather.remote(make, piece.shard, *(pieces[place][1] for place in sorted(pieces))))


def _check(part: Any, shard: Shard, make: Callable[[], Work]) -> None:
    try:
        ray.get(part.remote(make, _Piece(shard=shard, start=0, stop=0))[0])
    except _DEATHS as exc:
        raise RunError(f"workers die before they look at any object: {type(exc).__name__}") from exc


def _part(make: Callable[[], Work], piece: _Piece) -> tuple[bool, pa.Table]:
    """Two values, so that the driver can see how it ended without fetching the rows."""
    with discreet():
        return True, make().part(piece.shard, piece.start, piece.stop, crashed=piece.crashed)


def _gather(make: Callable[[], Work], shard: Shard, *parts: pa.Table) -> Facts:
    with discreet():
        return make().gather(shard, parts)


@contextmanager
def discreet() -> Iterator[None]:
    """What nobody foresaw is told by kind and place, not by its text: libraries quote paths and values in theirs."""
    try:
        yield
    except MriRayError:
        raise
    except Exception as exc:
        place = "".join(traceback.format_tb(exc.__traceback__))
        cause = f": {os.strerror(exc.errno)}" if isinstance(exc, OSError) and exc.errno else ""
        raise RuntimeError(f"a worker raised {type(exc).__name__}{cause}\n{place}") from None
