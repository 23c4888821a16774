"""What TensorBoard is told of a training."""

from mri_ray.archive.storage import Location
from mri_ray.on_ray.curves import tell


def test_every_epoch_is_written_at_once_and_once(tmp_path):
    place = Location.of(str(tmp_path))
    line = {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.75, "validation_auroc": None, "images_per_s": 90.0}
    tell(place, line)
    tell(place, line)
    (one,) = place.keys()
    found = place.read(one)
    for named in (b"loss/train", b"loss/validation", b"images_per_s"):
        assert found.count(named) == 1
    assert b"auroc" not in found
    tell(place, line | {"epoch": 2, "validation_auroc": 0.9})
    assert place.read(one) == found
    assert b"auroc/validation" in place.read(place.keys()[1])
