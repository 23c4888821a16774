"""The bootstrap over groups: what figures would have been, had other groups of the same kind been drawn.

Slices of one patient resemble each other, so groups are drawn, each with all its rows. A draw is a weight for each
group, and a figure of it a weighted one: nothing is copied. Source: A. C. Davison, D. V. Hinkley, Bootstrap Methods and
their Application (1997), section 3.8; intervals are percentiles, which with few groups are too narrow.
Draws of the ECE lie above it on average, as any scatter adds to it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

ROUNDS = 1000
LEAST_GROUPS = 5  # with fewer an interval would be make-believe
BINS = 15  # of the expected calibration error
_HELD = 2**20  # weights held at a time
_WEIGHTS = 10**8  # drawn at most, for all rounds together: some seconds
_LEAST_ROUNDS = 200

Interval = tuple[float, float]


def rounds_for(rows: int, rounds: int = ROUNDS) -> int:
    """How many draws are made of so many rows: fewer than asked for where millions of rows would take minutes."""
    return min(rounds, max(_LEAST_ROUNDS, _WEIGHTS // max(rows, 1)))


def intervals(
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    *,
    threshold: float | np.ndarray,
    prevalences: Sequence[float] = (),
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of the figures of `metrics.evaluate`, by name; those that most draws leave undefined are missing.

    labels: 0 and 1, (N,). logits: calibrated, finite, (N,). groups: whose row it is, any integers, (N,). threshold: of
    the probability, one or (N,). Of predictive values the name is ("ppv" or "npv", prevalence) with a blank between
    them. Empty with fewer than LEAST_GROUPS groups; a figure of one class needs as many with that class, one that sets
    the classes against each other as many with each.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max(initial=-1)) + 1
    if count < LEAST_GROUPS:
        return {}
    sums = _Sums(labels, logits, numbers, count, threshold)
    ranks = _Ranks(labels, logits, numbers)
    drawn = [
        sums.figures(weights, prevalences) | ranks.figures(weights)
        for weights in draws(count, rounds_for(len(labels), rounds), seed, rows=len(labels))
    ]
    found = {}
    for name in drawn[0]:
        values = np.concatenate([part[name] for part in drawn])
        defined = values[np.isfinite(values)]
        if len(defined) > len(values) / 2:
            low, high = np.quantile(defined, (0.025, 0.975))
            found[name] = (float(low), float(high))
    untold = _of_few(numbers, labels)
    return {name: bounds for name, bounds in found.items() if name.split()[0] not in untold}


def _of_few(groups: np.ndarray, labels: np.ndarray) -> set[str]:
    """Figures of a class that too few groups have: in nearly all draws they would come from the same ones."""
    rate_of = {0: "specificity", 1: "sensitivity"}
    few = {rate for label, rate in rate_of.items() if len(np.unique(groups[labels == label])) < LEAST_GROUPS}
    return few | {"auroc", "auprc", "ppv", "npv"} if few else few


def draws(groups: int, rounds: int, seed: int, *, rows: int = 0) -> Iterator[np.ndarray]:
    """How often each group was drawn, float64 (some rounds, groups), some rounds at a time; a round sums to `groups`.

    rows: how many rows the groups have, which bounds the rounds at a time.
    """
    rng = np.random.default_rng(seed)
    some = max(1, _HELD // max(groups, rows, 1))
    even = np.full(groups, 1 / groups)
    for start in range(0, rounds, some):
        yield rng.multinomial(groups, even, size=min(some, rounds - start)).astype(np.float64)


class _Sums:
    """Figures that are ratios of sums over rows, and so of sums over groups."""

    def __init__(
        self, labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, count: int, threshold: float | np.ndarray
    ) -> None:
        truth = labels == 1
        probability = np.exp(-np.logaddexp(0.0, -logits))
        said = probability >= threshold
        columns = {
            "n": np.ones(len(labels)),
            "positives": truth,
            "tp": truth & said,
            "tn": ~truth & ~said,
            "right_at_half": truth == (logits >= 0),
            "loss": np.logaddexp(0.0, np.where(truth, -logits, logits)),
            "brier": (probability - truth) ** 2,
        }
        self._names = list(columns)
        self._by_group = np.stack([np.bincount(groups, each, count) for each in columns.values()], axis=1)
        place = bins_of(probability)
        self._gaps = np.bincount(groups * BINS + place, probability - truth, count * BINS).reshape(count, BINS)

    def figures(self, weights: np.ndarray, prevalences: Sequence[float]) -> dict[str, np.ndarray]:
        total = dict(zip(self._names, (weights @ self._by_group).T, strict=True))
        n, positives = total["n"], total["positives"]
        with np.errstate(invalid="ignore", divide="ignore"):
            sensitivity, specificity = total["tp"] / positives, total["tn"] / (n - positives)
            found = {
                "accuracy": (total["tp"] + total["tn"]) / n,
                "accuracy_at_half": total["right_at_half"] / n,
                "sensitivity": sensitivity,
                "specificity": specificity,
                "loss": total["loss"] / n,
                "brier": total["brier"] / n,
                "ece": np.abs(weights @ self._gaps).sum(axis=1) / n,
            }
            for prevalence in prevalences:
                values = predictive(sensitivity, specificity, prevalence)
                found |= {f"{name} {prevalence:g}": value for name, value in zip(("ppv", "npv"), values, strict=True)}
        return found


class _Ranks:
    """Figures of the order of rows: they are sorted once, and each draw is a pass over its weights in that order."""

    def __init__(self, labels: np.ndarray, logits: np.ndarray, groups: np.ndarray) -> None:
        order = np.argsort(-logits, kind="stable")
        values = logits[order]
        self._group, self._truth = groups[order], (labels[order] == 1).astype(np.float64)
        self._starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])  # of rows with equal scores
        self._tied = len(self._starts) < len(values)

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        rows = weights[:, self._group]
        hits = rows * self._truth
        if self._tied:
            rows, hits = (np.add.reduceat(each, self._starts, axis=1) for each in (rows, hits))
        above, seen = np.cumsum(hits, axis=1), np.cumsum(rows, axis=1)
        positives, negatives = above[:, -1], seen[:, -1] - above[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = ((rows - hits) * (above - hits / 2)).sum(axis=1)
            precision = np.where(seen > 0, above / seen, 0.0)
            return {
                "auroc": pairs / (positives * negatives),
                "auprc": np.where(negatives > 0, (hits * precision).sum(axis=1) / positives, np.nan),
            }


def bins_of(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of equal width of each probability; it holds its upper edge, the first one 0 too."""
    return np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)


def predictive(
    sensitivity: np.ndarray | float, specificity: np.ndarray | float, prevalence: float
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Positive and negative predictive value by Bayes' rule, where so many have a tumor; NaN where none is called."""
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return np.divide(hits, hits + alarms), np.divide(clear, clear + missed)
