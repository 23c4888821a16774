"""The endpoint on Ray Serve: `build` for its config files, replicas that hold bundles, and one machine's own server.

A replica is everything that answers: HTTP, threads that decode, one that computes. A request crosses one process only
beside Serve's proxy, since each more would cost as much as a small network's answer.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

from mri_ray import fields
from mri_ray.archive.storage import Location
from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane, logs
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.metrics import BATCH
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import BundleConfig, Bundles, EndpointConfig
from mri_ray.errors import BundleError, ConfigError, MriRayError
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray.watch import emit, forget
from mri_ray.predict.predictor import Predictions, Predictor

NAME = "Endpoint"  # of the deployment, as config files call it
_BESIDE = 32  # requests beyond `limits.concurrent` that a replica sees, to refuse them well, or for health and metrics
_REMEDY = "; none answers before them: put that right, or name other bundles in user_config and deploy again"

log = logging.getLogger(__name__)


class Endpoint:
    """One replica. Serve gives it `user_config` when it starts and whenever that changes: which bundles answer."""

    def __init__(self, config: EndpointConfig) -> None:
        logs.to_stderr()
        self.config = config
        self.service = Service(config)
        self._keys = Keys(config.keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        jobs = None
        if self.config.jobs.outputs:
            from mri_ray.on_ray import submit  # with Ray's client of jobs, which few endpoints need

            jobs = submit.RayJobs(self.config.jobs, self.config.storage)
        return apps.create(self.service, self._keys, scoring=jobs, emit=emit, forget=forget)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load what is new beside what answers, then change over at once.

        What may not answer is refused, and what answers goes on: Serve would end the replica. One that has nothing to
        go on with raises BundleError: Serve must know, to send it no request, to leave others as they are, and to try
        again, for storage may come back. After some times it gives a first deployment up; `serve status` says why.
        """
        try:
            await self._change(user_config)
        except Exception as exc:  # storage that does not answer, memory of a GPU that is full, ...
            self.service.refused = type(exc).__name__
            foreseen, first = isinstance(exc, MriRayError), self.service.lanes is None
            told = f"bundles refused: {exc if foreseen else type(exc).__name__}{_REMEDY if first else ''}"
            log.error(told, exc_info=None if foreseen else exc)  # noqa: TRY400 - a foreseen one's message tells all
            if first:
                raise BundleError(told) from exc

    async def _change(self, user_config: Mapping[str, Any]) -> None:
        wanted = fields.build(Bundles, user_config)
        known = {each.config.uri: each for each in (self.service.lanes.lanes if self.service.lanes else ())}
        loop = asyncio.get_running_loop()
        lanes = [await loop.run_in_executor(None, self._lane, one, known.get(one.uri)) for one in wanted.bundles]
        self.service.use(lane.Lanes(lanes=lanes))
        self.service.refused = None
        log.info("bundles", extra={"facts": {"bundles": [each.bundle.digest for each in lanes]}})

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that raises."""

    def _lane(self, config: BundleConfig, known: lane.Lane | None) -> lane.Lane:
        place = Location.of(config.uri, self.config.storage)
        found, card = bundles.load(place), lane.card(place)
        if known is not None and known.bundle.digest == found.digest:  # what lies at a URI may have changed
            return replace(known, config=config, card=card)
        predictor = Predictor(
            found, precision=self.config.precision, threads=self.config.threads, engine=self.config.engine
        )
        lane.self_test(predictor)
        tell = partial(emit, BATCH, tags={"model": self.config.name, "version": found.digest})

        def at_once(pictures: np.ndarray) -> Predictions:
            tell(len(pictures))
            return predictor.predict(pictures)

        ask = _batched(predictor, self.config, tell)
        return lane.Lane(config=config, predictor=predictor, ask=ask, at_once=at_once, card=card)


def _batched(predictor: Predictor, config: EndpointConfig, tell: Callable[[int], None]) -> lane.Ask:
    """What computes the pictures of several requests together, one batch at a time, off the event loop.

    tell: is told each batch's size.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    @serve.batch(
        max_batch_size=config.batch.size or predictor.micro_batch,
        batch_wait_timeout_s=config.batch.wait_ms / 1000,
        batch_size_fn=lambda parts: sum(map(len, parts)),
    )
    async def ask(parts: Sequence[np.ndarray]) -> list[Predictions]:
        loop = asyncio.get_running_loop()
        tell(sum(map(len, parts)))
        return await loop.run_in_executor(thread, lane.together, predictor, parts)

    return ask


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application of Serve's config files; args: fields of `EndpointConfig`.

    Raises ConfigError, also for an endpoint without keys behind HAProxy: whoever asks, a replica there sees a request
    over the loopback interface.
    """
    config = fields.build(EndpointConfig, args)
    if config.keys.required is False and RAY_SERVE_ENABLE_HA_PROXY:
        raise ConfigError(
            "keys.required: must be true behind HAProxy, where all requests seem to come from this machine"
        )
    return application(config)


def application(config: EndpointConfig, **options: Any) -> serve.Application:
    """options: of the deployment, over those that follow from the config.

    What Serve's proxy refuses is plain text, so a replica should come to refuse it first, as a document: a proxy holds
    back as many requests as a replica takes, and a burst has passed before that queue is full.
    """
    ongoing = int(config.limits.concurrent) + _BESIDE
    deployed = serve.deployment(
        name=NAME,
        max_ongoing_requests=ongoing,
        max_queued_requests=ongoing,
        backpressure_config={"retry_after_s": config.limits.retry_after_s},
        graceful_shutdown_timeout_s=config.limits.body_s + config.limits.request_s,
        logging_config={"enable_access_log": False},  # the app writes its own, which names no path
        **options,
    )
    return deployed(serve.ingress(None)(Endpoint)).bind(config)
