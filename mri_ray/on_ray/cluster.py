"""Joining a Ray cluster, or starting one on this machine for the length of a run."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from mri_ray.errors import ConfigError
from mri_ray.on_ray.settings import ClusterSettings

# Read when a worker starts. Freed activations go back to the system and fault in again at every batch unless glibc
# keeps them (README, notes on speed).
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",  # the arenas of other threads, where Ray runs what it is given, hold no large blocks
    "OMP_NUM_THREADS": "1",
}

_GPUS_TO_COME = "MRI_RAY_GPUS"  # told to workers, too
_ROOM = 16 * 2**20  # bytes: logs of a short run


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[None]:
    """Within the context Ray is connected; a cluster started here ends with it, one that was joined goes on."""
    if ray.is_initialized():
        yield
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    shared: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    to_come = {_GPUS_TO_COME: str(settings.gpus or 0)} if address else {}
    if address:
        ray.init(address=address, runtime_env={"env_vars": WORKER_ENVIRONMENT | to_come}, **shared)
    else:
        # Inherited by all of it: with a runtime environment Ray starts Python and itself twice for each worker, and
        # those that it has ready are of no use.
        with environment(WORKER_ENVIRONMENT):
            _start(settings, shared)
    try:
        with environment(to_come):
            yield
    finally:
        ray.shutdown()


def _start(settings: ClusterSettings, shared: dict[str, Any]) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # this cluster listens on the loopback interface only
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = settings.temp_dir or str(Path(tempfile.gettempdir()) / f"ray-{os.getpid()}")
    check_room(folder)
    ray.init(
        address="local",
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        object_store_memory=settings.object_store_mb * 2**20,
        include_dashboard=False,
        _temp_dir=folder,
        **shared,
    )


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the context these environment variables are set; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def check_room(folder: str) -> None:
    """Raises ConfigError where Ray could not keep its logs and sockets: it would say so late, and as a timeout."""
    try:
        os.makedirs(folder, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        raise ConfigError(f"ray.temp_dir: must be a folder that can be made, got {folder}: {exc.strerror}") from exc
    if free < _ROOM:
        raise ConfigError(
            f"ray.temp_dir: must have {_ROOM // 2**20} MB of space, got {free / 2**20:.1f} MB in {folder}; make some "
            "there, or name another place"
        )


def quiet_data() -> None:
    """Ray Data without bars and banners."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def cpus() -> int:
    """CPUs that the cluster has now; 0 where workers are yet to come."""
    return int(ray.cluster_resources().get("CPU", 0))


def lasting_cpus() -> int:
    """CPUs that are left when the largest of several nodes goes; all where there is one."""
    of_nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    some = [number for number in of_nodes if number]
    return sum(some) - (max(some) if len(some) > 1 else 0)


def gpus() -> int:
    """GPUs that the cluster has now, or may have (`ClusterSettings.gpus`): it starts none that nothing asks for."""
    return max(int(ray.cluster_resources().get("GPU", 0)), int(os.environ.get(_GPUS_TO_COME, 0)))
