"""How far the workers are and what they have to say, logged by the driver.

Ray's own forwarding would bury it under lines of its libraries.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mri_ray.archive.manifest import Shard
from mri_ray.errors import MriRayError, OutOfTime
from mri_ray.on_ray.work import Facts
from mri_ray.report.text import duration, size

log = logging.getLogger(__name__)

_SAID_S = 2.0  # between two lines of the log
_POINTS = 200  # of a run's history, at most
_APART_S = 0.5  # between two of them, while they are few
_SUMMED = ("listed", "objects", "quarantined", "bytes")


class Tell(Protocol):
    """Who else is told how far the work is (`report.record.Record.tell`)."""

    def __call__(self, **progress: Any) -> None: ...


def nobody(**progress: Any) -> None:
    """Tell no one."""


def followed(
    facts: Iterator[Facts], todo: Sequence[Shard], *, what: str, tell: Tell = nobody, deadline: float | None = None
) -> Facts:
    """Draw the facts of all shards, and log every two seconds how far the work is; what they are together.

    listed, objects, quarantined, bytes, shards; stages_s: seconds by stage, of all workers together; peak_mb: of the
    worker that held most; history: points {seconds, objects, quarantined, bytes}, for a plot over time.
    deadline: in the time of `time.monotonic`; raises OutOfTime when it has passed with work left.
    """
    whole = {"objects": sum(shard.objects for shard in todo), "bytes": sum(shard.bytes for shard in todo)}
    done, stages = Counter(dict.fromkeys(_SUMMED, 0)), Counter[str]()
    history = History()
    shards = peak_mb = 0
    started = said = time.monotonic()
    tell(**_progress(done, whole, 0.0))
    for fact in facts:
        done.update({name: fact.get(name, 0) for name in _SUMMED})
        stages.update(fact.get("stages_s", {}))
        shards, peak_mb = shards + 1, max(peak_mb, fact.get("peak_mb", 0))
        now = time.monotonic()
        history.add(now - started, done)
        progress = _progress(done, whole, now - started)
        tell(**progress)
        complete = done["listed"] == whole["objects"]
        if deadline is not None and now > deadline and not complete:
            raise OutOfTime(
                f"max_runtime_s: {done['listed']:,} of {whole['objects']:,} objects are {what} and kept; the same line "
                "does the rest"
            )
        if now - said >= _SAID_S or complete:
            said = now
            log.info(line(what, progress))
    seconds = {name: round(value, 3) for name, value in sorted(stages.items())}
    return {**done, "shards": shards, "peak_mb": peak_mb, "stages_s": seconds, "history": history.points}


def _progress(done: Mapping[str, int], whole: Mapping[str, int], seconds: float) -> dict[str, Any]:
    """Plain values for people and machines; objects as listed, a pack being one. eta_s is None before any is done."""
    rate = done["listed"] / seconds if seconds else 0.0
    return {
        "objects_done": done["listed"],
        "objects_total": whole["objects"],
        "bytes_done": done["bytes"],
        "bytes_total": whole["bytes"],
        "objects_per_s": round(rate, 2),
        "bytes_per_s": round(done["bytes"] / seconds) if seconds else 0,
        "eta_s": round((whole["objects"] - done["listed"]) / rate, 1) if rate else None,
        "quarantined": done["quarantined"],
    }


def epoch(line: Mapping[str, Any] | None, epochs: int) -> dict[str, Any]:
    """How far a training is, by the last line of its history; None before the first."""
    line = line or {"epoch": 0}
    figures = {name: line.get(name) for name in ("images_per_s", "waiting", "validation_auroc")}
    rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
    return {"epoch": line["epoch"], "epochs": epochs, **rounded}


def line(what: str, progress: Mapping[str, Any]) -> str:
    """One line for people: objects, rate, remaining time, quarantined, bytes."""
    left = "" if progress["eta_s"] is None else f"{duration(progress['eta_s'])} left, "
    return (
        f"{what} {progress['objects_done']:,} of {progress['objects_total']:,} objects, "
        f"{progress['objects_per_s']:.0f}/s, {left}{progress['quarantined']:,} quarantined, "
        f"{size(progress['bytes_done'])} of {size(progress['bytes_total'])}, {size(progress['bytes_per_s'])}/s"
    )


class History:
    """Sums as they grew over time, in at most _POINTS points about equally far apart, however long it takes."""

    def __init__(self) -> None:
        self._points: list[dict[str, float]] = []
        self._apart = _APART_S
        self._last = self._point(0.0, {})
        self._points = [self._last]

    def add(self, seconds: float, done: Mapping[str, int]) -> None:
        self._last = self._point(seconds, done)
        if seconds - self._points[-1]["seconds"] < self._apart:
            return
        self._points.append(self._last)
        if len(self._points) == _POINTS:
            del self._points[1::2]
            self._apart = 2 * seconds / _POINTS

    @property
    def points(self) -> list[dict[str, float]]:
        """The first is zero; the last is the latest."""
        return self._points if self._points[-1] is self._last else [*self._points, self._last]

    @staticmethod
    def _point(seconds: float, done: Mapping[str, int]) -> dict[str, float]:
        names = ("objects", "quarantined", "bytes")
        return {"seconds": round(seconds, 3), **{name: done.get(name, 0) for name in names}}


def queue_here() -> Queue:
    """A queue on its owner's node: on another one, that may go, what is in it would be lost, as all that comes."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


@contextmanager
def relayed(tell: Callable[[dict[str, Any]], None]) -> Iterator[Queue]:
    """A queue for workers; each text put into it becomes a line of the driver's log, each mapping is told."""
    queue = queue_here()

    def relay() -> None:
        while (item := queue.get()) is not None:
            if isinstance(item, str):
                log.info(item)
                continue
            try:
                tell(item)
            except MriRayError as exc:
                log.warning("the curves lack an epoch: %s", exc)

    thread = threading.Thread(target=relay, name="progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        with suppress(ray.exceptions.RayError):
            queue.put(None)
        thread.join(timeout=10)
        queue.shutdown(force=True)
