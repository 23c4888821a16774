"""Optuna over a space: it learns, also from what it did not ask for, and goes on where it was."""

import numpy as np
import pytest

from mri_ray import config
from mri_ray.on_ray.settings import TrainRun
from mri_ray.search.space import space_of
from mri_ray.search.study import Study, importances
from mri_ray.search.trials import State, Trial

BASE = config.build(TrainRun, {"archive": "/archive", "output": "/output"})
SPACE = space_of(
    {
        "optimiser.learning_rate": {"loguniform": [1e-4, 1e-1]},
        "model.name": {"choice": ["cnn", "resnet18"]},
        "model.width": {"choice": [8, 16, 32], "when": {"model.name": "cnn"}},
        "augment.flip": {"uniform": [0, 0.5]},
    },
    BASE,
)


def ended(number: int, settings: dict) -> Trial:
    """Best at a learning rate of 1e-2; the flip does nothing."""
    area = 0.95 - 0.1 * abs(np.log10(settings["optimiser.learning_rate"]) + 2)
    state = State.STOPPED if area < 0.8 else State.DONE
    line = {"epoch": 1, "validation_auroc": area}
    return Trial(number=number, settings=settings, state=state, history=(line,), ms_per_image=5.0)


def searched(trials: list[Trial], upto: int, **how) -> list[Trial]:
    study = Study(SPACE, trials, seed=3, startup=6, **{"cost": False} | how)
    for number in range(len(trials), upto):
        trials.append(ended(number, study.ask(number)))
        study.learn(trials[-1])
    return trials


@pytest.mark.parametrize("cost", [False, True])
def test_it_learns_and_goes_on_from_what_is_written_down(cost):
    trials = searched([], 15, cost=cost)
    trials = searched(trials, 40, cost=cost)  # another process, as after a kill
    distance = [abs(np.log10(one.settings["optimiser.learning_rate"]) + 2) for one in trials]
    assert np.mean(distance[-12:]) < 0.6 * np.mean(distance[:6])
    assert len({str(one.settings) for one in trials}) == 40


def test_failed_trials_and_the_config_itself_do_no_harm():
    study = Study(SPACE, [], seed=0, startup=2, cost=False)
    study.learn(Trial(number=0, settings={}, state=State.DONE, history=({"epoch": 1, "validation_auroc": 0.9},)))
    study.learn(Trial(number=1, settings=study.ask(1), state=State.FAILED))
    study.learn(Trial(number=2, settings={"optimiser.learning_rate": 5.0}, state=State.DONE))
    assert set(study.ask(3)) >= {"optimiser.learning_rate", "model.name", "augment.flip"}


def test_importance_names_what_mattered():
    found = importances(SPACE, searched([], 30))
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.get) == "optimiser.learning_rate"
    assert "model.width" not in found  # not every trial has it
    assert importances(SPACE, searched([], 3)) == {}
