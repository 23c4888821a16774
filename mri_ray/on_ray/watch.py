"""The endpoint's metrics as metrics of Ray, which each node tells to Prometheus."""

import threading
import time
from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from mri_ray.endpoint.metrics import Metric

_AGAIN_S = 1.0  # Ray forgets a gauge that was not set within its last two reports, and those come as often as this
_gauges: dict[tuple[Metric, tuple[tuple[str, str], ...]], float] = {}


def emit(metric: Metric, value: float, tags: Mapping[str, str]) -> None:
    made = _made(metric)
    if isinstance(made, Counter):
        made.inc(value, tags=dict(tags))
    elif isinstance(made, Gauge):
        _gauges[metric, tuple(sorted(tags.items()))] = value
        made.set(value, tags=dict(tags))
        _kept_up()
    else:
        made.observe(value, tags=dict(tags))


def forget(tags: Mapping[str, str]) -> None:
    """Let go of every gauge that has these tags: no longer set again, it is gone after two reports of Ray's."""
    for metric, has in list(_gauges):
        if tags.items() <= dict(has).items():
            _gauges.pop((metric, has), None)


@cache
def _made(metric: Metric) -> Counter | Gauge | Histogram:
    """Once a process: Ray knows a metric by its name."""
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.about, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    return (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.about, tag_keys=metric.tags)


@cache
def _kept_up() -> threading.Thread:
    """Once a process."""
    thread = threading.Thread(target=_set_again, daemon=True, name="gauges")
    thread.start()
    return thread


def _set_again() -> None:
    while True:
        time.sleep(_AGAIN_S)
        for (metric, tags), value in list(_gauges.items()):
            made = _made(metric)
            assert isinstance(made, Gauge)
            made.set(value, tags=dict(tags))
