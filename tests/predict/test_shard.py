"""What scoring a shard tells beside its rows: how full its batches were, and where the time went."""

from dataclasses import replace

import numpy as np
import pytest

from mri_ray.archive.pseudonym import Identifiers
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.predict import shard
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.effort import Effort
from mri_ray.prepare.objects import Row, rows

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


def test_a_lesions_extent_is_told_in_the_pixels_of_its_slice_and_in_mm2(scored):
    model = replace(scored.predictor.bundle.model, masks=True)
    weights = build(model, seed=2).state_dict()
    weights["decoder.mask.bias"] += 3  # about half of the pixels
    predictor = Predictor(Bundle(model=model, prepare=scored.predictor.bundle.prepare, weights=weights))
    size = predictor.bundle.prepare.size
    pictures = np.random.default_rng(0).integers(0, 256, (3, 1, size, size), np.uint8)
    known = {"row_id": "r", "object_id": "o", "version_id": "v", "uri": "u", "size": 1, "etag": "", "flags": []}
    known |= {"reason": None, "width": 100, "height": 50, "crop": [0, 0, 50, 96], "spacing_mm": None}
    # As high as wide, the second would be 100 pixels high.
    changes = [{}, {"spacing_mm": [2.0, 1.0], "crop": [0, 0, 64, 96]}, {"spacing_mm": [0.5, 0.5]}]
    given = [Row(columns=known | more, pixels=one, path="p") for more, one in zip(changes, pictures, strict=True)]
    marked = predictor.predict(pictures).lesion
    assert marked.min() > 0
    found = shard.score(given, predictor, run_id="test")
    each = (96 / size) ** 2
    np.testing.assert_allclose(found["lesion_px"], marked * np.array([each, each / 2, each]), rtol=1e-5)
    assert found["lesion_mm2"][0].as_py() is None
    np.testing.assert_allclose(found["lesion_mm2"][1:], marked[1:] * np.array([each, each / 4]), rtol=1e-5)
    plain = shard.score(given, scored.predictor, run_id="test")
    assert plain["lesion_px"].null_count == 3
