"""The bootstrap over groups, against the same draws made by copying rows, and against what is known of its width."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mri_ray import metrics, resample


def rows(
    groups: int = 40, each: int = 6, seed: int = 0, ties: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and groups; rows of a group resemble each other."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(groups), each)
    labels = (rng.random(len(owner)) < 0.4).astype(int)
    logits = rng.normal(0, 1.5, groups)[owner] + rng.normal(0, 1, len(owner)) + 2 * (labels - 0.5)
    return labels, np.round(logits, 1) if ties else logits, owner


@pytest.mark.parametrize("ties", [True, False])
def test_each_draw_gives_what_copied_rows_would(ties: bool) -> None:
    labels, logits, owner = rows(ties=ties)
    weights = np.concatenate(list(resample.draws(40, 30, seed=5)))
    assert (weights.sum(axis=1) == 40).all()
    found = resample._Sums(labels, logits, owner, 40, 0.3).figures(weights, (0.1,))
    found |= resample._Ranks(labels, logits, owner).figures(weights)
    for draw in range(30):
        chosen = np.repeat(np.arange(len(owner)), weights[draw].astype(int)[owner])
        truth, values = labels[chosen], logits[chosen]
        plain = metrics.evaluate(truth, values, threshold=0.3, prevalences=(0.1,))
        for name in metrics.RESAMPLED:
            assert found[name][draw] == pytest.approx(plain[name]), name
        for name in ("ppv", "npv"):
            assert found[f"{name} 0.1"][draw] == pytest.approx(plain["at_prevalence"][0][name])


def test_the_figures_agree_with_scikit_learn() -> None:
    labels, logits, owner = rows()
    even = np.ones((1, 40))
    found = resample._Ranks(labels, logits, owner).figures(even)
    assert found["auroc"][0] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    assert found["auprc"][0] == pytest.approx(sklearn_metrics.average_precision_score(labels, logits))


def test_the_same_seed_gives_the_same_intervals_and_the_order_of_rows_does_not_matter() -> None:
    labels, logits, owner = rows(seed=3)
    first = resample.intervals(labels, logits, owner, threshold=0.5, rounds=300, seed=1)
    mixed = np.random.default_rng(0).permutation(len(owner))
    again = resample.intervals(labels[mixed], logits[mixed], owner[mixed], threshold=0.5, rounds=300, seed=1)
    other = resample.intervals(labels, logits, owner, threshold=0.5, rounds=300, seed=2)
    assert first.keys() == again.keys()
    assert all(first[name] == pytest.approx(again[name]) for name in first)
    assert first["auroc"] != other["auroc"]
    assert all(low <= high for low, high in first.values())


def test_rows_that_repeat_each_other_add_no_certainty() -> None:
    """Twenty copies of each row are as good as the row; taken as independent they would look four times as certain."""
    labels, logits, owner = rows(groups=200, each=1, seed=7)
    few = resample.intervals(labels, logits, owner, threshold=0.5, seed=0)
    many = resample.intervals(*(np.repeat(x, 20) for x in (labels, logits, owner)), threshold=0.5, seed=0)
    alone = resample.intervals(
        np.repeat(labels, 20), np.repeat(logits, 20), np.arange(20 * 200), threshold=0.5, rounds=200, seed=0
    )
    for name in ("accuracy", "auroc", "sensitivity", "loss"):
        assert many[name] == pytest.approx(few[name])
        assert np.diff(alone[name])[0] < 0.4 * np.diff(few[name])[0]


def test_independent_rows_give_the_width_that_theory_does() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(2000) % 2
    logits = np.where(rng.random(2000) < 0.8, 1.0, -1.0) * (2 * labels - 1)
    low, high = resample.intervals(labels, logits, np.arange(2000), threshold=0.5)["accuracy"]
    share = metrics.evaluate(labels, logits)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 2000), rel=0.15)
    assert low < share < high


def test_too_few_groups_and_one_class_give_no_interval() -> None:
    labels, logits, owner = rows(groups=4)
    assert resample.intervals(labels, logits, owner, threshold=0.5) == {}
    labels, logits, owner = rows()
    found = resample.intervals(np.ones_like(labels), logits, owner, threshold=0.5, prevalences=(0.1,), rounds=50)
    assert set(found) == {"accuracy", "accuracy_at_half", "sensitivity", "loss", "brier", "ece"}


def test_a_figure_needs_groups_of_its_own_class() -> None:
    owner = np.repeat(np.arange(20), 10)
    labels = (owner < 4).astype(int)
    logits = np.random.default_rng(0).normal(2 * labels - 1, 1.5)
    few = resample.intervals(labels, logits, owner, threshold=0.5, prevalences=(0.1,), rounds=200)
    assert set(few) == {"accuracy", "accuracy_at_half", "specificity", "loss", "brier", "ece"}
    enough = resample.intervals((owner < 5).astype(int), logits, owner, threshold=0.5, prevalences=(0.1,), rounds=200)
    assert set(enough) - set(few) == {"sensitivity", "auroc", "auprc", "ppv 0.1", "npv 0.1"}


def test_evaluate_with_groups_adds_intervals_counts_and_reasons() -> None:
    labels, logits, owner = rows()
    found = metrics.evaluate(labels, logits, groups=owner, prevalences=(0.01, 0.3), rounds=200)
    assert (found["groups"], found["rounds"]) == (40, 200)
    assert found["positive_groups"] == len(np.unique(owner[labels == 1]))
    for name in metrics.RESAMPLED:
        low, high = found[f"{name}_bootstrap"]
        assert low <= high
    for entry in found["at_prevalence"]:
        low, high = entry["ppv_bootstrap"]
        assert low <= entry["ppv"] <= high
    assert found["undefined"] is None
    few = metrics.evaluate(labels[:12], logits[:12], groups=owner[:12])
    assert (few["groups"], few["rounds"], few["auroc_bootstrap"]) == (2, 0, None)
    lone = metrics.evaluate(np.ones(30, int), logits[:30], groups=owner[:30], prevalences=(0.1,))
    assert (lone["auroc"], lone["auroc_bootstrap"], lone["auprc"], lone["specificity"]) == (None, None, None, None)
    assert lone["undefined"] == "one class only: all 30 are tumor"
    assert lone["at_prevalence"][0]["ppv"] is None


def test_predictive_values_follow_bayes_rule() -> None:
    ppv, npv = resample.predictive(0.9, 0.8, 0.1)
    assert ppv == pytest.approx(0.09 / (0.09 + 0.18))
    assert npv == pytest.approx(0.72 / (0.72 + 0.01))
    never = metrics.evaluate([1, 0], [-5.0, -5.0], prevalences=(0.1,))["at_prevalence"][0]
    assert (never["ppv"], never["npv"]) == (None, pytest.approx(0.9))  # nothing called positive; everybody is negative


def test_millions_of_rows_are_drawn_less_often() -> None:
    assert resample.rounds_for(1000) == 1000
    assert resample.rounds_for(100_000) == 1000
    assert resample.rounds_for(10**7) == 200
    assert resample.rounds_for(10**7, rounds=100) == 100


def test_reliability_bins_hold_all_rows() -> None:
    labels, logits, _ = rows()
    p = metrics.sigmoid(logits)
    found = metrics.reliability(labels, p, bins=10)
    assert sum(entry["n"] for entry in found) == len(labels)
    gaps = sum(entry["n"] * abs(entry["probability"] - entry["frequency"]) for entry in found)
    assert gaps / len(labels) == pytest.approx(metrics.expected_calibration_error(labels, p, bins=10))
    assert all(low <= e["frequency"] <= high for e in found for low, high in [e["frequency_interval"]])
