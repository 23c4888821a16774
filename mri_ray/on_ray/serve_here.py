"""The endpoint for one machine: a Ray and a Serve of its own, until a signal ends it."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FrameType
from typing import Any

from ray import serve
from ray.serve.config import HTTPOptions

from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError
from mri_ray.on_ray import cluster
from mri_ray.on_ray.settings import ServeRun

HOST = "127.0.0.1"  # no other: `jobs.serve` needs no key

log = logging.getLogger(__name__)


def run(settings: ServeRun, *, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, then let what has begun end. ready: is given the address once it answers.

    Raises ConfigError for a port that is taken, BundleError for a bundle that cannot be loaded.
    """
    _check_port(settings.port)
    endpoint = settings.endpoint
    if endpoint.keys.required is None:
        endpoint = replace(endpoint, keys=replace(endpoint.keys, required=False))
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(_import, settings)  # torch and the rest come while Ray starts
        # In this order: Ray puts handlers of its own in the way when it starts.
        with cluster.connected(settings.ray), _ended_by_signal() as ended:
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            serve.start(http_options=HTTPOptions(host=HOST, port=settings.port), proxy_location="HeadOnly")
            app = answering.result().application(
                endpoint,
                num_replicas=settings.replicas,
                user_config={"bundles": [{"uri": settings.bundle}]},
                ray_actor_options={"num_cpus": 0.5},
            )
            try:
                serve.run(app, name="mri_ray", route_prefix="/")
                ready(f"http://{HOST}:{settings.port}")
                ended.wait()
                log.info("ending: what has begun is answered")
            finally:
                serve.shutdown()


def _import(settings: ServeRun) -> Any:
    """The module of replicas, once the bundle is found whole: found wrong here, and not by every replica."""
    from mri_ray.learn import bundle as bundles
    from mri_ray.on_ray import serve as replicas

    bundles.load(Location.of(settings.bundle, settings.endpoint.storage))
    return replicas


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            raise ConfigError(f"port: must be free on {HOST}, got {port}: {exc.strerror}") from exc


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
