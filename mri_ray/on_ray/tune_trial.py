"""One trial of a search, in a process of its own: the training of its settings, told to Ray Tune epoch by epoch."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray.train
import ray.tune
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.queue import Queue

from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.storage import Location
from mri_ray.errors import MriRayError
from mri_ray.learn.best import best_line
from mri_ray.learn.plan import Rows
from mri_ray.on_ray import fit, train_worker
from mri_ray.on_ray.settings import TuneRun
from mri_ray.on_ray.stream import Prepared
from mri_ray.predict.cost import ms_per_image
from mri_ray.search.accounting import Share
from mri_ray.search.space import Values

RUNS = "runs"
POINT = "point"
_HEARD_S = 0.2  # between two looks at whether a training has ended
_TOLD = "trial.json"
MOST_TRIALS = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """What trials of one preparation are trained and measured on: pairs of training and validation rows, one a fold."""

    prepared: Prepared
    sides: tuple[tuple[Rows, Rows], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """All that trials have in common: rounds by the preparation's digest, the search's place, the driver's queue."""

    run: TuneRun
    rounds: Mapping[str, Rounds]
    place: Location
    share: Share
    queue: Queue
    mark: int  # of this search: see `rooms`

    def mark_of(self, number: int) -> int:
        return self.mark * MOST_TRIALS + number


@dataclass(frozen=True)
class Voice:
    """Takes what the workers of a trial say to the driver, with the trial's number and, counted from 0, the fold."""

    queue: Queue
    number: int
    fold: int

    def put(self, item: Any) -> None:
        which = {"trial": self.number, "fold": self.fold}
        self.queue.put(f"trial {self.number:04}: {item}" if isinstance(item, str) else which | item)


class Registered(ray.train.UserCallback):
    """Tells of each epoch once its checkpoint is kept.

    Ray's own callback for this leaves the checkpoint out, which a population's members must be able to go on from.
    """

    def __init__(self, queue: SimpleQueue[dict[str, Any]]) -> None:
        self._queue = queue

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None
    ) -> None:
        self._queue.put(metrics[0] | {"checkpoint": checkpoint.path if checkpoint else None})


def rooms(mark: int) -> dict[int, PlacementGroup]:
    """By trial, what still holds room for workers that bear the mark of a search."""
    found = {}
    for identity, told in placement_group_table().items():
        search, number = divmod(int(max(bundle.get("memory", 0) for bundle in told["bundles"].values())), MOST_TRIALS)
        if search == mark and told["state"] != "REMOVED":
            found[number] = PlacementGroup(PlacementGroupID.from_hex(identity))
    return found


def checkpoint(place: Location, path: str) -> ray.train.Checkpoint:
    """What the ledger names; where that is gone, since its training went on until it was ended, the next that is there.

    Of what comes after it the first is whole: it was, before older ones went.
    """
    filesystem, _ = place.arrow()
    above, _, name = path.rpartition("/")
    keys = (place / RUNS / above.rpartition("/")[2]).keys()
    there = {key.partition("/")[0] for key in keys if key.endswith(f"/{train_worker.BEST}")}
    return ray.train.Checkpoint(f"{above}/{min((one for one in there if one >= name), default=name)}", filesystem)


def train(config: Mapping[str, Any], ground: Ground) -> None:
    """The function that Ray Tune runs. config: POINT {number, settings, checkpoint}; settings change in flight by PBT.

    checkpoint: of a search that was killed, where the trial was.
    """
    point = config[POINT]
    number = point["number"]
    try:
        _Trial(number, dict(point["settings"]), ground).run(point["checkpoint"])
    except MriRayError as exc:
        ground.queue.put({"trial": number, "fault": f"{type(exc).__name__}: {exc}"})
        raise
    except Exception as exc:
        # Libraries quote paths and values in their texts.
        ground.queue.put({"trial": number, "fault": f"{type(exc).__name__} in the trial's own process"})
        raise


