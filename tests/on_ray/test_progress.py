"""What is said while shards are worked on, from their facts."""

import logging
import time

import numpy as np
import pytest

from mri_ray.archive.manifest import Shard, Update
from mri_ray.errors import OutOfTime
from mri_ray.on_ray import plan, progress

SHARDS = [Shard(f"{number:032x}", 10 + number, 1000 * (number + 1)) for number in range(4)]


def facts(shard: Shard, **more) -> dict:
    return {"listed": shard.objects, "bytes": shard.bytes, "objects": shard.objects + 2, **more}


def test_the_facts_of_all_shards_together():
    told = []
    each = [
        facts(SHARDS[0], quarantined=1, stages_s={"fetch": 0.5, "decode": 1.0}, peak_mb=300),
        facts(SHARDS[1], stages_s={"fetch": 0.25}, peak_mb=400),
        facts(SHARDS[2], quarantined=2, peak_mb=350),
        facts(SHARDS[3]),
    ]
    done = progress.followed(iter(each), SHARDS, what="scored", tell=lambda **values: told.append(values))
    history = done.pop("history")
    assert done == {
        "listed": 46,
        "objects": 54,
        "quarantined": 3,
        "bytes": 10_000,
        "shards": 4,
        "stages_s": {"decode": 1.0, "fetch": 0.75},
        "peak_mb": 400,
    }
    assert history[0] == {"seconds": 0.0, "objects": 0, "quarantined": 0, "bytes": 0}
    assert history[-1] | {"seconds": 0} == {"seconds": 0, "objects": 54, "quarantined": 3, "bytes": 10_000}
    assert [one["objects_done"] for one in told] == [0, 10, 21, 33, 46]
    assert [one["bytes_done"] for one in told] == [0, 1000, 3000, 6000, 10_000]
    assert {(one["objects_total"], one["bytes_total"]) for one in told} == {(46, 10_000)}
    assert told[0]["eta_s"] is None
    assert (told[-1]["eta_s"], told[-1]["quarantined"]) == (0, 3)


def test_nothing_to_do_is_no_error():
    done = progress.followed(iter(()), [], what="scored")
    assert (done["listed"], done["shards"], done["stages_s"], len(done["history"])) == (0, 0, {}, 1)


def test_the_last_line_of_the_log_tells_it_all(caplog):
    with caplog.at_level(logging.INFO, logger="mri_ray"):
        progress.followed((facts(shard, quarantined=1) for shard in SHARDS), SHARDS, what="scored")
    (record,) = caplog.records
    assert record.message.startswith("scored 46 of 46 objects, ")
    assert "0.0 s left, 4 quarantined, 10 kB of 10 kB, " in record.message


def test_one_line_for_people():
    values = {
        "objects_done": 12_288,
        "objects_total": 1_000_000,
        "bytes_done": 1_234_567_890,
        "bytes_total": 98_000_000_000,
        "objects_per_s": 230.4,
        "bytes_per_s": 23_456_789,
        "eta_s": 4287.0,
        "quarantined": 17,
    }
    assert progress.line("scored", values) == (
        "scored 12,288 of 1,000,000 objects, 230/s, 1 h 11 min left, 17 quarantined, 1.23 GB of 98 GB, 23.5 MB/s"
    )


def test_out_of_time_says_what_is_kept():
    with pytest.raises(OutOfTime, match="10 of 46 objects are prepared and kept"):
        progress.followed((facts(shard) for shard in SHARDS), SHARDS, what="prepared", deadline=time.monotonic() - 1)


@pytest.mark.parametrize("shards", [1, 150, 199, 200, 201, 12_345])
def test_a_history_is_bounded_and_evenly_spread(shards):
    history = progress.History()
    for number in range(1, shards + 1):
        history.add(number * 7.0, {"objects": number, "bytes": 10 * number, "quarantined": 0})
    points = history.points
    assert len(points) <= 200
    assert (points[0]["seconds"], points[-1]["objects"]) == (0, shards)
    assert all(point["bytes"] * 0.7 == pytest.approx(point["seconds"]) for point in points)
    gaps = np.diff([point["seconds"] for point in points])[:-1]  # the last one is what is left
    assert gaps.size == 0 or gaps.max() <= 2 * gaps.min()
    assert shards < 200 or len(points) >= 100


def test_a_plan_takes_its_time_from_the_last_completed_run():
    found = Update(3, new=21, known=5, gone=2, shards=tuple(SHARDS))
    last = {"this_run": {"listed": 500}, "timings_s": {"scoring": 50.0}}
    made = plan.plan(found, SHARDS[:1], SHARDS[:2], last, "scoring")
    assert (made["listed"], made["again"], made["objects"], made["bytes"]) == (26, 10, 21, 3000)
    assert (made["shards"], made["shards_there"]) == (2, 3)
    assert (made["objects_per_s"], made["eta_s"]) == (10.0, 2.1)
    assert "about 2.1 s, at the 10.0 objects/s that the last completed run has shown on 500" in plan.text(made)
    for nothing in (None, {"this_run": {"listed": 0}, "timings_s": {"scoring": 1.0}}, {"counts": {}}):
        made = plan.plan(found, (), SHARDS[:2], nothing, "scoring")
        assert made["eta_s"] is None
        assert "no measured rate yet" in plan.text(made)
