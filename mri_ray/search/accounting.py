"""How many trials fit a cluster at once, and what each of their workers may ask for; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mri_ray.errors import ConfigError

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

    What nobody has fixed is made to fit: half of the CPUs are for workers, so that reading, which asks for none, finds
    some idle. Raises ConfigError, with the sum, where what was fixed cannot run.
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
        return Share(concurrent=number, cpus=math.floor(cpus * _GRAINS + 1e-6) / _GRAINS)
    number = concurrent or max(1, int(whole // (workers * worker_cpus)))
    while concurrent is None and number > 1 and not _fits(nodes, number * workers, worker_cpus):
        number -= 1
    if not _fits(nodes, number * workers, worker_cpus):
        raise ConfigError(
            f"tune.worker_cpus: must fit on the nodes, got {_sum(number, workers)} x {worker_cpus:g} CPU = "
            f"{number * workers * worker_cpus:g} for {_told(nodes)}: trials would wait for ever; lower "
            "tune.concurrent, train.workers or tune.worker_cpus"
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
    """Whether so many workers find room, none of them on two nodes."""
    return sum(int((node + 1e-9) // cpus) for node in nodes) >= workers


def _sum(trials: int, workers: int) -> str:
    return f"{trials} trials x {workers} workers"


def _told(nodes: Sequence[float]) -> str:
    return f"{sum(nodes):g} CPUs ({' + '.join(f'{node:g}' for node in nodes)})"
