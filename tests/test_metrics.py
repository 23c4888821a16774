"""Figures against closed forms and scikit-learn; counts and intervals as laws."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mri_ray import metrics
from mri_ray.metrics import Counts

ROWS = st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=40)


def example(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits that agree in part; logits have ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return labels, np.round(rng.normal(0, 2, n) + 1.5 * (labels - 0.5), 1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0, 6))
def test_wilson_contains_the_proportion_within_0_and_1(counts: tuple[int, int], z: float) -> None:
    k, n = counts
    low, high = metrics.wilson(k, n, z)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= k / n <= high


def test_wilson_by_hand() -> None:
    # 0 of 10: the upper bound is z^2 / (n + z^2)
    z = 1.959964
    assert metrics.wilson(0, 10) == pytest.approx((0, z * z / (10 + z * z)))
    assert metrics.wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # published example
    assert metrics.wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes: must be from 0"):
        metrics.wilson(k, n)


@settings(max_examples=50, deadline=None)
@given(ROWS, ROWS)
def test_counts_of_parts_add_up_to_the_whole(first: list, second: list) -> None:
    def of(rows: list) -> Counts:
        return Counts.of([label for label, _ in rows], [said for _, said in rows])

    assert of(first) + of(second) == of(first + second)
    assert of(first).n == len(first)


def test_counts_and_their_rates() -> None:
    counts = Counts.of([1, 1, 1, 0, 0], [True, True, False, True, False])
    assert counts == Counts(tp=2, fp=1, tn=1, fn=1)
    assert (counts.accuracy, counts.sensitivity, counts.specificity) == (3 / 5, 2 / 3, 1 / 2)


def test_undefined_rates_are_none() -> None:
    assert (Counts().accuracy, Counts().sensitivity, Counts().specificity) == (None, None, None)
    assert Counts.of([1, 1], [True, False]).specificity is None
    assert Counts.of([0, 0], [True, False]).sensitivity is None
    assert metrics.auroc([1, 1, 1], [0.1, 0.2, 0.3]) is None


def test_auroc_is_the_share_of_pairs_in_order_with_ties_half() -> None:
    labels, logits = example()
    pairs = [(p > q) + 0.5 * (p == q) for p in logits[labels == 1] for q in logits[labels == 0]]
    assert metrics.auroc(labels, logits) == pytest.approx(np.mean(pairs))


def test_loss_brier_and_roc_agree_with_scikit_learn() -> None:
    labels, logits = example()
    p = sigmoid(logits)
    assert metrics.log_loss(labels, logits) == pytest.approx(sklearn_metrics.log_loss(labels, p))
    assert metrics.brier(labels, p) == pytest.approx(sklearn_metrics.brier_score_loss(labels, p))
    fpr, tpr, thresholds = metrics.roc_curve(labels, logits)
    assert sklearn_metrics.auc(fpr, tpr) == pytest.approx(metrics.auroc(labels, logits))
    assert math.isinf(thresholds[0])


def test_loss_of_great_certainty_is_finite() -> None:
    assert metrics.log_loss([1, 0], [2000.0, -2000.0]) == 0
    assert metrics.log_loss([1], [-2000.0]) == 2000


def test_calibration_error_by_hand() -> None:
    # Two bins of width 0.5; the edge 0.5 belongs to the lower one.
    p = [0.0, 0.5, 0.9, 1.0]
    labels = [0, 1, 1, 0]
    # lower: mean p 0.25 against 1/2; upper: 0.95 against 1/2; each holds half of the rows
    assert metrics.expected_calibration_error(labels, p, bins=2) == pytest.approx(0.5 * 0.25 + 0.5 * 0.45)
    assert metrics.expected_calibration_error([0, 1], [0.0, 1.0]) == 0


def test_evaluate_says_what_its_parts_say_and_is_json() -> None:
    labels, logits = example()
    found = metrics.evaluate(labels, logits / 2, threshold=0.6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    p = sigmoid(logits / 2)
    counts = Counts.of(labels, p >= 0.6)
    assert found["confusion"] == vars(counts)
    assert (found["n"], found["positives"]) == (300, labels.sum())
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, p >= 0.6))
    assert found["sensitivity"] == pytest.approx(sklearn_metrics.recall_score(labels, p >= 0.6))
    assert found["specificity"] == pytest.approx(sklearn_metrics.recall_score(labels, p >= 0.6, pos_label=0))
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, logits / 2))
    assert found["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    assert found["brier"] == pytest.approx(metrics.brier(labels, p))
    assert found["ece"] == pytest.approx(metrics.expected_calibration_error(labels, p))
    for name in ("accuracy", "sensitivity", "specificity"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high


def test_evaluate_with_one_class_leaves_the_undefined_none() -> None:
    found = metrics.evaluate([1, 1], [3.0, -3.0])
    assert (found["auroc"], found["specificity"], found["specificity_interval"]) == (None, None, None)
    assert found["sensitivity"] == 0.5


def test_a_row_at_the_threshold_is_positive() -> None:
    assert metrics.evaluate([1], [0.0], threshold=0.5)["confusion"]["tp"] == 1


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([], [], "at least one row"),
        ([0, 1], [0.0], "one for each label"),
        ([0, 2], [0.0, 1.0], "a row of 0 and 1"),
        ([0, 0.5], [0.0, 1.0], "a row of 0 and 1"),
        ([0, 1], [0.0, math.nan], "must be finite"),
    ],
)
def test_unusable_rows_are_refused(labels: list, logits: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(labels, logits)


def test_roc_curve_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes"):
        metrics.roc_curve([1, 1], [0.2, 0.3])
