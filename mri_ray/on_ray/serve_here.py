"""The endpoint for one machine: a Ray and a Serve of its own, until a signal ends it."""

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from types import FrameType
from typing import Any

import ray

from mri_ray.archive.storage import Location
from mri_ray.endpoint.settings import EndpointConfig
from mri_ray.errors import ConfigError
from mri_ray.on_ray import cluster, ingress
from mri_ray.on_ray.settings import ServeRun

HOST = "127.0.0.1"  # no other: `jobs.serve` needs no key
_NAME = "mri_ray"  # of the application
_CPUS = 0.5  # of a replica, for Ray's sums

log = logging.getLogger(__name__)


def run(settings: ServeRun, *, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, then let what has begun end. ready: is given the address once it answers.

    Raises ConfigError for a port that is taken, more replicas than have room, or a cluster where Serve runs already;
    BundleError for a bundle that cannot be loaded.
    """
    _check_port(settings.port)
    endpoint = settings.endpoint
    if endpoint.keys.required is None:
        endpoint = replace(endpoint, keys=replace(endpoint.keys, required=False))
    with ingress.direct(idle_s=endpoint.limits.body_s), ThreadPoolExecutor(1) as pool:
        # While Ray starts, and alone: a package with cycles that two threads import at a time fails in one of them.
        torch = pool.submit(import_module, "torch")
        # In this order: Ray puts handlers of its own in the way when it starts.
        with cluster.connected(settings.ray), _ended_by_signal() as ended:
            torch.result()
            _serve(settings, endpoint, ready, ended)


def _serve(
    settings: ServeRun,
    endpoint: EndpointConfig,
    ready: Callable[[str], None],
    ended: threading.Event,
) -> None:
    from ray import serve  # now: it reads the environment that `ingress` has set
    from ray.serve.config import HTTPOptions

    from mri_ray.learn import bundle as bundles
    from mri_ray.on_ray.serve import application

    if _has_controller():
        raise ConfigError(
            "ray.address: must be a cluster where no Serve runs, since all of it would end with this endpoint; "
            "deploy there by `serve deploy configs/serve.yaml`"
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    gpus, scaling = _room(settings)
    bundles.load(Location.of(settings.bundle, endpoint.storage))  # found wrong here, and not by every replica
    http = HTTPOptions(host=HOST, port=settings.port)
    app = application(
        endpoint,
        user_config={"bundles": [{"uri": settings.bundle}]},
        ray_actor_options={"num_cpus": _CPUS, "num_gpus": gpus},
        **scaling,
    )
    try:
        with ThreadPoolExecutor(1) as pool:
            quiet = {"enable_access_log": False}
            way_in = pool.submit(serve.start, http_options=http, proxy_location="HeadOnly", logging_config=quiet)
            # A replica takes longer to start than the way in: once there is a controller, both do.
            while not way_in.done() and not _has_controller():
                time.sleep(0.05)
            if way_in.done():
                way_in.result()  # raises what kept it from starting
            serve.run(app, name=_NAME, route_prefix="/")
            way_in.result()
        ready(f"http://{HOST}:{settings.port}")
        ended.wait()
        log.info("ending: what has begun is answered")
        serve.delete(_NAME)  # waits for that; a shutdown alone would cut it off
    finally:
        serve.shutdown()


def _has_controller() -> bool:
    return any(actor["namespace"] == "serve" for actor in ray.util.list_named_actors(all_namespaces=True))


def _room(settings: ServeRun) -> tuple[float, dict[str, Any]]:
    """GPUs of a replica, and how many replicas there are. Raises ConfigError where they do not fit."""
    there, wanted = cluster.gpus(), settings.replicas
    gpus = settings.gpus if settings.gpus is not None else float(there > 0)
    most = int(cluster.cpus() / _CPUS)
    if gpus:
        most = min(most, int(there / gpus) if gpus >= 1 else there * int(1 / gpus))
    if (wanted or 1) > most:
        of_gpus = f" with {gpus:g} GPUs each on {there} GPUs," if gpus else ""
        of_cpus = f" with {_CPUS:g} CPUs each on {cluster.cpus()}"
        raise ConfigError(f"replicas: at most {most} have room{of_gpus}{of_cpus}, got {wanted or 1}")
    if wanted is not None:
        return gpus, {"num_replicas": wanted}
    scaling = {
        "min_replicas": 1,
        "max_replicas": most if gpus else cluster.cpus(),
        "target_ongoing_requests": 2,
        "metrics_interval_s": 1,
        "look_back_period_s": 4,
        "upscale_delay_s": 2,
        "downscale_delay_s": 600,
    }
    return gpus, {"autoscaling_config": scaling}


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
            # An impatient second one must not break off an orderly end. (Ray takes SIGTERM back all the same.)
            signal.signal(number, signal.SIG_IGN if ended.is_set() else handler)
