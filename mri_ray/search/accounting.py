"""How many trials fit a cluster at once, and what each of their workers may ask for; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mri_ray.errors import ConfigError

# Of a task that reads for a worker, which waits for storage half the time; without room for one, all wait for ever.
READ_CPUS = 0.5
_GRAINS = 10_000  # of a CPU: what Ray counts in


@dataclass(frozen=True, kw_only=True)
class Share:
    """concurrent: trials at once. cpus: what a worker asks for; with gpus it asks for one of these instead."""

    concurrent: int
    cpus: float
    gpus: bool = False


def share(
    nodes: Sequence[float], gpus: int, *, workers: int, concurrent: int | None = None, worker_cpus: float | None = None
) -> Share:
    """What fits. nodes: CPUs of each. workers: of a trial, the most that the space may ask for.

    What nobody has fixed is made to fit: half of the CPUs are for workers, half for reading. Raises ConfigError, with
    the sum, where what was fixed cannot run.
    """
    if gpus:
        return _by_gpu(gpus, workers, concurrent)
    if not sum(nodes):  # machines are yet to come
        return Share(concurrent=concurrent or 1, cpus=worker_cpus or 1.0)
    whole = sum(nodes)
    if worker_cpus is None:
        number = concurrent or max(1, int(whole / 2 // workers))
        cpus = min(1.0, whole / 2 / (number * workers))
        while not _fits(nodes, number * workers, cpus):
            cpus *= 0.75
            if cpus < 0.01:
                raise ConfigError(
                    f"train.workers: must find room beside the reading ({READ_CPUS} CPU), got {_sum(number, workers)} "
                    f"for {_told(nodes)}"
                )
        return Share(concurrent=number, cpus=math.floor(cpus * _GRAINS + 1e-6) / _GRAINS)
    number = concurrent or max(1, int((whole - READ_CPUS) // (workers * worker_cpus)))
    while concurrent is None and number > 1 and not _fits(nodes, number * workers, worker_cpus):
        number -= 1
    if not _fits(nodes, number * workers, worker_cpus):
        raise ConfigError(
            f"tune.worker_cpus: must leave {READ_CPUS} CPU on a node for reading, got {_sum(number, workers)} x "
            f"{worker_cpus:g} CPU = {number * workers * worker_cpus:g}, + {READ_CPUS} for reading, for {_told(nodes)}: "
            "the search would wait for ever; lower tune.concurrent, train.workers or tune.worker_cpus"
        )
    return Share(concurrent=number, cpus=worker_cpus)


def _by_gpu(gpus: int, workers: int, concurrent: int | None) -> Share:
    number = concurrent or gpus // workers
    if not number or number * workers > gpus:
        number = max(1, number)
        raise ConfigError(
            f"train.workers: each needs a GPU of its own, got {_sum(number, workers)} = {number * workers} GPUs for "
            f"{gpus}; lower tune.concurrent or train.workers"
        )
    return Share(concurrent=number, cpus=0.0, gpus=True)


def _fits(nodes: Sequence[float], workers: int, cpus: float) -> bool:
    """Whether so many workers find room even where they are packed badly, with room to read left on some node.

    Workers spread as they please: the worst is when each node is filled before the next.
    """
    slots = [int((node + 1e-9) // cpus) for node in nodes]
    if sum(slots) < workers:
        return False
    left, rest = workers, []
    for node, most in sorted(zip(nodes, slots, strict=True), reverse=True):
        here = min(left, most)
        left -= here
        rest.append(node - here * cpus)
    return max(rest) + 1e-9 >= READ_CPUS


def _sum(trials: int, workers: int) -> str:
    return f"{trials} trials x {workers} workers"


def _told(nodes: Sequence[float]) -> str:
    return f"{sum(nodes):g} CPUs ({' + '.join(f'{node:g}' for node in nodes)})"
