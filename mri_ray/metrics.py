"""What is said about labels and scores: counts that can be merged, rates with intervals, calibration.

Labels are 1 (tumor) and 0 (normal). A figure that the data leaves undefined is None, never a made-up number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mri_ray import resample

_Z95 = 1.959964  # the normal quantile of a two-sided 95 % interval
# What gets a `_bootstrap`. accuracy_at_half is that of a threshold of 0.5, which others report.
RESAMPLED = ("accuracy", "accuracy_at_half", "loss", "auroc", "auprc", "brier", "ece", "sensitivity", "specificity")


def wilson(successes: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion; (0, 1) when there are no trials.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes: must be from 0 to n = {n}, got {successes}")
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push the bounds past the proportion where the two are equal.
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives; counts of parts add up to those of the whole."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    @classmethod
    def of(cls, labels: ArrayLike, positive: ArrayLike) -> "Counts":
        """labels: (N,) of 0 and 1; positive: bool (N,), what was decided."""
        truth, said = _labels(labels).astype(bool), np.asarray(positive, dtype=bool)
        _same_length(truth, said)
        return cls(
            tp=int((truth & said).sum()),
            fp=int((~truth & said).sum()),
            tn=int((~truth & ~said).sum()),
            fn=int((truth & ~said).sum()),
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float | None:
        return _ratio(self.tp + self.tn, self.n)

    @property
    def sensitivity(self) -> float | None:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        return _ratio(self.tn, self.tn + self.fp)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None with one class only."""
    truth, values = _pair(labels, scores)
    if len(np.unique(truth)) < 2:
        return None
    from sklearn import metrics  # half a second, which not every process needs

    return float(metrics.roc_auc_score(truth, values))


