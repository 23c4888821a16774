"""What to do with shards whose worker died again and again: find the objects that kill, and save all others.

A shard is halved until a half passes or is a single object; one that kills its worker twice is quarantined as
`crashed.decoder`. A node that is lost says nothing of what was done on it, and memory that ran out may have been taken
by others: an object is blamed for that only where it was alone. The results of the pieces are put together as if the
shard had been done at once.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError

from mri_ray.archive.manifest import Shard
from mri_ray.errors import RunError
from mri_ray.on_ray.work import DEATHS, NODE_LOSSES, Cost, Facts, Recipe, discreet

log = logging.getLogger(__name__)

_TRIES = 2  # of a single object: a worker may die of something else
_LOSSES = 10  # of nodes under one piece: a cluster that loses more will do none of it


@dataclass(frozen=True, kw_only=True)
class _Piece:
    shard: Shard
    start: int
    stop: int
    tries: int = 0
    losses: int = 0
    crashed: bool = False

    @property
    def single(self) -> bool:
        return self.stop - self.start == 1

    @property
    def after_death(self) -> list["_Piece"]:
        """What is tried next."""
        if not self.single:
            middle = (self.start + self.stop) // 2
            return [
                _Piece(shard=self.shard, start=self.start, stop=middle),
                _Piece(shard=self.shard, start=middle, stop=self.stop),
            ]
        tries = self.tries + 1
        return [replace(self, tries=tries, crashed=tries == _TRIES)]


def rescue(lost: Sequence[Shard], recipe: ray.ObjectRef, *, cost: Cost) -> Iterator[Facts]:
    """The facts of shards that were lost with their workers, each as it ends. recipe: a `work.Recipe`.

    Raises RunError when a worker dies before it has looked at any object; what the work itself raises passes through.
    """
    part = ray.remote(_part).options(max_retries=0, num_returns=2, **cost)
    gather = ray.remote(_gather).options(max_retries=0, **cost)
    _check(part, lost[0], recipe)
    running: dict[ray.ObjectRef, tuple[_Piece, ray.ObjectRef]] = {}
    alone: list[_Piece] = []  # single objects, each to be tried once nothing else is done
    finished: dict[str, dict[int, tuple[int, ray.ObjectRef]]] = {shard.digest: {} for shard in lost}

    def start(piece: _Piece) -> None:
        two: Any = part.remote(recipe, piece)  # Ray's annotation knows of one value only
        running[two[0]] = (piece, two[1])

    for shard in lost:
        start(_Piece(shard=shard, start=0, stop=shard.objects))
    while running or alone:
        if not running:
            start(alone.pop())
        (done,), _ = ray.wait(list(running), num_returns=1)
        piece, rows = running.pop(done)
        try:
            ray.get(done)
        except NODE_LOSSES:
            if piece.losses == _LOSSES:
                raise
            start(replace(piece, losses=piece.losses + 1))
            continue
        except DEATHS as death:
            if running and piece.single and isinstance(death, OutOfMemoryError):
                alone.append(piece)
                continue
            for smaller in piece.after_death:
                start(smaller)
            continue
        if piece.crashed:
            log.warning("an object of shard %s kills its worker and is quarantined", piece.shard.digest[:12])
        pieces = finished[piece.shard.digest]
        pieces[piece.start] = (piece.stop - piece.start, rows)
        if sum(size for size, _ in pieces.values()) < piece.shard.objects:
            continue
        try:
            yield ray.get(gather.remote(recipe, piece.shard, *(pieces[place][1] for place in sorted(pieces))))
        except DEATHS:  # a node has left with rows that were done
            pieces.clear()
            start(_Piece(shard=piece.shard, start=0, stop=piece.shard.objects))


def _check(part: Any, shard: Shard, recipe: ray.ObjectRef) -> None:
    for losses in range(_LOSSES + 1):
        try:
            ray.get(part.remote(recipe, _Piece(shard=shard, start=0, stop=0))[0])
        except DEATHS as exc:
            if isinstance(exc, NODE_LOSSES) and losses < _LOSSES:
                continue
            raise RunError(f"workers die before they look at any object: {type(exc).__name__}") from exc
        else:
            return


def _part(recipe: Recipe, piece: _Piece) -> tuple[bool, pa.Table]:
    """Two values, so that the driver can see how it ended without fetching the rows."""
    with discreet():
        return True, recipe.work().part(piece.shard, piece.start, piece.stop, crashed=piece.crashed)


def _gather(recipe: Recipe, shard: Shard, *parts: pa.Table) -> Facts:
    with discreet():
        return recipe.work().gather(shard, parts)
