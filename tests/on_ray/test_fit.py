"""What people are told of a training that failed."""

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train import WorkerGroupError

from mri_ray.errors import TrainingFailed
from mri_ray.on_ray import fit


@ray.remote(num_cpus=0)
class Mortal:
    def end(self, text: str | None) -> None:
        if text is not None:
            raise TrainingFailed(text)
        import os

        os._exit(9)


def death(text: str | None) -> Exception:
    """What Ray raises of an actor that raised an error of ours, or, without a text, that died."""
    with pytest.raises((RayTaskError, ActorDiedError)) as told:
        ray.get(Mortal.remote().end.remote(text))
    return told.value


@pytest.mark.parametrize("killed", ["by the system", "by Ray"])
def test_a_killed_worker_is_told_with_what_to_do(ray_cluster, killed) -> None:
    error = death(None) if killed == "by the system" else OutOfMemoryError("memory")
    told = fit.named(WorkerGroupError("", {0: error}))
    assert isinstance(told, TrainingFailed)
    assert type(error).__name__ in str(told)
    assert "lower train.batch_size or model.width, raise train.accumulate" in str(told)


def test_an_error_of_ours_goes_before_the_deaths_that_followed(ray_cluster) -> None:
    told = fit.named(WorkerGroupError("", {0: death(None), 1: death("loss: must stay finite")}))
    assert str(told) == "loss: must stay finite"


def test_any_other_error_is_told_by_its_last_line() -> None:
    told = fit.named(WorkerGroupError("", {0: ValueError("first\nlast")}))
    assert str(told) == "training: must end with a checkpoint, got last"