class _Trial:
    def __init__(self, number: int, settings: Values, ground: Ground) -> None:
        self._number, self._values, self._ground = number, settings, ground
        self._run = ground.run.with_values(settings)
        self._rounds = ground.rounds[self._run.prepare.digest()]
        self._moving = ground.run.tune.scheduler == "pbt"
        self._seen: list[dict[str, Any]] = []

    def run(self, before: str | None) -> None:
        cost, parameters = ms_per_image(self._run.model, self._run.prepare)
        self._shared = {"ms_per_image": cost, "parameters": parameters, "settings": self._values}
        if len(self._rounds.sides) > 1:
            self._folds()
            return
        name, start = self._name(before)
        last: dict[str, Any] = {}
        for line in self._lines(name, 0, start):
            last = line
            self._tell(line)
        self._tell(last, ended=True)

    def _name(self, before: str | None) -> tuple[str, Location | None]:
        """The training's name, under which it goes on after a fault; and what it begins with, if another has it."""
        own = self._digest()
        checkpoint = ray.tune.get_checkpoint() if self._moving else None
        if checkpoint is None:
            return (before.split("/")[-2] if before else own), None
        with checkpoint.as_directory() as folder:
            told = json.loads((Path(folder) / _TOLD).read_text(encoding="utf-8"))
        if told["number"] == self._number and told["settings"] == self._values:
            return told["name"], None
        self._shared["cloned"] = {"source": told["number"], "before": told["settings"], "epoch": told["epoch"]}
        start = self._ground.place / RUNS / told["name"] / told["checkpoint"].rpartition("/")[2]
        return self._digest(start.uri), start

    def _digest(self, *more: Any) -> str:
        return digest("trial", digest_json({"number": self._number, "settings": self._values, "more": more}))

    def _folds(self) -> None:
        """One training a fold; what is told after each is the mean of the folds so far."""
        found: list[dict[str, Any]] = []
        for fold in range(len(self._rounds.sides)):
            name = self._digest(fold)
            history = list(self._lines(name, fold, None))
            found.append(best_line(history) | {"seconds": _seconds(history)})
            figures = ("validation_auroc", "validation_loss", "validation_accuracy", "train_loss")
            mean = {key: _mean([line.get(key) for line in found]) for key in figures}
            line = mean | {"epoch": fold + 1, "seconds": found[-1]["seconds"], "epochs_run": len(history)}
            self._seen.clear()  # a mean that falls is worse, unlike an epoch
            self._tell(line)
        self._tell(line, ended=True)

    def _lines(self, name: str, fold: int, start: Location | None) -> Iterator[dict[str, Any]]:
        """The epochs of a training as their checkpoints are kept; when it has ended, those that were not told of."""
        queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
        seen = 0
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self._fit, name, fold, start, queue)
            for line in _heard(queue, running):
                seen = line["epoch"]
                yield line
            result = running.result()
        assert result.checkpoint is not None, "a training that ended has reported an epoch"
        with result.checkpoint.as_directory() as folder:
            history = train_worker.read_checkpoint(Path(folder))[1]
        for line in history:  # of an earlier life, which was killed before it could tell
            if line["epoch"] > seen:
                yield line | {"checkpoint": result.checkpoint.path}

    def _fit(
        self, name: str, fold: int, start: Location | None, queue: SimpleQueue[dict[str, Any]]
    ) -> ray.train.Result:
        run, ground = self._run, self._ground
        if (room := rooms(ground.mark).get(self._number)) is not None:  # of an earlier life
            remove_placement_group(room)
        masked = run.model.masks
        train_rows, validation = (side if masked else replace(side, known=None) for side in self._rounds.sides[fold])
        task = replace(fit.task(run, self._rounds.prepared, train_rows, validation), start=start)
        trainer = fit.trainer(
            name,
            task,
            queue=Voice(ground.queue, self._number, fold),
            place=ground.place / RUNS,
            scaling=fit.scaling(
                run.train, cpus=None if ground.share.gpus else ground.share.cpus, mark=ground.mark_of(self._number)
            ),
            max_failures=0,  # Ray Tune restarts the trial, and counts
            keep=None
            if self._moving
            else 2,  # one may come while the trial is ended; of a population others go on from all
            heard=Registered(queue),
        )
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError as exc:
            raise fit.named(exc) from exc

    def _tell(self, line: dict[str, Any], *, ended: bool = False) -> None:
        if not ended:
            self._seen.append(line)
        area = best_line(self._seen).get("validation_auroc") or 0.0
        metrics = self._shared | {"line": line, "auroc": area, "ended": ended}
        if not (self._moving and line["epoch"] >= self._run.train.epochs):  # then nothing is left to change
            metrics["epoch"] = line["epoch"]
        if not self._moving:
            ray.tune.report(metrics)
            return
        told = {
            "number": self._number,
            "settings": self._values,
            "name": line["checkpoint"].split("/")[-2],
            "checkpoint": line["checkpoint"],
            "epoch": line["epoch"],
        }
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / _TOLD).write_text(json.dumps(told), encoding="utf-8")
            ray.tune.report(metrics, checkpoint=ray.tune.Checkpoint.from_directory(folder))


def _heard(queue: SimpleQueue[dict[str, Any]], running: Future) -> Iterator[dict[str, Any]]:
    while True:
        ended = running.done()  # asked first, so that nothing it has said is left behind
        try:
            yield queue.get(timeout=_HEARD_S)
        except Empty:
            if ended:
                return


def _seconds(history: list[dict[str, Any]]) -> float:
    return float(sum(line["seconds"] for line in history))


def _mean(values: list[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None
