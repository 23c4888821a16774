"""Running one piece of work on every shard of a manifest, in parallel and with progress: Ray Data, an actor pool."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import UserCodeException
from ray.util.annotations import RayDeprecationWarning

from mri_ray import errors
from mri_ray.archive.manifest import Shard
from mri_ray.errors import MriRayError
from mri_ray.on_ray import cluster
from mri_ray.on_ray.rescue import Facts, Work, discreet, rescue

log = logging.getLogger(__name__)

_RETRIES = 2  # of a shard whose worker died: nodes come and go


class _Worker:
    """Adapts a Work to Ray Data; the facts travel as JSON, since their fields differ from shard to shard.

    Errors travel so too: Ray Data is told to go on without the blocks of workers that died, and would go on without
    those that raised.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._work = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            with discreet():
                told: dict[str, Any] = {"facts": self._work(Shard(**row)) | {"peak_mb": _peak_mb()}}
        except Exception as exc:
            told = {"error": type(exc).__name__, "text": str(exc)}
        return {"shard": row["digest"], "told": json.dumps(told)}


def run(
    shards: Sequence[Shard], make: Callable[[], Work], *, workers: int | None, use_gpu: bool = False
) -> Iterator[Facts]:
    """The facts of every shard as it ends; `make` builds the work once in each actor (and there loads a model).

    Shards whose worker dies again and again are rescued (`rescue`). What the work raises passes through.
    """
    if not shards:
        return
    gpus = cluster.gpus() if use_gpu else 0
    ray.data.DataContext.get_current().max_errored_blocks = -1  # they are found by their absence
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
    with warnings.catch_warnings():
        # Without a number of its own Ray Data tries without end. It announces a named parameter for each of these.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        done = rows.map(
            _Worker,  # type: ignore[arg-type]  # Ray's annotation leaves classes out
            fn_constructor_args=(make,),
            compute=_pool(len(shards), workers, gpus),
            num_cpus=None if gpus else 1,
            num_gpus=1 if gpus else None,
            max_task_retries=_RETRIES,
        )
    lost = {shard.digest: shard for shard in shards}
    try:
        for row in done.iter_rows():
            del lost[row["shard"]]
            yield _facts(json.loads(row["told"]))
        if lost:
            log.warning("%s shards were lost with their workers; looking for the objects that did it", len(lost))
            yield from rescue(list(lost.values()), make, gpus=gpus)
    except (ray.exceptions.RayError, UserCodeException) as exc:
        own = own_error(exc)
        if own is None:
            raise
        raise own from exc


def _facts(told: dict[str, Any]) -> Facts:
    """A shard's facts; raises what its work has raised, our own errors as such."""
    if "error" not in told:
        return told["facts"]
    kind = getattr(errors, told["error"], None)
    if isinstance(kind, type) and issubclass(kind, MriRayError):
        raise kind(told["text"])
    raise RuntimeError(told["text"])


def _pool(shards: int, workers: int | None, gpus: int) -> ray.data.ActorPoolStrategy:
    """As many actors as asked for, else one a GPU or CPU; where workers are yet to come, as many as come."""
    size = workers or gpus or cluster.cpus()
    if size:
        return ray.data.ActorPoolStrategy(size=min(shards, size))
    return ray.data.ActorPoolStrategy(min_size=1, max_size=shards)


def _peak_mb() -> int:
    """The most memory that this process has held at once; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


def own_error(error: BaseException) -> MriRayError | None:
    """The error of ours that Ray has wrapped, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MriRayError):
        cause = cause.__cause__ or getattr(cause, "cause", None)
    return cause
