"""The part of a page that tells of a search: every figure, nothing from outside, whatever trials there were."""

import dataclasses

import numpy as np
import pytest
from report import test_card
from report import test_pages as given
from report.test_card import bundle  # noqa: F401 - a fixture

from mri_ray.report import card, pages
from mri_ray.report.facts import SearchFacts
from mri_ray.search.trials import Change, State, Trial

PATHS = ["optimiser.learning_rate", "model.width", "model.name", "augment.flip"]


def trial(number: int, rng: np.random.Generator, **more) -> Trial:
    state = [State.DONE, State.STOPPED, State.STOPPED, State.CUT][number % 4]
    epochs = 8 if state == State.DONE else 2 + number % 3
    top, settings = (
        rng.uniform(0.8, 0.95),
        {
            "optimiser.learning_rate": float(10 ** rng.uniform(-4, -2)),
            "model.name": "cnn" if number % 3 else "resnet18",
            "augment.flip": float(rng.uniform(0, 0.5)),
        },
    )
    if number % 3:
        settings["model.width"] = int(rng.choice([8, 16]))
    lines = [
        {"epoch": k + 1, "validation_auroc": top - 0.3 * 0.6**k + 0.01 * rng.normal(), "validation_loss": 0.4}
        for k in range(epochs)
    ]
    values = {"state": state, "settings": settings, "history": tuple(lines), "planned": 8, "workers": 2}
    values |= {"seconds": 30.0 * epochs, "ms_per_image": float(rng.uniform(2, 20)), "parameters": 1000}
    return Trial(number=number, **values | more)


def facts(number: int = 16, **changes) -> SearchFacts:
    rng = np.random.default_rng(3)
    trials = [trial(k, rng) for k in range(number)]
    trials += [trial(number, rng, state=State.FAILED, reason="TrainingFailed: loss: must stay finite, got nan")]
    best = max(trials[:-1], key=lambda one: one.auroc)
    values = {
        "trials": trials,
        "winner": best.number,
        "seen": number,
        "algorithm": "optuna",
        "scheduler": "asha",
        "share": {"concurrent": 2, "workers": 2, "worker_cpus": 0.5, "gpus": False},
        "importance": {"optimiser.learning_rate": 0.7, "augment.flip": 0.2, "model.name": 0.1},
        "cost": True,
        "paths": PATHS,
        "folds": 0,
        "refit": False,
    }
    return SearchFacts(**values | changes)


def page(found: SearchFacts) -> given.Page:
    return given.Page(pages.training_page(given.training(search=found)))


def test_the_winners_validation_figure_stands_beside_its_test_figure_and_all_trials_are_told():
    found = facts()
    text = pages.training_page(given.training(search=found))
    shown = given.Page(text)
    best = found.trials[found.winner]
    assert f"chosen among {found.seen} trials" in shown.text
    assert f"{best.auroc:.4f}" in shown.text
    assert "AUROC of the test side" in shown.text
    assert "Difference, test less validation" in shown.text
    for one in found.trials:
        assert one.name in shown.text
        assert f"{one.auroc:.4f}" in shown.text
    assert "loss: must stay finite" in shown.text
    assert "saved by stopping early" in shown.text
    labels = [attrs.get("aria-label") or "" for tag, attrs in shown.tags if tag == "svg"]
    for told in ("Validation AUROC of 16 trials", "Learning curves of 16 trials, 12 stopped early", "Importance of"):
        assert any(told in label for label in labels), told
    assert any(label.startswith("Front of") for label in labels)
    assert any(label.startswith("Parallel coordinates of 16 trials over optimiser") for label in labels)
    assert "Not in every trial, and so not told: model.width" in shown.text
    assert "Changes in flight" not in shown.text
    assert "#search" in [attrs.get("href") for tag, attrs in shown.tags if tag == "a"]
    assert text == pages.training_page(given.training(search=found))


def test_changes_in_flight_are_told():
    found = facts(4)
    change = Change(epoch=2, source=1, before={"augment.flip": 0.25}, after={"augment.flip": 0.3})
    moved = dataclasses.replace(found.trials[0], changes=(change,))
    shown = page(dataclasses.replace(found, scheduler="pbt", trials=[moved, *found.trials[1:]]))
    assert "Changes in flight" in shown.text
    assert "augment.flip 0.25 to 0.3" in shown.text


@pytest.mark.parametrize("number", [1, 2])
def test_few_trials_and_no_importance(number):
    shown = page(facts(number, importance={}, winner=0))
    assert "Importance is" not in shown.text


def test_a_winner_that_is_the_config_itself_and_hostile_reasons_stay_text():
    found = facts(2)
    plain = dataclasses.replace(found.trials[0], settings={})
    bad = dataclasses.replace(found.trials[2], reason=given.HOSTILE)
    shown = page(dataclasses.replace(found, trials=[plain, found.trials[1], bad], winner=0, folds=3, refit=True))
    assert "none, it is the config as it stands" in shown.text
    assert "mean over folds" in shown.text
    assert "trained again on both sides" in shown.text
    assert not [tag for tag, _ in shown.tags if tag == "script"]


def test_without_a_search_nothing_is_said_of_one():
    shown = given.Page(pages.training_page(given.training()))
    assert "The search" not in shown.text


def test_the_card_says_that_it_was_chosen(bundle):  # noqa: F811
    text = card.papers(bundle, test_card.facts(bundle, search=facts()))["model_card.md"]
    assert "the best of 16 trials of a search (optuna, asha)" in text
