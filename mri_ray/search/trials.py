"""Trials as they were: what each was set to, how it went, how it ended; the table, the winner, the cost. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa

from mri_ray.learn.best import best_line
from mri_ray.search.space import Values


class State(StrEnum):
    RUNNING = "running"  # or was, when its search was killed
    DONE = "done"  # all its epochs, or as many as its patience allowed
    STOPPED = "stopped"  # by the scheduler
    CUT = "cut"  # by the end of the budget
    FAILED = "failed"


ENDED = (State.DONE, State.STOPPED, State.CUT, State.FAILED)


@dataclass(frozen=True, kw_only=True)
class Change:
    """In flight, after `epoch`: it went on from trial `source`'s checkpoint, with other settings."""

    epoch: int
    source: int
    before: Values
    after: Values


@dataclass(frozen=True, kw_only=True)
class Trial:
    """history: lines {epoch, validation_auroc, ...}; with folds one a fold, of the folds so far.

    checkpoint: where its last one lies. seconds: of the training's epochs. planned: epochs (or folds) that it was to
    run. resumed: how often it went on from a checkpoint after a fault or a kill.
    """

    number: int
    settings: Values
    state: State = State.RUNNING
    reason: str | None = None
    history: tuple[dict[str, Any], ...] = ()
    checkpoint: str | None = None
    workers: int = 1
    planned: int = 0
    ms_per_image: float | None = None
    parameters: int | None = None
    seconds: float = 0.0
    resumed: int = 0
    changes: tuple[Change, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.number:04}"

    @property
    def best(self) -> dict[str, Any] | None:
        """The line that its figures are of: that of the epoch in its checkpoint; of folds the last, the mean of all."""
        if all(line.get("validation_auroc") is None for line in self.history):
            return None
        return self.history[-1] if self.folded else best_line(self.history)

    @property
    def folded(self) -> bool:
        return any("epochs_run" in line for line in self.history)

    @property
    def auroc(self) -> float | None:
        return None if self.best is None else float(self.best["validation_auroc"])

    @property
    def worker_hours(self) -> float:
        return self.seconds * self.workers / 3600

    def heard(self, line: dict[str, Any]) -> "Trial":
        """With one more line; one of an epoch that is known (after a restart) takes the old one's place."""
        others = [old for old in self.history if old["epoch"] != line["epoch"]]
        return replace(self, history=tuple(sorted([*others, line], key=lambda one: one["epoch"])))

    def text(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def of(cls, text: bytes | str) -> "Trial":
        values = json.loads(text)
        values["state"] = State(values["state"])
        values["history"] = tuple(values["history"])
        values["changes"] = tuple(Change(**change) for change in values["changes"])
        return cls(**values)


SCHEMA = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("validation_auroc", pa.float64()),
        pa.field("validation_loss", pa.float64()),
        pa.field("best_epoch", pa.int32()),
        pa.field("epochs", pa.int32(), nullable=False),
        pa.field("planned", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("worker_hours", pa.float64(), nullable=False),
        pa.field("ms_per_image", pa.float64()),
        pa.field("parameters", pa.int64()),
        pa.field("resumed", pa.int32(), nullable=False),
        pa.field("changes", pa.int32(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
    ]
)


def table(trials: Iterable[Trial]) -> pa.Table:
    """One row a trial, by number; settings as JSON by path."""
    rows = []
    for one in sorted(trials, key=lambda trial: trial.number):
        best = one.best or {}
        rows.append(
            {
                "trial_id": one.name,
                "state": one.state.value,
                "reason": one.reason,
                "validation_auroc": one.auroc,
                "validation_loss": best.get("validation_loss"),
                "best_epoch": best.get("epoch"),
                "epochs": len(one.history),
                "planned": one.planned,
                "seconds": one.seconds,
                "worker_hours": one.worker_hours,
                "ms_per_image": one.ms_per_image,
                "parameters": one.parameters,
                "resumed": one.resumed,
                "changes": len(one.changes),
                "settings": json.dumps(one.settings),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def usable(trials: Iterable[Trial]) -> list[Trial]:
    """Those that a winner may be taken from: they have not failed, and have a figure."""
    return [one for one in trials if one.state != State.FAILED and one.auroc is not None]


def winner(trials: Iterable[Trial], *, tolerance: float = 0.0, cost: bool = False) -> Trial | None:
    """The highest AUROC; with cost the cheapest within `tolerance` of it. Of equals the earlier one.

    A mean over a few of the folds is no match for one over all: such a trial wins only where no other is there.
    """
    told = usable(trials)
    told = [one for one in told if not one.folded or len(one.history) >= one.planned] or told
    if not told:
        return None
    best = max(one.auroc or 0.0 for one in told)
    if cost:
        near = [one for one in told if (one.auroc or 0.0) >= best - tolerance]
        return min(near, key=lambda one: (_cost(one), -(one.auroc or 0.0), one.number))
    return min(told, key=lambda one: (-(one.auroc or 0.0), one.number))


def front(trials: Iterable[Trial]) -> list[Trial]:
    """Those that no other beats in AUROC and in milliseconds an image, by rising cost."""
    found: list[Trial] = []
    for one in sorted(usable(trials), key=lambda trial: (_cost(trial), -(trial.auroc or 0.0), trial.number)):
        if one.ms_per_image is not None and (not found or (one.auroc or 0.0) > (found[-1].auroc or 0.0)):
            found.append(one)
    return found


def _cost(one: Trial) -> float:
    return float("inf") if one.ms_per_image is None else one.ms_per_image


@dataclass(frozen=True, kw_only=True)
class Cost:
    """worker_hours: of all trials. saved: what those that were stopped would have taken besides, at their own pace."""

    worker_hours: float
    saved: float
    by_state: dict[str, int] = field(default_factory=dict)


def cost(trials: Sequence[Trial]) -> Cost:
    saved = 0.0
    for one in trials:
        if one.state == State.STOPPED and one.history:
            saved += one.worker_hours * max(0, one.planned - len(one.history)) / len(one.history)
    by_state = {state.value: sum(one.state == state for one in trials) for state in State}
    return Cost(
        worker_hours=sum(one.worker_hours for one in trials),
        saved=saved,
        by_state={name: number for name, number in by_state.items() if number},
    )


def best_so_far(trials: Iterable[Trial]) -> list[tuple[int, float | None, float]]:
    """By number: the trial's AUROC and the best up to it."""
    found, best = [], 0.0
    for one in sorted(trials, key=lambda trial: trial.number):
        mine = one.auroc if one.state != State.FAILED else None
        best = max(best, mine or 0.0)
        found.append((one.number, mine, best))
    return found
