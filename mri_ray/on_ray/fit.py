"""One training on Ray Train, as jobs.train and every trial of a search make it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import ray.train
import ray.train.torch
from ray.train import UserCallback

from mri_ray.archive.storage import Location
from mri_ray.cohort.assemble import Cohort
from mri_ray.errors import ConfigError, MriRayError, SplitError, TrainingFailed
from mri_ray.learn.plan import Rows
from mri_ray.on_ray import cluster, train_worker
from mri_ray.on_ray.settings import TrainRun, TrainSettings
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.work import own_error


class Sink(Protocol):
    """Where workers put lines for people, and epochs' figures."""

    def put(self, item: Any) -> None: ...


def task(settings: TrainRun, prepared: Prepared, train: Rows, validation: Rows) -> train_worker.Task:
    """What the workers are told. Raises SplitError where there are fewer rows than workers."""
    made = train_worker.Task(
        model=settings.model,
        optimiser=settings.optimiser,
        augment=settings.augment,
        settings=settings.train,
        seed=settings.seed,
        prepared=prepared,
        train=train,
        validation=validation,
    )
    if len(train) < made.batch:
        raise SplitError(
            f"train.workers: each worker needs a row of the train side, got {settings.train.workers} workers for "
            f"{len(train)} rows"
        )
    return made


def trainer(
    name: str,
    made: train_worker.Task,
    *,
    queue: Sink,
    place: Location,
    scaling: ray.train.ScalingConfig,
    max_failures: int,
    keep: int | None = 1,
    callbacks: Sequence[UserCallback] = (),
    kind: type[ray.train.torch.TorchTrainer] = ray.train.torch.TorchTrainer,
) -> ray.train.torch.TorchTrainer:
    """place: below it lie the checkpoints, from the last of which a training of the same name goes on.

    keep: so many checkpoints, None for all.
    """
    filesystem, path = place.arrow()
    return kind(
        train_worker.train,
        train_loop_config={"task": made, "queue": queue},
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=keep),
            callbacks=list[Any](callbacks),
        ),
    )


def rows(cohort: Cohort, *sides: int, masked: bool = False) -> Rows:
    """Rows of some sides; masked: with what is known of their masks."""
    return of(cohort, np.isin(cohort.side, sides), masked=masked)


def of(cohort: Cohort, chosen: np.ndarray, *, masked: bool) -> Rows:
    """Rows of a cohort, bool (N,)."""
    mine = np.flatnonzero(chosen)
    return Rows(
        part=cohort.index["part"].to_numpy()[mine],
        place=cohort.index["place"].to_numpy()[mine],
        label=cohort.label[mine],
        row_id=cohort.index["row_id"].to_numpy()[mine],
        source=cohort.source[mine],
        known=cohort.mask_known[mine] if masked else None,
    )


def scaling(settings: TrainSettings, *, cpus: float | None = None, mark: int | None = None) -> ray.train.ScalingConfig:
    """A GPU for each worker when the cluster has any; else so many CPUs.

    cpus: None: at most half of those that last for all workers: reading takes some. mark: bytes of memory that
    each asks for as well, so few that they only tell whose it is.
    """
    more = {} if mark is None else {"memory": mark}
    workers, least = settings.workers, settings.least_workers
    number: Any = workers if least is None else (least, workers)  # its annotation knows of one number only
    gpus = cluster.gpus()
    if gpus:
        if (least or workers) > gpus:
            raise ConfigError(f"train.workers: at most one a GPU, got {least or workers} workers for {gpus} GPUs")
        return ray.train.ScalingConfig(num_workers=number, use_gpu=True, resources_per_worker={"GPU": 1, **more})
    if cpus is None:
        cpus = min(1.0, cluster.lasting_cpus() / 2 / workers) or 1.0  # a cluster without any yet is made of whole ones
    # Spread: a node that is full of workers has no room for reading, and takes all of them along when it goes.
    resources = {"CPU": cpus, **more}
    return ray.train.ScalingConfig(num_workers=number, resources_per_worker=resources, placement_strategy="SPREAD")


def named(error: ray.train.TrainingFailedError) -> MriRayError:
    """Our own error where a worker raised one, else TrainingFailed with the last line of what it did raise."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    own = own_error(first)
    if own is not None:
        return own
    lines = str(first).strip().splitlines()
    return TrainingFailed(f"training: must end with a checkpoint, got {lines[-1] if lines else type(first).__name__}")
