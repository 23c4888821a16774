"""One training on Ray Train, as jobs.train and every trial of a search make it."""

import asyncio
from typing import Any, Protocol

import numpy as np
import ray.train
import ray.train.torch
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import UserCallback
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.user_callback import UserCallbackHandler
from ray.train.v2._internal.execution.controller import TrainController
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mri_ray.archive.storage import Location
from mri_ray.cohort.assemble import Cohort
from mri_ray.errors import ConfigError, MriRayError, SplitError, TrainingFailed
from mri_ray.learn.plan import Rows
from mri_ray.on_ray import cluster, train_worker
from mri_ray.on_ray.settings import TrainRun, TrainSettings
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.work import own_error

# Looked at so often, what workers report is heard of at once; by default every two seconds.
_DIRECTING = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


class Sink(Protocol):
    """Where workers put lines for people, and epochs' figures."""

    def put(self, item: Any) -> None: ...


class _Controller(TrainController):
    """Ray's, which directs the workers."""

    def __init__(self, **given: Any) -> None:
        with cluster.environment(_DIRECTING):  # read now; workers shall not inherit it
            super().__init__(**given)


class Trainer(ray.train.torch.TorchTrainer):
    """Ray's, without actors that a training here can do without: each is a process that imports Ray and torch.

    On two cores a trial of two short epochs took 29 s with them, and takes 16. In an actor, as a trial is, no other one
    directs the workers. Nobody asks which nodes are about to go, or for rows of Ray's datasets. And what frees the room
    of a killed training asks Ray's dashboard, which a cluster on one machine has not, and then stays for ever, as does
    the room; a killed driver's is freed with its job, a trial's by `tune_search.Ledger`.

    heard: is told here of each report, once its checkpoint is kept; in an actor only.
    """

    def __init__(self, *given: Any, heard: UserCallback | None, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._heard = heard

    def _create_default_callbacks(self) -> list[Any]:
        every: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        kept = [one for one in every if not isinstance(one, PlacementGroupCleanerCallback | DatasetsCallback)]
        told = [] if self._heard is None else [self._heard]
        return [*kept, UserCallbackHandler(told, self.train_run_context)]  # type: ignore[attr-defined]

    def _initialize_and_run_controller(self, **given: Any) -> ray.train.Result:
        where = ray.get_runtime_context()
        if where.get_actor_id() is not None:
            controller = _Controller(**given)
            asyncio.run(controller.run())
            return controller.get_result()
        here = NodeAffinitySchedulingStrategy(where.get_node_id(), soft=False)
        made: Any = ray.remote(_Controller)
        actor = made.options(num_cpus=0, scheduling_strategy=here).remote(**given)
        ray.get(actor.run.remote())
        return ray.get(actor.get_result.remote())


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
    heard: UserCallback | None = None,
) -> Trainer:
    """place: below it lie the checkpoints, from the last of which a training of the same name goes on.

    keep: so many checkpoints, None for all. heard: as of `Trainer`.
    """
    filesystem, path = place.arrow()
    return Trainer(
        train_worker.train,
        train_loop_config={"task": made, "queue": queue},
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=keep),
        ),
        heard=heard,
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
    """Our own error where a worker raised one, else TrainingFailed: what it died of, or the last line of its error."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    own = next(filter(None, map(own_error, failures)), None)  # the others fail for want of the one that raised it
    if own is not None:
        return own
    killed = next((one for one in failures if isinstance(one, RayActorError | OutOfMemoryError)), None)
    if killed is not None:
        return TrainingFailed(
            f"training: its worker processes must live, got {type(killed).__name__}: one was killed or crashed, again "
            "and again; where the system or Ray killed it for its memory, lower train.batch_size or model.width, raise "
            "train.accumulate, or train with fewer train.workers a machine"
        )
    lines = str(failures[0]).strip().splitlines()
    return TrainingFailed(f"training: must end with a checkpoint, got {(lines or [type(failures[0]).__name__])[-1]}")
