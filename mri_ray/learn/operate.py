"""Where the line is drawn: a threshold that keeps a promise on validation, and what near it is referred."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mri_ray import metrics
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.calibrate import fit
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig

FEW_GROUPS = 20  # of the class whose rate is promised; with fewer, other groups may well be otherwise
_ASIDE = 0.05  # in logits, of a threshold from the outermost row: float32 tells their probabilities apart to 0.9999


@dataclass(frozen=True, kw_only=True)
class Point:
    """threshold, refer: as of `Bundle`. facts: target, where it was chosen, the figures there; plain JSON values."""

    threshold: float = 0.5
    refer: tuple[float, float] | None = None
    facts: dict[str, Any]
    warnings: tuple[str, ...] = ()


def operate(
    labels: ArrayLike,
    logits: ArrayLike,
    groups: ArrayLike,
    config: CalibrationConfig,
    evaluation: EvaluationConfig,
    *,
    what: str = "slices",
) -> Point:
    """The operating point by rows of validation, (N,) each: 0 and 1, calibrated logits, whose row it is.

    For a sensitivity the threshold is the highest whose bound (`CalibrationConfig.bound`) reaches `at_least`, for a
    specificity the lowest; it stands midway to the next row, as far from both as can be. Rows of one group err
    together, which Wilson's bound does not know: where the interval over groups falls short, or groups are few, or rows
    are too few for the bound at all (then the estimate must do), it warns. With one class only, 0.5 and no band.
    """
    truth, values = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if len(np.unique(truth)) < 2:
        why = f"validation has {what} of one class only: no operating point can be chosen, and 0.5 stands"
        return Point(facts=_facts(config, None, what), warnings=(why,))
    cut, bound, warnings = 0.0, None, []
    if config.target != "none":
        sign = 1 if config.target == "sensitivity" else -1
        mine = truth == (sign > 0)
        count, bound = _least_count(int(mine.sum()), config)
        cut = sign * _cut(sign * values, mine, count)
        if bound != config.bound:
            warnings.append(
                f"{int(mine.sum())} {what} of validation are too few for a lower bound of {config.target} at "
                f"{config.at_least:g}: the threshold keeps the estimate there, and promises nothing"
            )
    threshold = _probability(cut)
    refer = _band(values, cut, config.refer)
    figures = metrics.evaluate(
        truth,
        values,
        threshold=threshold,
        groups=groups,
        prevalences=evaluation.prevalences,
        rounds=evaluation.rounds,
    )
    if bound == "lower":
        warnings += _doubts(figures, np.asarray(groups)[mine], config, what)
    facts = _facts(config, bound, what) | {"validation": figures, "referred": referred(truth, values, threshold, refer)}
    return Point(threshold=threshold, refer=refer, facts=facts, warnings=tuple(warnings))


def settled(
    bundle: Bundle,
    labels: ArrayLike,
    logits: ArrayLike,
    groups: ArrayLike,
    config: CalibrationConfig,
    evaluation: EvaluationConfig,
) -> tuple[Bundle, tuple[str, ...]]:
    """The bundle with calibration and operating point by rows of validation (raw logits), and what to warn of."""
    found = fit(labels, logits, groups, config.method)
    point = operate(labels, found(logits), groups, config, evaluation)
    made = replace(
        bundle,
        temperature=found.temperature,
        knots=found.knots,
        threshold=point.threshold,
        refer=point.refer,
        operating={"calibration": found.facts, "slices": point.facts},
    )
    return made, point.warnings


def referred(
    labels: ArrayLike, logits: ArrayLike, threshold: float, refer: tuple[float, float] | None
) -> dict[str, Any] | None:
    """What the band takes out: the share of rows in it, and the share decided wrongly inside and outside of it."""
    if refer is None:
        return None
    truth, probability = np.asarray(labels) == 1, metrics.sigmoid(np.asarray(logits, dtype=np.float64))
    inside = (probability >= refer[0]) & (probability < refer[1])
    wrong = (probability >= threshold) != truth

    def share(rows: np.ndarray) -> float | None:
        return float(wrong[rows].mean()) if rows.any() else None

    return {"share": float(inside.mean()), "error_inside": share(inside), "error_outside": share(~inside)}


def _facts(config: CalibrationConfig, bound: str | None, what: str) -> dict[str, Any]:
    return {
        "of": what,
        "side": "validation",
        "target": None if config.target == "none" else {"rate": config.target, "at_least": config.at_least},
        "bound": bound,
    }


def _least_count(n: int, config: CalibrationConfig) -> tuple[int, str]:
    """How many of n must be found for the target, and by which bound: the estimate where n is too small."""
    if config.bound == "lower":
        enough = next(
            (k for k in range(math.ceil(config.at_least * n), n + 1) if _lower(k, n) >= config.at_least), None
        )
        if enough is not None:
            return enough, "lower"
    return math.ceil(config.at_least * n - 1e-9), "estimate"


def _lower(k: int, n: int) -> float:
    return metrics.wilson(k, n)[0]


def _cut(values: np.ndarray, mine: np.ndarray, count: int) -> float:
    """The highest value that `count` of mine reach or pass, lowered halfway to the next row below."""
    lowest = float(np.sort(values[mine])[-count])
    below = values[values < lowest]
    return (lowest + float(below.max())) / 2 if len(below) else lowest - _ASIDE


def _band(values: np.ndarray, cut: float, share: float) -> tuple[float, float] | None:
    """Probabilities around the cut, as far to either side in logits, that hold at most this share of the rows."""
    away = np.sort(np.abs(values - cut))
    inside = int(np.searchsorted(away, away[int(share * len(away))]))  # rows equally far are all in it, or none is
    if not inside:
        return None
    half = (away[inside - 1] + away[inside]) / 2
    low, middle, high = (_probability(cut + side * half) for side in (-1, 0, 1))
    return (low, high) if low < middle < high else None


def _probability(logit: float) -> float:
    return float(metrics.sigmoid(np.array(logit)))


def _doubts(figures: dict[str, Any], owners: np.ndarray, config: CalibrationConfig, what: str) -> list[str]:
    over_groups = figures[f"{config.target}_bootstrap"]
    few = len(np.unique(owners)) < FEW_GROUPS
    if not few and over_groups is not None and over_groups[0] >= config.at_least:
        return []
    told = "which are too few to tell" if over_groups is None else f"over which it lies from {over_groups[0]:.3f} on"
    warning = (
        f"the threshold for {what} keeps a {config.target} of {config.at_least:g} on validation, but that has "
        f"{len(np.unique(owners))} groups for it, {told}: other groups may fall short"
    )
    return [warning]
