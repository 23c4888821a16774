"""What is done with a shard, in a worker process that holds on to what it has loaded for it."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pyarrow as pa
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)

from mri_ray.archive.manifest import Shard
from mri_ray.errors import MriRayError

# Of a shard that ended, plain values; at least `listed` (its objects) and `objects` (these, or the members of packs).
Facts = dict[str, Any]
Cost = dict[str, Any]  # what a task asks Ray for
Members = tuple[int, int]  # of an object: from which to below which (`decode.read.Window`)
ONE_CPU: Cost = {"num_cpus": 1}
NODE_LOSSES = (NodeDiedError, LocalRayletDiedError, ObjectLostError)  # a node with what its workers had made
DEATHS = (WorkerCrashedError, OutOfMemoryError, *NODE_LOSSES)


class Work(Protocol):
    """What is done with a shard; made once in each worker process."""

    def __call__(self, shard: Shard) -> Facts:
        """All of it, ending with the one file that tells that it is done."""

    def part(self, shard: Shard, start: int, stop: int, *, crashed: bool, members: Members | None = None) -> pa.Table:
        """The rows of the shard's objects from start to below stop; crashed: not looked at, but said to be so.

        members: of a single object only these.
        """

    def count(self, shard: Shard, place: int) -> int:
        """How many members one of the shard's objects has, of which `part` can do some; 1: it is done as a whole."""

    def gather(self, shard: Shard, parts: Sequence[pa.Table]) -> Facts:
        """What `__call__` does at its end, with rows from `part`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How work is made, to be sent to workers: a process makes it once, for all shards that it is given."""

    make: Callable[[], Work]
    key: str = field(default_factory=lambda: uuid4().hex)

    def work(self) -> Work:
        if self.key not in _HELD:
            _HELD.clear()  # of an earlier run in the same process
            _HELD[self.key] = self.make()
        return _HELD[self.key]


_HELD: dict[str, Work] = {}


@contextmanager
def discreet() -> Iterator[None]:
    """What nobody foresaw is told by kind and place, not by its text: libraries quote paths and values in theirs."""
    try:
        yield
    except (MriRayError, *DEATHS):  # the latter of what it waits for
        raise
    except Exception as exc:
        place = "".join(traceback.format_tb(exc.__traceback__))
        cause = f": {os.strerror(exc.errno)}" if isinstance(exc, OSError) and exc.errno else ""
        raise RuntimeError(f"a worker raised {type(exc).__name__}{cause}\n{place}") from None


def own_error(error: BaseException) -> MriRayError | None:
    """The error of ours that Ray has wrapped, if there is one."""
    cause: BaseException | None = error
    # Ray makes its wrapper a kind of what it wraps, and its text a trace of the worker.
    while cause is not None and (isinstance(cause, RayError) or not isinstance(cause, MriRayError)):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause


def peak_mb() -> int:
    """The most memory that this process has held at once; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)
