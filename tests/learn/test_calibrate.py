"""Maps against scikit-learn and brute force, and laws over many; operating points on rows with a known answer."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mri_ray import metrics
from mri_ray.errors import ConfigError
from mri_ray.learn.calibrate import calibrated, fit
from mri_ray.learn.operate import operate
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig

EVALUATION = EvaluationConfig(rounds=100)


def rows(n: int = 2000, seed: int = 0, slope: float = 1.0, shift: float = 0.0, each: int = 4):
    """Labels drawn from what the true logits say, and the logits of a network: those scaled and shifted."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, n)
    labels = (rng.random(n) < metrics.sigmoid(true)).astype(int)
    return labels, slope * true + shift, np.arange(n) // each


@pytest.mark.parametrize("slope", [0.3, 1.0, 4.0])
def test_the_temperature_is_what_a_network_was_too_certain_by(slope: float) -> None:
    labels, logits, groups = rows(n=20_000, slope=slope)
    found = fit(labels, logits, groups, "temperature")
    assert found.temperature == pytest.approx(slope, rel=0.08)
    assert found.facts["ece_after"] < 0.02
    tried = [metrics.log_loss(labels, logits / (found.temperature * factor)) for factor in (0.9, 1, 1.1)]
    assert tried[1] == min(tried)


def test_platt_agrees_with_logistic_regression() -> None:
    labels, logits, groups = rows(n=20_000, slope=2.5, shift=1.7)
    found = fit(labels, logits, groups, "platt")
    plain = LogisticRegression(C=1e9).fit(logits[:, None], labels)
    assert found(0.0) == pytest.approx(plain.intercept_[0], abs=2e-2)
    assert found(1.0) - found(0.0) == pytest.approx(plain.coef_[0, 0], rel=2e-2)


def test_isotonic_bends_where_no_line_would() -> None:
    rng = np.random.default_rng(1)
    logits = rng.uniform(-3, 3, 6000)
    labels = (rng.random(6000) < np.where(logits < 0, 0.1, 0.7)).astype(int)
    groups = np.arange(6000)
    found = fit(labels, logits, groups)
    assert found.facts["method"] == "isotonic"
    p = metrics.sigmoid(found(np.array([-2.0, -1.0, 1.0, 2.0])))
    np.testing.assert_allclose(p, [0.1, 0.1, 0.7, 0.7], atol=0.06)


def test_the_plain_temperature_stays_unless_another_is_surely_better() -> None:
    labels, logits, groups = rows(slope=2.0)
    assert fit(labels, logits, groups).facts["method"] == "temperature"
    labels, logits, groups = rows(slope=2.0, shift=3.0)
    found = fit(labels, logits, groups)
    assert found.facts["method"] in ("platt", "isotonic")
    assert found.facts["held_out_loss"]["platt"] < found.facts["held_out_loss"]["temperature"]
    few = fit(labels[:60], logits[:60], groups[:60] // 8)
    assert (few.facts["method"], few.facts["held_out_loss"]) == ("temperature", {})


def test_classes_without_a_fault_between_them_give_no_infinite_certainty() -> None:
    labels = np.repeat([0, 1], 50)
    found = fit(labels, 10.0 * labels - 5, np.arange(100))
    p = metrics.sigmoid(found([-5.0, 5.0]))
    assert 0.001 < p[0] < 0.03
    assert 0.97 < p[1] < 0.999


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_one_class_is_left_as_it_is(labels: list[int]) -> None:
    found = fit(labels, [1.0, 2.0, 3.0], [0, 1, 2])
    assert (found.temperature, found.knots, found.facts["method"]) == (1.0, None, "none")


FOUND = st.sampled_from(["temperature", "platt", "isotonic"])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    FOUND,
    st.integers(2, 400),
    st.floats(-3, 3),
    st.lists(st.floats(-1e5, 1e5, width=32), min_size=2, max_size=20),
)
def test_every_map_is_finite_and_rises(seed: int, method: str, n: int, tilt: float, asked: list[float]) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 3, n), int(rng.integers(0, 4)))
    labels = (rng.random(n) < metrics.sigmoid(tilt * logits)).astype(int)
    labels[:2] = (0, 1)
    found = fit(labels, logits, rng.integers(0, n, n), method)
    x = np.unique(np.array(asked, np.float64))
    y = found(x)
    assert np.isfinite(y).all()
    assert (np.diff(y) >= 0).all()
    apart = np.diff(x) > 1e-3
    assert (np.diff(y)[apart] > 0).all()


def test_corners_are_joined_by_lines_that_go_on_beyond_them() -> None:
    knots = ((-1.0, -3.0), (0.0, 0.0), (2.0, 1.0))
    np.testing.assert_allclose(
        calibrated([-2.0, -1.0, -0.5, 0.0, 1.0, 2.0, 4.0], 1.0, knots), [-6, -3, -1.5, 0, 0.5, 1, 2]
    )
    np.testing.assert_allclose(calibrated([4.0], 2.0, knots), [1.0])  # the temperature first


