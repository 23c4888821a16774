"""What a dry run tells: what there is to do, and how long that may take by what was measured before."""

from collections.abc import Mapping, Sequence
from typing import Any

from mri_ray.archive.manifest import Shard, Update
from mri_ray.report.text import duration, size


def plan(
    found: Update, again: Sequence[Shard], todo: Sequence[Shard], last: Mapping[str, Any] | None, stage: str
) -> dict[str, Any]:
    """Plain values. again: shards of objects that are tried again, which are part of todo.

    last: run.json of the last run that was completed, whose `stage` tells the rate; without one that did anything
    objects_per_s and eta_s are None.
    """
    objects = sum(shard.objects for shard in todo)
    before, seconds = (last or {}).get("this_run", {}).get("listed", 0), (last or {}).get("timings_s", {}).get(stage)
    rate = before / seconds if before and seconds else None
    return {
        "listed": found.new + found.known,
        "new": found.new,
        "known": found.known,
        "gone": found.gone,
        "again": sum(shard.objects for shard in again),
        "objects": objects,
        "bytes": sum(shard.bytes for shard in todo),
        "shards": len(todo),
        "shards_there": len(found.shards) + len(again) - len(todo),
        "objects_per_s": None if rate is None else round(rate, 2),
        "measured_on": before,
        "eta_s": None if rate is None else round(objects / rate, 1),
    }


def text(plan: Mapping[str, Any]) -> str:
    """For people."""
    lines = (
        "dry run: nothing was written\n"
        f"listed: {plan['listed']:,} objects, {plan['new']:,} new or changed, {plan['known']:,} known; "
        f"{plan['gone']:,} gone\n"
        f"to do: {plan['objects']:,} objects of {size(plan['bytes'])} in {plan['shards']:,} shards, {plan['again']:,} "
        f"of them to be tried again; {plan['shards_there']:,} shards are there already\n"
    )
    if plan["eta_s"] is None:
        return f"{lines}time: there is no measured rate yet, as no completed run below this output has done any object"
    return (
        f"{lines}time: about {duration(plan['eta_s'])}, at the {plan['objects_per_s']:.1f} objects/s that the last "
        f"completed run has shown on {plan['measured_on']:,}, its workers' start included"
    )
