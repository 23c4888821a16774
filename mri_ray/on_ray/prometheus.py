"""What shards have given, as metrics of Ray: each node tells them to Prometheus, under these names with `ray_` before.

Emitted by the process that has written a shard's file, out of its facts, so that a shard counts once.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import ray
from ray.util.metrics import Counter, Histogram

from mri_ray.records import State

_EIGHTHS = [n / 8 for n in range(1, 9)]


def export(job: str, facts: Mapping[str, Any]) -> None:
    """Add the facts of one shard; without Ray, as in a test of a shard alone, nothing happens."""
    if not ray.is_initialized():
        return
    objects, size, seconds, fill = _metrics()
    for state in State:
        _add(objects, facts.get(state.value, 0), job=job, state=state.value)
    _add(size, facts["bytes"], job=job)
    for stage, spent in facts["stages_s"].items():
        _add(seconds, spent, job=job, stage=stage)
    for share, batches in facts.get("fills", {}).items():
        for _ in range(batches):
            fill.observe(share, tags={"job": job})


@cache
def _metrics() -> tuple[Counter, Counter, Counter, Histogram]:
    """Once a process: Ray knows a metric by its name."""
    return (
        Counter("mri_ray_objects_total", "Objects by the state they ended in.", tag_keys=("job", "state")),
        Counter("mri_ray_bytes_total", "Bytes of the objects, as listed.", tag_keys=("job",)),
        Counter("mri_ray_stage_seconds_total", "Seconds that workers spent, by stage.", tag_keys=("job", "stage")),
        # Of a histogram Ray passes on the buckets; its sum is made from their middles.
        Histogram(
            "mri_ray_batch_fill",
            "Pictures in a batch of the network, as a share of what it may hold.",
            boundaries=_EIGHTHS,
            tag_keys=("job",),
        ),
    )


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:  # Ray refuses to add nothing
        counter.inc(value, tags=tags)
