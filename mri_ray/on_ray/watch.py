"""The endpoint's metrics as metrics of Ray, which each node tells to Prometheus."""

from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from mri_ray.endpoint.metrics import Metric


def emit(metric: Metric, value: float, tags: Mapping[str, str]) -> None:
    made = _made(metric)
    if isinstance(made, Counter):
        made.inc(value, tags=dict(tags))
    elif isinstance(made, Gauge):
        made.set(value, tags=dict(tags))
    else:
        made.observe(value, tags=dict(tags))


@cache
def _made(metric: Metric) -> Counter | Gauge | Histogram:
    """Once a process: Ray knows a metric by its name."""
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.about, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    return (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.about, tag_keys=metric.tags)
