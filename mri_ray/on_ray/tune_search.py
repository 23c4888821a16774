"""What drives a search through Ray Tune: where points come from, what is written down of each trial, when it ends."""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher
from ray.util.placement_group import remove_placement_group

from mri_ray.archive.storage import Location
from mri_ray.on_ray.settings import TuneRun
from mri_ray.on_ray.tune_trial import POINT, rooms
from mri_ray.report.text import duration
from mri_ray.search.space import Space, Values
from mri_ray.search.study import Study
from mri_ray.search.trials import ENDED, Change, State, Trial

TRIALS = "trials"
_METRIC: dict[str, Any] = {"metric": "auroc", "mode": "max"}
_SWEEP_S = 1.0  # between two times that room is looked for which nobody is in
_FAULT_S = 2.0  # that the reason of a fault may come later than the fault

log = logging.getLogger(__name__)


class Ledger(tune.Callback):
    """All trials, each a JSON file of its own: what a search goes on from when its driver is killed.

    Ray's own state of a search is not read again: it lies seconds behind, and is pickle.
    """

    def __init__(
        self,
        place: Location,
        run: TuneRun,
        taught: Callable[[Trial], None],
        tell: Callable[..., None],
    ) -> None:
        self.mark = secrets.randbelow(1000) + 1  # times 10,000: at most 10 MB
        self._swept = 0.0
        self._place, self._run, self._taught, self._tell = place / TRIALS, run, taught, tell
        self.trials = {one.number: one for one in told(place)}
        self.faults: dict[int, str] = {}
        self.said: dict[int, dict[int, dict[str, Any]]] = {}  # by trial and epoch, what workers themselves have told
        self.over: str | None = None  # the budget that ended the search
        self._by_itself: set[int] = set()  # whose last epoch, or patience, has ended them

    def begin(self, number: int, settings: Values) -> None:
        run = self._run.with_values(settings)
        old = self.trials.get(number)
        fresh = Trial(
            number=number,
            settings=settings,
            workers=run.train.workers,
            planned=self._run.tune.folds or run.train.epochs,
        )
        self._keep(fresh if old is None else replace(old, resumed=old.resumed + 1))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        one, line = self.trials[trial.config[POINT]["number"]], result["line"]
        if result["ended"]:
            self._by_itself.add(one.number)
            return
        if "cloned" in result:
            one = self._moved(one, result["cloned"], result["settings"])
        for missed in self._missed(one, line["epoch"]):
            one = _heard(one, missed)
        self._keep(
            replace(
                _heard(one, line),
                checkpoint=line.get("checkpoint") or one.checkpoint,
                ms_per_image=result["ms_per_image"],
                parameters=result["parameters"],
            )
        )

    def _missed(self, one: Trial, epoch: int) -> list[dict[str, Any]]:
        """Epochs before this one whose checkpoints are kept, but that a kill or a fault came before the telling of."""
        if self._run.tune.folds:
            return []
        known, said = {line["epoch"] for line in one.history}, self.said.get(one.number, {})
        return [said[number] for number in range(1, epoch) if number in said and number not in known]

    def _moved(self, one: Trial, cloned: dict[str, Any], settings: Values) -> Trial:
        """As it is after it has left its own way for another's, if that is news."""
        known = one.changes[-1:]
        if known and (known[0].epoch, known[0].source, known[0].after) == (cloned["epoch"], cloned["source"], settings):
            return one
        change = Change(epoch=cloned["epoch"], source=cloned["source"], before=one.settings, after=settings)
        log.info("trial %s goes on from trial %04d's epoch %d", one.name, change.source, change.epoch)
        history = tuple(line for line in self.trials[change.source].history if line["epoch"] <= change.epoch)
        return replace(one, settings=settings, history=history, changes=(*one.changes, change))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        one = self.trials[trial.config[POINT]["number"]]
        log.warning("trial %s goes on after a fault: %s", one.name, self.faults.get(one.number, "its process ended"))
        self._keep(replace(one, resumed=one.resumed + 1))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        one = self.trials[trial.config[POINT]["number"]]
        if one.state in ENDED:
            return
        if self._is_done(one):
            self._end(one, State.DONE, None)
        elif self.over:
            self._end(one, State.CUT, self.over)
        else:
            self._end(one, State.STOPPED, f"{self._run.tune.scheduler}, after {len(one.history)} of {one.planned}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config[POINT]["number"]
        end = time.monotonic() + _FAULT_S
        while number not in self.faults and time.monotonic() < end:
            time.sleep(0.05)
        self._end(self.trials[number], State.FAILED, self.faults.get(number, "its process ended"))

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Free the room of trainings whose trial is stopped, paused or to be started anew (`tune_trial._Trainer`)."""
        if time.monotonic() - self._swept < _SWEEP_S:
            return
        self._swept = time.monotonic()
        self._free({trial.config[POINT]["number"] for trial in trials if trial.status == "RUNNING"})

    def _free(self, running: Collection[int]) -> None:
        for number, room in rooms(self.mark).items():
            if number not in running:
                remove_placement_group(room)

    def close(self) -> None:
        """What Ray Tune has let go of without a word, when the budget was over."""
        self._free(())
        for one in list(self.trials.values()):
            if one.state in ENDED:
                continue
            if self._is_done(one):
                self._end(one, State.DONE, None)
            else:
                self._end(one, State.CUT, self.over or "the search ended")

    def _is_done(self, one: Trial) -> bool:
        """By itself; at its last epoch none is stopped or cut."""
        return one.number in self._by_itself or len(one.history) >= one.planned

    @property
    def worker_seconds(self) -> float:
        return sum(one.seconds * one.workers for one in self.trials.values())

    def unfinished(self) -> list[Trial]:
        return [one for number, one in sorted(self.trials.items()) if one.state not in ENDED]

    def _end(self, one: Trial, state: State, reason: str | None) -> None:
        ended = replace(one, state=state, reason=reason)
        self._keep(ended)
        self._taught(ended)
        area = "-" if one.auroc is None else f"{one.auroc:.4f}"
        done = len(self.trials) - len(self.unfinished())
        log.info(
            "trial %s %s%s: validation AUROC %s, %d of %d epochs or folds, %s; %d of %d trials, best %s",
            *(one.name, state.value, f" ({reason})" if reason else "", area, len(one.history), one.planned),
            *(duration(one.seconds), done, self._run.tune.trials, self._best()),
        )

    def _best(self) -> str:
        best = self._best_auroc()
        return "-" if best is None else f"{best:.4f}"

    def _best_auroc(self) -> float | None:
        known = (one.auroc for one in self.trials.values() if one.state != State.FAILED)
        return max((area for area in known if area is not None), default=None)

    def _keep(self, one: Trial) -> None:
        self.trials[one.number] = one
        self._place.write(f"{one.name}.json", one.text().encode())
        under_way = {trial.name: len(trial.history) for trial in self.unfinished()}
        self._tell(
            trials={
                "planned": self._run.tune.trials,
                "ended": len(self.trials) - len(under_way),
                "under_way": under_way,  # and how many epochs or folds of them have ended
                "best_validation_auroc": self._best_auroc(),
                "worker_hours": round(self.worker_seconds / 3600, 4),
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps copies of what it is given


_LINE = (
    *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "validation_auroc"),
    *("validation_dice", "images_per_s", "waiting", "seconds", "epochs_run"),
)


def _heard(one: Trial, line: dict[str, Any]) -> Trial:
    """With one more line and its seconds; one that is told again after a restart has not been run again."""
    again = any(known["epoch"] == line["epoch"] for known in one.history)
    figures = {key: line[key] for key in _LINE if line.get(key) is not None}
    return replace(one.heard(figures), seconds=one.seconds + (0.0 if again else line.get("seconds", 0.0)))


def told(place: Location) -> list[Trial]:
    """All trials that were written down."""
    files = place / TRIALS
    return [Trial.of(body) for body in files.read_many(sorted(files.keys())) if isinstance(body, bytes)]


def points(run: TuneRun, space: Space, study: Study | None, ended: Sequence[Trial]) -> Iterator[tuple[int, Values]]:
    """Numbers and settings of trials that were never begun, in their order; without end where chance or Optuna asks.

    The first is the config as it stands, where `tune.default_first` says so.
    """
    begun = {one.number for one in ended}
    known: Iterator[Values] = iter(())
    if study is None and run.tune.algorithm == "grid":
        known = space.grid()
    elif study is None:
        rng = np.random.default_rng(run.seed)
        known = iter(lambda: space.draw(rng), None)
    number = 0
    if run.tune.default_first and run.tune.scheduler != "pbt":  # which must have something to change
        if number not in begun:
            yield number, {}
        number += 1
    while True:
        if study is not None:
            if number not in begun:
                yield number, study.ask(number)
        else:
            values = next(known, None)
            if values is None:
                return
            if number not in begun:
                yield number, values
        number += 1


class Points(Searcher):
    """Hands points to Ray Tune: first what was begun before a kill, then new ones."""

    def __init__(self, ledger: Ledger, fresh: Iterator[tuple[int, Values]]) -> None:
        super().__init__(**_METRIC)
        self._ledger, self._fresh = ledger, fresh
        self._again = ledger.unfinished()

    def __next__(self) -> dict[str, Any]:
        """What the function that Ray Tune runs is given as its config (`tune_trial.train`); it counts as begun."""
        if self._again:
            one = self._again.pop(0)
            number, settings = one.number, one.settings
        else:
            number, settings = next(self._fresh)
        self._ledger.begin(number, settings)
        return {POINT: {"number": number, "settings": settings, "checkpoint": self._ledger.trials[number].checkpoint}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def suggest(self, trial_id: str) -> Any:
        return next(self, Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the ledger, which knows how a trial ended, teaches the study."""

    def set_search_properties(self, metric: Any, mode: Any, config: dict, **spec: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Ray wants a file; the ledger is what a search goes on from

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Budget(tune.Stopper):
    """Ends a search when its minutes, counted from `started` (monotonic), or its worker-hours are used up."""

    def __init__(self, run: TuneRun, ledger: Ledger, started: float) -> None:
        self._tune, self._ledger, self._started = run.tune, ledger, started

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        minutes, hours = self._tune.max_minutes, self._tune.worker_hours
        if minutes is not None and time.monotonic() - self._started > 60 * minutes:
            self._ledger.over = f"tune.max_minutes ({minutes:g}) were over"
        elif hours is not None and self._ledger.worker_seconds > 3600 * hours:
            self._ledger.over = f"tune.worker_hours ({hours:g}) were over"
        return self._ledger.over is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def scheduler(run: TuneRun, space: Space, ended: Sequence[Trial]) -> TrialScheduler:
    """As the settings name it, knowing what earlier trials of this search have reached."""
    settings = run.tune
    longest = settings.folds or run.train.epochs
    made: TrialScheduler
    if settings.scheduler == "asha" and longest > 1:
        # One more than any runs, so that a trial which ends by itself is not called stopped.
        made = AsyncHyperBandScheduler(
            time_attr="epoch",
            max_t=longest + 1,
            grace_period=min(settings.grace, longest),
            reduction_factor=settings.reduction,
            **_METRIC,
        )
    elif settings.scheduler == "median" and longest > 1:
        made = MedianStoppingRule(time_attr="epoch", grace_period=min(settings.grace, longest), **_METRIC)
    elif settings.scheduler == "pbt":
        rng = np.random.default_rng(run.seed + 1)
        return Population(space, rng, time_attr="epoch", perturbation_interval=settings.perturb_epochs)
    else:
        return FIFOScheduler()
    _replay(made, ended)
    return made


class Population(PopulationBasedTraining):
    """Population based training whose members keep their numbers, and change as the space says."""

    def __init__(self, space: Space, rng: np.random.Generator, **how: Any) -> None:
        super().__init__(custom_explore_fn=dict, log_config=False, require_attrs=False, **_METRIC, **how)
        self._space, self._rng = space, rng

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        settings = self._space.perturbed(trial_to_clone.config[POINT]["settings"], self._rng)
        return {POINT: trial.config[POINT] | {"settings": settings}}, {}


def _replay(made: TrialScheduler, ended: Sequence[Trial]) -> None:
    """Let a scheduler see earlier trials as if they had run before it."""
    for one in ended:
        if one.state == State.FAILED or not one.history:
            continue
        before: Any = _Before(one.name)
        made.on_trial_add(_NOBODY, before)
        for seen, line in enumerate(one.history, start=1):
            area = replace(one, history=one.history[:seen]).auroc or 0.0
            made.on_trial_result(_NOBODY, before, {"epoch": line["epoch"], "auroc": area})


_NOBODY: Any = SimpleNamespace(get_live_trials=list)  # a controller without trials that wait


@dataclass(frozen=True)
class _Before:
    """What a scheduler asks of a trial."""

    trial_id: str