def cut(labels, logits, groups=None, **changes):
    given = np.arange(len(labels)) if groups is None else groups
    return operate(labels, logits, given, CalibrationConfig(**{"refer": 0.0, **changes}), EVALUATION)


def test_the_threshold_is_the_highest_whose_lower_bound_keeps_the_promise() -> None:
    labels, logits, _ = rows(3000, seed=4)
    found = cut(labels, logits)
    figures = found.facts["validation"]
    n = figures["positives"]
    assert figures["sensitivity_interval"][0] >= 0.95
    assert metrics.wilson(figures["confusion"]["tp"] - 1, n)[0] < 0.95
    assert found.facts["bound"] == "lower"
    assert found.warnings == ()
    # Between two rows: moved by less than the gap, it decides the same.
    p = metrics.sigmoid(logits)
    assert np.abs(p - found.threshold).min() > 0
    estimate = cut(labels, logits, bound="estimate")
    assert estimate.facts["validation"]["confusion"]["tp"] == math.ceil(0.95 * n)
    assert estimate.threshold > found.threshold


def test_a_specificity_is_the_mirror_of_a_sensitivity() -> None:
    labels, logits, _ = rows(3000, seed=4)
    found = cut(labels, logits, target="specificity", at_least=0.9)
    mirrored = cut(1 - labels, -logits, at_least=0.9)
    assert found.threshold == pytest.approx(1 - mirrored.threshold)
    assert found.facts["validation"]["specificity_interval"][0] >= 0.9


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 300), st.sampled_from(["sensitivity", "specificity"]), st.floats(0.5, 0.99)
)
def test_the_estimate_always_reaches_the_target(seed: int, n: int, target: str, at_least: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = (0, 1)
    logits = np.round(rng.normal(0, 2, n) + labels, 1)
    found = cut(labels, logits, target=target, at_least=at_least, refer=0.1)
    assert found.facts["validation"][target] >= at_least - 1e-12
    if found.refer is not None:
        assert 0 <= found.refer[0] < found.threshold < found.refer[1] <= 1


def test_too_few_rows_or_groups_are_warned_of() -> None:
    labels, logits, _ = rows(80, seed=1)
    (warning,) = cut(labels, logits).warnings
    assert "too few for a lower bound of sensitivity at 0.95" in warning
    labels, logits, _ = rows(800, seed=1)
    (warning,) = cut(labels, logits, np.arange(800) // 100).warnings
    assert "8 groups" in warning
    assert "may fall short" in warning


def test_one_class_gives_no_operating_point() -> None:
    found = operate([1, 1], [0.0, 1.0], [0, 1], CalibrationConfig(), EVALUATION, what="studies")
    assert (found.threshold, found.refer) == (0.5, None)
    assert "studies of one class only" in found.warnings[0]


def test_the_band_holds_its_share_and_the_doubtful() -> None:
    labels, logits, _ = rows(4000, seed=2)
    found = cut(labels, logits, refer=0.1)
    told = found.facts["referred"]
    assert told["share"] == pytest.approx(0.1, abs=1e-3)
    none = cut(labels, logits, target="none", refer=0.2)
    assert none.threshold == 0.5
    assert none.facts["referred"]["error_inside"] > 0.3 > none.facts["referred"]["error_outside"]
    assert cut(labels, logits).refer is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "beta"}, "method: must be one of auto"),
        ({"target": "recall"}, "target: must be one of"),
        ({"bound": "upper"}, "bound: must be one of"),
        ({"at_least": 1.0}, "at_least: must lie between"),
        ({"refer": 1.0}, "refer: must be at least 0"),
    ],
)
def test_settings_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrationConfig(**changes)


@pytest.mark.parametrize("changes", [{"rounds": 10}, {"rounds": True}, {"prevalences": (0.0,)}])
def test_how_to_evaluate_is_checked(changes: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        EvaluationConfig(**changes)


def test_equal_rows_are_all_referred_or_none_is():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    logits = np.where(np.arange(400) < 100, -0.3, rng.normal(2 * labels - 1, 1.5))
    told = cut(labels, logits, at_least=0.97, refer=0.05).facts["referred"]
    assert told is None or told["share"] <= 0.05


def test_a_threshold_beyond_the_outermost_row_holds_for_probabilities_as_they_are_stored():
    labels = np.repeat([0, 1], 80)
    for seed in range(20):
        logits = np.random.default_rng(seed).normal(np.where(labels, 3, 0), 1.0)
        logits[0] = logits.max() + 0.2
        found = cut(labels, logits, target="specificity", at_least=0.95)
        stored = metrics.sigmoid(logits).astype(np.float32).astype(np.float64) >= found.threshold
        assert stored[labels == 0].sum() == found.facts["validation"]["confusion"]["fp"]
