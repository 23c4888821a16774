"""What TensorBoard is told of a training."""

from mri_ray.archive.storage import Location
from mri_ray.on_ray.curves import FOLDER, curves


def test_every_epoch_is_written_at_once_and_a_run_that_goes_on_adds_a_file(tmp_path):
    output = Location.of(str(tmp_path))
    line = {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.75, "validation_auroc": None, "images_per_s": 90.0}
    with curves(output, "fit") as tell:
        tell(line)
        (one,) = output.keys(f"{FOLDER}/fit/")
        before = output.read(one)
        assert b"loss/train" in before
        assert b"loss/validation" in before
        assert b"images_per_s" in before
        assert b"auroc" not in before
        tell(line | {"epoch": 2, "validation_auroc": 0.9})
        assert output.read(one).startswith(before)
        assert b"auroc/validation" in output.read(one)
