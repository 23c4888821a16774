"""What answers requests: decoding in threads of its own, then the network, then the document. Knows no Ray."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from mri_ray.endpoint import answers, reading
from mri_ray.endpoint.lane import Lane, Lanes
from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import MIB, EndpointConfig
from mri_ray.predict.heatmap import heatmaps
from mri_ray.predict.predictor import Predictions

log = logging.getLogger(__name__)


class Watch(Protocol):
    """Is told of what was answered: for metrics and drift. Called on the event loop; must not wait."""

    def scored(self, lane: Lane, upload: reading.Upload, found: Predictions, timings_ms: dict[str, float]) -> None: ...

    def decided(self, lane: Lane, found: Predictions) -> None:
        """Of pictures that came prepared: of where they are from nothing is known."""

    def shadowed(self, lane: Lane, shadow: Lane, found: Predictions, theirs: Predictions) -> None: ...

    def changed(self, lanes: Lanes) -> None:
        """From now on these answer; what others have begun may still be told of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What an object was answered with, and by whom. `upload` holds headers as in the file: never log them."""

    answer: answers.Answer
    upload: reading.Upload
    found: Predictions
    lane: Lane


class Service:
    """The bundles of one replica, and threads that decode for them."""

    def __init__(self, config: EndpointConfig, watches: Sequence[Watch] = ()) -> None:
        self.config = config
        self.watches = list(watches)
        self.refused: str | None = None  # what kind of error the last change of bundles ended in
        self._lanes: Lanes | None = None
        self._decoders = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="heatmap")  # pictures for people: never in the way
        self._shadowing: set[asyncio.Task] = set()
        self._shadowed = np.zeros(3, np.int64)  # shadows that are being asked, their slices, and bytes of bodies
        self._undecoded = 0  # requests
        self._held = 0  # prepared slices in memory: a small pack may hold many

    def use(self, lanes: Lanes) -> None:
        """From now on these answer; requests that have begun are answered by what they began with."""
        self._lanes = lanes
        for watch in self.watches:
            watch.changed(lanes)

    def watched(self, watch: Watch) -> None:
        """Tell somebody more."""
        self.watches.append(watch)
        if self._lanes is not None:
            watch.changed(self._lanes)

    @property
    def lanes(self) -> Lanes | None:
        return self._lanes

    def ready(self) -> Lanes:
        """What answers. Raises Problem 503 where nothing does, with what kind of error keeps it from that."""
        if self._lanes is not None:
            return self._lanes
        after = {"Retry-After": "1"}
        if self.refused is None:
            raise Problem(503, "no bundle is loaded yet", headers=after)
        detail = f"no bundle may answer: {self.refused}; the log says what to do"
        raise Problem(503, detail, headers=after, refused=self.refused)

    async def score(
        self, body: bytes, *, request_id: str, heatmap: bool = False, picture: bool = False, lane: Lane | None = None
    ) -> Scored:
        """One object's slices and study, by `lane` where one is asked for. Raises Problem where it has none."""
        lanes = self.ready()
        lane = lane or lanes.chosen(request_id)
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        with self._decoding() as alone:
            upload, decoded, found = await loop.run_in_executor(self._decoders, self._begin, body, lane, alone)
        with self._room(len(upload.pictures), heatmap=heatmap):
            pictures = upload.stacked()
            if found is None:
                found = await self.ask(lane, pictures)
            predicted = time.perf_counter()
            timings = {"decode": decoded - began, "predict": predicted - decoded}
            heat = None
            if heatmap:
                heat = await loop.run_in_executor(self._drawing, heatmaps, lane.bundle, pictures)
                timings["heatmap"] = time.perf_counter() - predicted
            timings = {name: value * 1000 for name, value in (timings | {"total": time.perf_counter() - began}).items()}
            for watch in self.watches:
                watch.scored(lane, upload, found, timings)
            for shadow in lanes.shadows:
                self._ask_too(lane, shadow, upload, body, found)
            write = partial(
                answers.answer,
                *(upload, found, lane.bundle),
                request_id=request_id,
                heat=heat,
                shown=picture,
                timings_ms=timings,
            )
            light = len(pictures) == 1 and heat is None and not picture  # not worth a thread's turn
            document = write() if light else await loop.run_in_executor(self._decoders, write)
            return Scored(answer=document, upload=upload, found=found, lane=lane)

    async def decide(self, lane: Lane, pictures: np.ndarray) -> Predictions:
        """As `ask`, for a request that brings prepared pictures. Raises Problem where they do not fit."""
        with self._room(len(pictures)):
            found = await self.ask(lane, pictures)
        for watch in self.watches:
            watch.decided(lane, found)
        return found

    async def ask(self, lane: Lane, pictures: np.ndarray) -> Predictions:
        """Prepared pictures, uint8 (N, 1, S, S), in parts, so that a study does not hold up single slices."""
        size = self.config.batch.size or lane.predictor.micro_batch
        parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        return _joined(await asyncio.gather(*(lane.ask(part) for part in parts)))

    async def settled(self) -> None:
        """Waits for the shadows that are being asked."""
        await asyncio.gather(*self._shadowing)

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._drawing.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _room(self, slices: int, *, heatmap: bool = False) -> Iterator[None]:
        """Counts prepared slices while they are held. Raises Problem: 413 or 503."""
        limits = self.config.limits
        if heatmap and slices > limits.heat_maps:
            detail = f"heat maps are drawn of {limits.heat_maps} slices at most, got {slices}; ask without them"
            raise Problem(413, detail, reason="oversized.frames")
        if self._held + slices > limits.held_slices:
            after = {"Retry-After": str(limits.retry_after_s)}
            raise Problem(503, "as many slices are being computed as fit; try again", headers=after)
        self._held += slices
        try:
            yield
        finally:
            self._held -= slices

    @contextmanager
    def _decoding(self) -> Iterator[bool]:
        """Counts requests until they are decoded; whether there is no other, nor one that is computed."""
        self._undecoded += 1
        try:
            yield self._undecoded == 1 and not self._held
        finally:
            self._undecoded -= 1

    def _begin(self, body: bytes, lane: Lane, alone: bool) -> tuple[reading.Upload, float, Predictions | None]:
        """Decode, and when that ended; a picture that comes alone is computed in the same turn: no other thread has to
        wake for it, nor fetch what lies in this one's caches.
        """
        upload = self._read(body, lane)
        decoded, found = time.perf_counter(), None
        if alone and lane.at_once is not None and len(upload.pictures) == 1:
            found = lane.at_once(upload.stacked())
        return upload, decoded, found

    def _read(self, body: bytes, lane: Lane) -> reading.Upload:
        limits = self.config.limits
        return reading.upload(body, self.config.decode, lane.bundle.prepare, slices=limits.slices)

    def _ask_too(self, lane: Lane, shadow: Lane, upload: reading.Upload, body: bytes, found: Predictions) -> None:
        """Behind the answer's back; not where earlier ones still wait: a shadow must not slow what it stands behind.

        Nor where they hold as much as requests may: nobody counts what is held for them.
        """
        limits, again = self.config.limits, shadow.bundle.prepare != lane.bundle.prepare
        held = np.array([1, len(upload.pictures), len(body) if again else 0])
        if (self._shadowed + held > (limits.concurrent, limits.held_slices, limits.held_mb * MIB)).any():
            return

        def ended(task: asyncio.Task[None]) -> None:
            self._shadowing.discard(task)
            self._shadowed -= held

        self._shadowed += held
        task = asyncio.create_task(self._shadow(lane, shadow, upload, body if again else None, found))
        self._shadowing.add(task)
        task.add_done_callback(ended)

    async def _shadow(
        self, lane: Lane, shadow: Lane, upload: reading.Upload, body: bytes | None, found: Predictions
    ) -> None:
        try:
            if body is not None:
                loop = asyncio.get_running_loop()
                upload = await loop.run_in_executor(self._decoders, self._read, body, shadow)
            theirs = await self.ask(shadow, upload.stacked())
            for watch in self.watches:
                watch.shadowed(lane, shadow, found, theirs)
        except Exception:
            log.exception("shadow %s gave no answer", shadow.bundle.digest)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    if len(parts) == 1:
        return parts[0]
    lesions = [part.lesion for part in parts if part.lesion is not None]
    return Predictions(
        logit=np.concatenate([part.logit for part in parts]),
        probability=np.concatenate([part.probability for part in parts]),
        decision=[decision for part in parts for decision in part.decision],
        lesion=np.concatenate(lesions) if lesions else None,
    )
