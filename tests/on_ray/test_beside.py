"""Trainings beside the delivered one, with networks whose answers are known: no Ray is needed to tell their figures."""

import json

import numpy as np
import pytest
from cohort.test_held_out import cohort

from mri_ray import metrics
from mri_ray.cohort.held_out import divisions
from mri_ray.cohort.split import TEST, SplitConfig
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import EvaluationConfig, ModelConfig
from mri_ray.on_ray.beside import trained_beside
from mri_ray.prepare.settings import PrepareConfig

MODEL = ModelConfig(input_size=32, width=4, blocks=2, dense=8)
EVALUATION = EvaluationConfig(rounds=100)
WEIGHTS = build(MODEL, seed=0).state_dict()


def make(part) -> Bundle:
    """Each is calibrated and cut in its own way, as trainings are."""
    share = float((part.side == TEST).mean())
    return Bundle(
        model=MODEL, prepare=PrepareConfig(size=32), weights=WEIGHTS, temperature=1 + share, threshold=0.3 + share / 2
    )


def answer(bundle: Bundle, part, side: int) -> np.ndarray:
    """A network that is right more often than not, in the same way each time."""
    mine = part.side == side
    noise = np.sin(np.arange(len(part.label)) * 1.7)[mine] * 2
    return (2.0 * part.label[mine] - 1 + noise).astype(np.float32)


def test_pooled_figures_are_of_each_row_by_the_network_that_had_not_seen_it() -> None:
    whole = cohort()
    parts = divisions(whole, SplitConfig(folds=3), naive=False, seed=7)
    (found,) = trained_beside(parts, make, answer, EVALUATION)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["pooled"]["n"] == len(whole.label)
    assert found["pooled"]["groups"] == 60
    rights, tumors = 0, 0
    for division, told in zip(parts, found["parts"], strict=True):
        bundle, mine = make(division.cohort), division.cohort.side == TEST
        logits = bundle.calibrated(answer(bundle, division.cohort, TEST))
        expected = metrics.evaluate(whole.label[mine], logits, threshold=bundle.threshold)
        assert (told["test"]["confusion"], told["threshold"]) == (expected["confusion"], bundle.threshold)
        rights += expected["confusion"]["tp"]
        tumors += expected["positives"]
    assert found["pooled"]["sensitivity"] == pytest.approx(rights / tumors)


def test_the_naive_one_tells_validation_too_and_what_it_was_before_calibration() -> None:
    (found,) = trained_beside(divisions(cohort(), SplitConfig(), naive=True, seed=7), make, answer, EVALUATION)
    assert found["kind"] == "naive, leaky"
    assert found["pooled"] is None
    (part,) = found["parts"]
    assert part["leakage"]["crossing"] > 0
    for side in ("validation", "test"):
        assert part[side]["n"] == part["counts"][side]["rows"]
        assert part[side]["uncalibrated"]["loss"] != part[side]["loss"]


def test_a_division_that_cannot_be_trained_is_told_and_passed_over() -> None:
    whole = cohort()
    whole = cohort(label=(whole.source == 0).astype(np.int8))
    (found,) = trained_beside(
        divisions(whole, SplitConfig(by_source=True), naive=False, seed=7), make, answer, EVALUATION
    )
    assert [part["fault"] for part in found["parts"]] == ["its training side would hold one class only"] * 2
    assert [part["test"] for part in found["parts"]] == [None, None]
    assert found["pooled"] is None
