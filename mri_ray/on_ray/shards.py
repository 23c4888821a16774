"""Running one piece of work on every shard of a manifest, in parallel: a Ray task a shard, wherever there is room.

Tasks, not a pool of actors: Ray places them on the nodes that there are now, asks its autoscaler for more while some
wait, and gives a task to a process that has the bundle loaded already.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import ray
from ray.exceptions import RayError

from mri_ray.archive.manifest import Shard
from mri_ray.errors import OutOfTime
from mri_ray.on_ray import cluster
from mri_ray.on_ray.rescue import rescue
from mri_ray.on_ray.work import DEATHS, ONE_CPU, Cost, Facts, Recipe, Work, discreet, own_error, peak_mb

log = logging.getLogger(__name__)

_TRIES = 3  # of a shard whose worker died: nodes come and go
_AHEAD = 64  # at least so many tasks are handed to Ray, so that a cluster that is yet to grow knows what for


def run(
    shards: Sequence[Shard], make: Callable[[], Work], *, workers: int | None, cost: Cost = ONE_CPU
) -> Iterator[Facts]:
    """The facts of every shard as it ends; `make` builds the work (and loads a model) once in each worker process.

    workers: shards at once; None: as many as there is room for. Shards whose worker dies again and again are rescued
    (`rescue`). What the work raises ends all, and passes through.
    """
    # Ray's own retries have no end where the cause is a lack of memory.
    task = ray.remote(_done).options(max_retries=0, **cost)
    recipe = ray.put(Recipe(make=make))
    todo, running, deaths = iter(shards), dict[ray.ObjectRef, Shard](), Counter[Shard]()
    lost: list[Shard] = []
    try:
        while True:
            room = (workers or max(_AHEAD, 2 * cluster.cpus())) - len(running)
            running |= {task.remote(recipe, shard): shard for shard in islice(todo, max(room, 0))}
            if not running:
                break
            (done,), _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(done)
            try:
                yield ray.get(done)
            except DEATHS:
                deaths[shard] += 1
                if deaths[shard] < _TRIES:
                    running[task.remote(recipe, shard)] = shard
                else:
                    lost.append(shard)
        if lost:
            log.warning("%s shards were lost with their workers; looking for the objects that did it", len(lost))
            yield from rescue(lost, recipe, cost=cost)
    except RayError as exc:
        own = own_error(exc)
        if own is None:
            raise
        raise own from exc
    finally:
        for ref in running:
            ray.cancel(ref)


def _done(recipe: Recipe, shard: Shard) -> Facts:
    with discreet():
        return recipe.work()(shard) | {"peak_mb": peak_mb()}


def followed(facts: Iterator[Facts], *, total: int, what: str, deadline: float | None = None) -> list[Facts]:
    """Gather the facts, and log every two seconds how far the work is.

    deadline: in the time of `time.monotonic`; raises OutOfTime when it has passed with work left.
    """
    gathered: list[Facts] = []
    started = said = time.monotonic()
    objects = bad = 0
    for fact in facts:
        gathered.append(fact)
        objects += fact["listed"]
        bad += fact.get("quarantined", 0)
        now = time.monotonic()
        if deadline is not None and now > deadline and objects < total:
            raise OutOfTime(
                f"max_runtime_s: {objects:,} of {total:,} objects are {what} and kept; the same line does the rest"
            )
        if now - said >= 2 or objects == total:
            said = now
            rate = objects / max(now - started, 1e-9)
            left = (total - objects) / rate
            log.info(
                "%s %s of %s objects, %.0f/s, %.0f s left, %s quarantined",
                *(what, f"{objects:,}", f"{total:,}", rate, left, f"{bad:,}"),
            )
    return gathered
