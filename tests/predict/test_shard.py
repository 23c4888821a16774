"""What scoring a shard tells beside its rows: how full its batches were, and where the time went."""

import pytest

from mri_ray.archive.pseudonym import Identifiers
from mri_ray.decode.settings import DecodeConfig
from mri_ray.predict import shard
from mri_ray.prepare.effort import Effort
from mri_ray.prepare.objects import rows

IDENTIFIERS = Identifiers()


@pytest.mark.parametrize(
    ("pictures", "batches"),
    [([], {}), ([8], {1.0: 1}), ([3], {0.375: 1}), ([256, 17, 9], {1.0: 35, 0.125: 2}), ([4, 12], {0.5: 2, 1.0: 1})],
)
def test_batches_by_how_full_they_are(pictures, batches):
    assert shard.fills(pictures, 8) == batches
    assert sum(8 * share * number for share, number in batches.items()) == sum(pictures)


def test_an_effort_is_told_of_every_stage_and_changes_no_row(scored):
    scored.put(a=scored.picture(1), b=b"no picture", c=scored.picture(2))
    scored.manifest.update(scored.archive.list())
    objects = scored.manifest.read_shard(scored.manifest.shards()[0])
    prepare, effort = scored.predictor.bundle.prepare, Effort()
    given = (objects, scored.archive, DecodeConfig(), prepare)
    told = shard.score(rows(*given, IDENTIFIERS, effort), scored.predictor, run_id="test", effort=effort)
    assert told.equals(shard.score(rows(*given, IDENTIFIERS), scored.predictor, run_id="test"))
    assert effort.pictures == [2]
    assert set(effort.stages_s) == {"fetch", "decode", "predict"}
    assert all(seconds > 0 for seconds in effort.seconds.values())
    assert shard.tally(told) | {"reasons": {}} == {
        "rows": 3,
        "objects": 3,
        "scored": 2,
        "quarantined": 1,
        "reasons": {},
    }
