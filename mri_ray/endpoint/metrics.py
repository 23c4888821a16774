"""What the endpoint tells Prometheus: each metric's name, kind and tags. Who passes it on is not known here.

Ray puts `ray_` before the names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mri_ray.endpoint.drift import Window
from mri_ray.endpoint.lane import Lane, Lanes
from mri_ray.endpoint.limits import Room
from mri_ray.endpoint.reading import Upload
from mri_ray.endpoint.settings import DriftConfig
from mri_ray.predict.predictor import Predictions

Emit = Callable[["Metric", float, Mapping[str, str]], None]
Forget = Callable[[Mapping[str, str]], None]  # gauges that have these tags, and maybe others
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MODEL = ("model", "version")  # the endpoint's name, and a bundle's digest


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()


def _metric(name: str, kind: Any, about: str, *tags: str, boundaries: tuple[float, ...] = ()) -> Metric:
    return Metric(name=f"mri_ray_endpoint_{name}", kind=kind, about=about, tags=tags, boundaries=boundaries)


REQUESTS = _metric("requests_total", "counter", "Requests by route and status.", "model", "route", "status")
SECONDS = _metric("request_seconds", "histogram", "Requests.", "model", "route", boundaries=_SECONDS)
STAGES = _metric("stage_seconds", "histogram", "Stages of a scoring.", *_MODEL, "stage", boundaries=_SECONDS)
DECISIONS = _metric("decisions_total", "counter", "Slices by decision.", *_MODEL, "decision")
FAILED = _metric("failed_slices_total", "counter", "Frames and members without an answer.", *_MODEL, "reason")
BATCH = _metric(
    "batch_slices", "histogram", "Slices computed together.", *_MODEL, boundaries=(1, 2, 4, 8, 16, 32, 64, 128)
)
QUEUE = _metric("requests_in_house", "gauge", "Requests computed or waiting, when one last came or went.", "model")
DRIFT = _metric("drift", "gauge", "Distance from the bundle's reference.", *_MODEL, "of", "statistic")
SHADOW = _metric("shadow_total", "counter", "Slices of shadows: was their decision the same?", *_MODEL, "same")
EVERY = (REQUESTS, SECONDS, STAGES, DECISIONS, FAILED, BATCH, QUEUE, DRIFT, SHADOW)


class Watcher:
    """A `service.Watch` that tells metrics and holds a window of each bundle's slices."""

    def __init__(self, model: str, config: DriftConfig, emit: Emit, forget: Forget) -> None:
        self._model, self._config, self._emit, self._forget = model, config, emit, forget
        self._windows: dict[str, Window] = {}
        self._digests: frozenset[str] = frozenset()  # of the bundles that may answer

    def changed(self, lanes: Lanes) -> None:
        """What no longer answers is no longer told of: its last figures would stand for ever."""
        for digest in self._digests - lanes.digests:
            self._windows.pop(digest, None)
            self._forget({"model": self._model, "version": digest})
        self._digests = lanes.digests

    def window(self, lane: Lane) -> Window:
        found = self._windows.get(lane.bundle.digest)
        if found is None:
            found = self._windows[lane.bundle.digest] = Window(lane.bundle, self._config)
        return found

    def scored(self, lane: Lane, upload: Upload, found: Predictions, timings_ms: dict[str, float]) -> None:
        tags = self._tags(lane)
        for stage, spent in timings_ms.items():
            self._emit(STAGES, spent / 1000, tags | {"stage": stage})
        self.decided(lane, found)
        for failure in upload.failures:
            self._emit(FAILED, 1, tags | {"reason": failure.reason.value})
        if lane.bundle.digest not in self._digests:  # it had begun before the bundles changed
            return
        window = self.window(lane)
        if window.add(upload, found):
            for name, statistics in window.told()["of"].items():
                for statistic, value in statistics.items():
                    self._emit(DRIFT, value, tags | {"of": name, "statistic": statistic})

    def decided(self, lane: Lane, found: Predictions) -> None:
        for decision in found.decision:
            self._emit(DECISIONS, 1, self._tags(lane) | {"decision": decision.value})

    def shadowed(self, lane: Lane, shadow: Lane, found: Predictions, theirs: Predictions) -> None:
        for one, other in zip(found.decision, theirs.decision, strict=True):
            self._emit(SHADOW, 1, self._tags(shadow) | {"same": "yes" if one == other else "no"})

    def _tags(self, lane: Lane) -> dict[str, str]:
        return {"model": self._model, "version": lane.bundle.digest}


class Counted:
    """ASGI middleware: every request, the refused ones too, by the route's template and never by its path."""

    def __init__(self, app: ASGIApp, *, model: str, room: Room, emit: Emit, clock: Callable[[], float]) -> None:
        self._app, self._model, self._room, self._emit, self._clock = app, model, room, emit, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, tags = self._clock(), [500], {"model": self._model}
        self._emit(QUEUE, self._room.requests, tags)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._emit(QUEUE, self._room.requests, tags)
            route = getattr(scope.get("route"), "path", "none")  # none: refused before it was found
            self._emit(SECONDS, self._clock() - begun, tags | {"route": route})
            self._emit(REQUESTS, 1, tags | {"route": route, "status": str(status[0])})
