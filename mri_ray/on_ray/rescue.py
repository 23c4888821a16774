"""What to do with shards whose worker died again and again: find the objects that kill, and save all others.

A shard is halved until a half passes or is a single object, and a pack until it is a single member; one that kills its
worker twice is quarantined as `crashed.decoder`. A node that is lost says nothing of what was done on it, and memory
that ran out may have been taken by others: an object is blamed for that only where it was alone. The results of the
pieces are put together as if the shard had been done at once.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError

from mri_ray.archive.manifest import Shard
from mri_ray.errors import RunError
from mri_ray.on_ray.work import DEATHS, NODE_LOSSES, Cost, Facts, Members, Recipe, discreet

log = logging.getLogger(__name__)

_TRIES = 2  # of a single object: a worker may die of something else
_LOSSES = 10  # of nodes under one piece: a cluster that loses more will do none of it


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Objects of a shard from start to below stop; of a single one, those of its members."""

    shard: Shard
    start: int
    stop: int
    members: Members | None = None
    tries: int = 0
    losses: int = 0
    crashed: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Where its rows stand among those of the shard."""
        return self.start, self.members[0] if self.members else 0

    @property
    def single(self) -> bool:
        return self.stop - self.start == 1

    @property
    def halves(self) -> list["_Piece"]:
        """What it can be divided into; none where it is one object, or one member of it."""
        if not self.single:
            middle = (self.start + self.stop) // 2
            return [replace(self, stop=middle, losses=0), replace(self, start=middle, losses=0)]
        first, last = self.members or (0, 1)
        if last - first == 1:
            return []
        middle = (first + last) // 2
        return [replace(self, members=some, tries=0, losses=0) for some in ((first, middle), (middle, last))]


def rescue(lost: Sequence[Shard], recipe: ray.ObjectRef, *, cost: Cost) -> Iterator[Facts]:
    """The facts of shards that were lost with their workers, each as it ends. recipe: a `work.Recipe`.

    Raises RunError when a worker dies before it has looked at any object, and when a piece loses its node again and
    again; what the work itself raises passes through.
    """
    part = ray.remote(_part).options(max_retries=0, num_returns=2, **cost)
    gather = ray.remote(_gather).options(max_retries=0, **cost)
    count = ray.remote(_count).options(max_retries=0, **cost)
    _check(part, lost[0], recipe)
    running: dict[ray.ObjectRef, tuple[_Piece, ray.ObjectRef]] = {}
    alone: list[_Piece] = []  # single objects, each to be tried once nothing else is done
    finished: dict[str, dict[tuple[int, int], ray.ObjectRef]] = {shard.digest: {} for shard in lost}
    open_pieces = Counter[str]()  # of each shard

    def start(piece: _Piece) -> None:
        two: Any = part.remote(recipe, piece)  # Ray's annotation knows of one value only
        running[two[0]] = (piece, two[1])

    def begin(*pieces: _Piece) -> None:
        for piece in pieces:
            open_pieces[piece.shard.digest] += 1
            start(piece)

    def after_death(piece: _Piece) -> list[_Piece]:
        """What is tried next."""
        if piece.halves:
            return piece.halves
        tried = replace(piece, tries=piece.tries + 1)
        if tried.tries < _TRIES:
            return [tried]
        members = 1 if piece.members else _members(count, piece, recipe)
        return replace(piece, members=(0, members)).halves or [replace(tried, crashed=True)]

    begin(*(_Piece(shard=shard, start=0, stop=shard.objects) for shard in lost))
    while running or alone:
        if not running:
            start(alone.pop())
        (done,), _ = ray.wait(list(running), num_returns=1)
        piece, rows = running.pop(done)
        try:
            ray.get(done)
        except DEATHS as death:
            if isinstance(death, NODE_LOSSES) or piece.crashed:  # what is crashed is not looked at any more
                if piece.losses == _LOSSES:
                    raise RunError(
                        f"nodes are lost faster than work is done: a piece of a shard was begun {_LOSSES + 1} times, "
                        f"the last of which ended with {type(death).__name__}; the same line goes on from what is done"
                    ) from death
                start(replace(piece, losses=piece.losses + 1))
            elif running and piece.single and isinstance(death, OutOfMemoryError):
                alone.append(piece)
            else:
                begin(*after_death(piece))
                open_pieces[piece.shard.digest] -= 1
            continue
        if piece.crashed:
            what = "an object" if piece.members is None else "a member of a pack"
            log.warning("%s of shard %s kills its worker and is quarantined", what, piece.shard.digest[:12])
        pieces = finished[piece.shard.digest]
        pieces[piece.place] = rows
        open_pieces[piece.shard.digest] -= 1
        if open_pieces[piece.shard.digest]:
            continue
        try:
            yield ray.get(gather.remote(recipe, piece.shard, *(pieces[place] for place in sorted(pieces))))
        except DEATHS:  # a node has left with rows that were done
            pieces.clear()
            begin(_Piece(shard=piece.shard, start=0, stop=piece.shard.objects))


def _members(count: Any, piece: _Piece, recipe: ray.ObjectRef) -> int:
    """How many members a piece's object has; 1 where counting them kills, too."""
    for _ in range(_TRIES):
        with suppress(*DEATHS):
            return int(ray.get(count.remote(recipe, piece.shard, piece.start)))
    return 1


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
        part = partial(recipe.work().part, piece.shard, piece.start, piece.stop)
        return True, part(crashed=piece.crashed, members=piece.members)


def _count(recipe: Recipe, shard: Shard, place: int) -> int:
    with discreet():
        return recipe.work().count(shard, place)


def _gather(recipe: Recipe, shard: Shard, *parts: pa.Table) -> Facts:
    with discreet():
        return recipe.work().gather(shard, parts)
