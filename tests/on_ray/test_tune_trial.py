"""What is taken of a trial when it has ended."""

from mri_ray.archive.storage import Location
from mri_ray.on_ray.tune_trial import checkpoint


def test_a_checkpoint_that_is_gone_is_followed_by_the_next_one(tmp_path):
    run = tmp_path / "runs" / "trial-a"
    for name in ("checkpoint_3", "checkpoint_4"):
        (run / name).mkdir(parents=True)
        (run / name / "best.safetensors").write_bytes(b"x")
    (run / "checkpoint_5").mkdir()  # not whole
    place = Location.of(str(tmp_path))
    for told, taken in (("checkpoint_3", "checkpoint_3"), ("checkpoint_2", "checkpoint_3"), ("checkpoint_4",) * 2):
        assert checkpoint(place, f"{run}/{told}").path == f"{run}/{taken}"