def auprc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Average precision, the area below the precision-recall curve without interpolation; None with one class only."""
    truth, values = _pair(labels, scores)
    if len(np.unique(truth)) < 2:
        return None
    from sklearn import metrics

    return float(metrics.average_precision_score(truth, values))


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Mean binary cross entropy in nats, from logits, so that certainty does not overflow."""
    truth, values = _pair(labels, logits)
    return float(np.mean(np.logaddexp(0.0, np.where(truth == 1, -values, values))))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance of the probability from the label."""
    truth, values = _pair(labels, probabilities)
    return float(np.mean((values - truth) ** 2))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = resample.BINS) -> float:
    """Distance of the probability of tumor from its frequency, averaged over rows in bins of equal width.

    A bin holds its upper edge, the first one 0 too. Source: Naeini et al., AAAI 2015.
    """
    truth, values = _pair(labels, probabilities)
    # Per bin |sum of probabilities - number of tumors|: the bin's size cancels out.
    gaps = np.bincount(resample.bins_of(values, bins), weights=values - truth, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate, threshold, each (K,); the first threshold is infinite.

    Raises ValueError with one class only.
    """
    truth, values = _pair(labels, scores)
    if len(np.unique(truth)) < 2:
        raise ValueError("labels: must hold both classes for a ROC curve, got one")
    from sklearn import metrics

    return metrics.roc_curve(truth, values)


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, each (K,), from all rows called positive to none. Raises ValueError with one class only."""
    truth, values = _pair(labels, scores)
    if len(np.unique(truth)) < 2:
        raise ValueError("labels: must hold both classes for a precision-recall curve, got one")
    from sklearn import metrics

    return metrics.precision_recall_curve(truth, values)[:2]


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = resample.BINS) -> list[dict[str, Any]]:
    """The bins of the calibration error that hold rows: n, mean probability, frequency of tumor with its interval."""
    truth, values = _pair(labels, probabilities)
    place = resample.bins_of(values, bins)
    n, tumors = np.bincount(place, minlength=bins), np.bincount(place, truth, bins).astype(int)
    means = np.bincount(place, values, bins) / np.maximum(n, 1)
    return [
        {
            "n": int(n[i]),
            "probability": float(means[i]),
            "frequency": tumors[i] / n[i],
            "frequency_interval": list(wilson(int(tumors[i]), int(n[i]))),
        }
        for i in np.flatnonzero(n)
    ]


def uncalibrated(labels: ArrayLike, logits: ArrayLike) -> dict[str, float]:
    """What logits as the network gives them are worth as probabilities, at 0.5: the terms that most report in."""
    truth, values = _pair(labels, logits)
    probabilities = sigmoid(values)
    return {
        "accuracy": float(((values >= 0) == (truth == 1)).mean()),
        "loss": log_loss(truth, values),
        "brier": brier(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
    }


def evaluate(
    labels: ArrayLike,
    logits: ArrayLike,
    *,
    threshold: float | np.ndarray = 0.5,
    groups: ArrayLike | None = None,
    prevalences: Sequence[float] = (),
    rounds: int = resample.ROUNDS,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one set of rows as plain JSON values.

    logits: calibrated: loss, Brier, ECE and decisions are of the probability sigmoid(logit), and a row is positive from
    the threshold on, one for all or (N,). `<rate>_interval` is Wilson's, which takes rows as independent. groups: whose
    each row is; with them `<figure>_bootstrap` is the interval over groups (`resample`), None where they are too few.
    prevalences: for which predictive values are given. Where a figure is None, `undefined` says why. Raises ValueError
    without rows.
    """
    truth, values = _pair(labels, logits)
    probabilities = sigmoid(values)
    counts, half = Counts.of(truth, probabilities >= threshold), Counts.of(truth, values >= 0)
    found = {
        "n": counts.n,
        "positives": counts.tp + counts.fn,
        "accuracy": counts.accuracy,
        "accuracy_interval": _interval(counts.tp + counts.tn, counts.n),
        "accuracy_at_half": half.accuracy,
        "accuracy_at_half_interval": _interval(half.tp + half.tn, half.n),
        "loss": log_loss(truth, values),
        "auroc": auroc(truth, values),
        "auprc": auprc(truth, values),
        "brier": brier(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
        "sensitivity": counts.sensitivity,
        "sensitivity_interval": _interval(counts.tp, counts.tp + counts.fn),
        "specificity": counts.specificity,
        "specificity_interval": _interval(counts.tn, counts.tn + counts.fp),
        "confusion": {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn},
        "at_prevalence": [_predictive(counts, prevalence) for prevalence in prevalences],
        "undefined": None if counts.sensitivity is not None and counts.specificity is not None else _one_class(counts),
    }
    if groups is None:
        return found
    owners = np.asarray(groups)
    _same_length(truth, owners)
    spread = resample.intervals(
        truth, values, owners, threshold=threshold, prevalences=prevalences, rounds=rounds, seed=seed
    )
    return found | _bootstrap(found, spread, owners, truth, rounds)


def _bootstrap(
    found: dict[str, Any],
    spread: dict[str, resample.Interval],
    owners: np.ndarray,
    truth: np.ndarray,
    rounds: int,
) -> dict[str, Any]:
    """What is added where groups are known."""

    def of(name: str, value: float | None) -> list[float] | None:
        return list(spread[name]) if value is not None and name in spread else None

    count = len(np.unique(owners))
    return {
        "groups": count,
        "positive_groups": len(np.unique(owners[truth == 1])),
        "rounds": resample.rounds_for(len(truth), rounds) if count >= resample.LEAST_GROUPS else 0,
        **{f"{name}_bootstrap": of(name, found[name]) for name in RESAMPLED},
        "at_prevalence": [
            entry | {f"{name}_bootstrap": of(f"{name} {entry['prevalence']:g}", entry[name]) for name in ("ppv", "npv")}
            for entry in found["at_prevalence"]
        ],
    }


def _predictive(counts: Counts, prevalence: float) -> dict[str, Any]:
    if counts.sensitivity is None or counts.specificity is None:
        return {"prevalence": prevalence, "ppv": None, "npv": None}
    with np.errstate(invalid="ignore"):
        ppv, npv = (float(v) for v in resample.predictive(counts.sensitivity, counts.specificity, prevalence))
    # Where nothing is called positive (or negative) there is nothing to be right about.
    return {"prevalence": prevalence} | {
        name: value if math.isfinite(value) else None for name, value in (("ppv", ppv), ("npv", npv))
    }


def _one_class(counts: Counts) -> str:
    return f"one class only: all {counts.n} are {'normal' if counts.sensitivity is None else 'tumor'}"


def sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _interval(successes: int, n: int) -> list[float] | None:
    return list(wilson(successes, n)) if n else None


def _pair(labels: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, numbers = _labels(labels), np.asarray(values, dtype=np.float64)
    _same_length(truth, numbers)
    if not len(truth):
        raise ValueError("labels: must hold at least one row, got none")
    if not np.isfinite(numbers).all():
        raise ValueError(f"scores: must be finite, got {int((~np.isfinite(numbers)).sum())} that are not")
    return truth, numbers


def _labels(labels: ArrayLike) -> np.ndarray:
    given = np.asarray(labels)
    if given.ndim != 1 or not np.isin(given, (0, 1)).all():
        raise ValueError(f"labels: must be a row of 0 and 1, got shape {given.shape}, values {np.unique(given)[:5]}")
    return given.astype(np.int64)


def _same_length(labels: np.ndarray, values: np.ndarray) -> None:
    if labels.shape != values.shape:
        raise ValueError(f"scores: must be one for each label, got {values.shape} for {labels.shape}")
