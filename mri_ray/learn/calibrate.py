"""From a network's logits to probabilities that mean what they say: maps, and how one is fitted to validation.

A map is rising, so it changes no order of slices. It is a temperature, and where that is not enough the corners
(`knots`) of a line that rises piece by piece in the logit divided by it: a slope and a shift are two corners. Sources:
C. Guo et al., On calibration of modern neural networks (2017); J. Platt, Probabilistic outputs for support vector
machines (1999); B. Zadrozny, C. Elkan, Transforming classifier scores into probability estimates (2002).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mri_ray import metrics

Knots = tuple[tuple[float, float], ...]

_TEMPERATURES = (0.02, 50.0)
_FOLDS = 5
_GROUPS = {"platt": 20, "isotonic": 50}  # of each class as many as needed to judge it, half of them
_BINS, _BIN_ROWS = 20, 50  # of the isotonic map: at most so many, each of at least so many rows
_LEAST_RISE = 1e-3  # between two corners


@dataclass(frozen=True, kw_only=True)
class Map:
    """From a raw logit to a calibrated one; facts: how it was chosen, plain JSON values."""

    temperature: float = 1.0
    knots: Knots | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, logits: ArrayLike) -> np.ndarray:
        return calibrated(logits, self.temperature, self.knots)


def calibrated(logits: ArrayLike, temperature: float, knots: Knots | None = None) -> np.ndarray:
    """Calibrated logits, float64, of which the sigmoid is the probability; beyond the corners the end pieces go on."""
    values = np.asarray(logits, dtype=np.float64) / temperature
    if knots is None:
        return values
    x, y = np.array(knots).T
    piece = np.clip(np.searchsorted(x, values) - 1, 0, len(x) - 2)
    slope = np.diff(y) / np.diff(x)
    return y[piece] + slope[piece] * (values - x[piece])


def fit(labels: ArrayLike, logits: ArrayLike, groups: ArrayLike, method: str = "auto") -> Map:
    """The map that fits the rows of validation, (N,) each: 0 and 1, raw logits, whose row it is.

    `auto` takes another than the temperature only where there are groups enough to judge by, and then if in rows of
    groups that it was not fitted to its log loss is lower by more than one standard error over groups. With one class
    only, or `none`, the identity.
    """
    truth, values = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1]
    losses: dict[str, float] = {}
    if method == "none" or len(np.unique(truth)) < 2:
        chosen, found = "none", Map()
    else:
        chosen = method
        if method == "auto":
            chosen, losses = _choose(truth, values, owners)
        found = _FITS[chosen](truth, values)
    facts = {
        "method": chosen,
        "rows": len(truth),
        "groups": int(owners.max(initial=-1)) + 1,
        "held_out_loss": losses,  # by method, where they were compared
        **_before_and_after(truth, values, found),
    }
    return Map(temperature=found.temperature, knots=found.knots, facts=facts)


def _before_and_after(truth: np.ndarray, values: np.ndarray, found: Map) -> dict[str, Any]:
    """Of the very rows it was fitted to, so the figures after it flatter it."""
    if not len(truth):
        return {}
    after = found(values)
    return {
        "ece_before": metrics.expected_calibration_error(truth, metrics.sigmoid(values)),
        "ece_after": metrics.expected_calibration_error(truth, metrics.sigmoid(after)),
        "loss_before": metrics.log_loss(truth, values),
        "loss_after": metrics.log_loss(truth, after),
    }


def _choose(truth: np.ndarray, values: np.ndarray, owners: np.ndarray) -> tuple[str, dict[str, float]]:
    """The method, and the mean log loss of each that was tried on rows of groups it was not fitted to."""
    of_class = [len(np.unique(owners[truth == label])) for label in (0, 1)]
    able = [name for name, least in _GROUPS.items() if min(of_class) >= least / 2 and owners.max() + 1 >= least]
    if not able:
        return "temperature", {}
    from sklearn.model_selection import StratifiedGroupKFold  # half a second, which not every process needs

    losses = {name: np.zeros(len(truth)) for name in ("temperature", *able)}
    for inner, outer in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(values, truth, owners):
        if len(np.unique(truth[inner])) < 2:
            return "temperature", {}
        for name, loss in losses.items():
            loss[outer] = _loss(truth[outer], _FITS[name](truth[inner], values[inner])(values[outer]))
    best = "temperature"
    for name in able:
        # Rows of a group err together, so the doubt is over groups.
        gain = np.bincount(owners, losses[best] - losses[name])
        if gain.sum() > math.sqrt(len(gain)) * gain.std():
            best = name
    return best, {name: float(loss.mean()) for name, loss in losses.items()}


def _loss(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Cross entropy of each row, in nats."""
    return np.logaddexp(0.0, logits) - targets * logits


def _targets(truth: np.ndarray) -> np.ndarray:
    """Platt's: short of 0 and 1, so that classes that are told apart without fault give no infinite certainty."""
    tumors, normals = (truth == 1).sum(), (truth == 0).sum()
    return np.where(truth == 1, (tumors + 1) / (tumors + 2), 1 / (normals + 2))


def _temperature(truth: np.ndarray, values: np.ndarray) -> Map:
    from scipy import optimize  # slow to import, and an endpoint fits nothing

    targets = _targets(truth)

    def loss(log_temperature: float) -> float:
        return float(_loss(targets, values / math.exp(log_temperature)).mean())

    low, high = (math.log(bound) for bound in _TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return Map(temperature=math.exp(found.x))


def _platt(truth: np.ndarray, values: np.ndarray) -> Map:
    """A slope and a shift, for a network whose prior is not that of validation."""
    from scipy import optimize

    targets, scale = _targets(truth), max(float(np.abs(values).max()), 1e-6)
    x = values / scale  # the search is for numbers near 1

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        z = math.exp(point[0]) * x + point[1]
        off = (metrics.sigmoid(z) - targets) / len(x)
        return float(_loss(targets, z).mean()), np.array([math.exp(point[0]) * off @ x, off.sum()])

    low, high = (math.log(scale / bound) for bound in reversed(_TEMPERATURES))
    start = np.array([np.clip(math.log(scale), low, high), 0.0])
    found = optimize.minimize(loss, start, jac=True, bounds=[(low, high), (-50.0, 50.0)], method="L-BFGS-B")
    slope, shift = math.exp(found.x[0]) / scale, float(found.x[1])
    return Map(knots=((0.0, shift), (1.0, slope + shift)))


def _isotonic(truth: np.ndarray, values: np.ndarray) -> Map:
    """Corners at the middles of runs of rows; beyond the first and the last the slope is the temperature's."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, int(np.clip(len(order) // _BIN_ROWS, 2, _BINS)))
    size = np.array([len(part) for part in parts])
    middle = np.array([values[part].mean() for part in parts])
    rate = np.array([(truth[part].sum() + 0.5) / (len(part) + 1) for part in parts])
    rising = IsotonicRegression().fit_transform(np.arange(len(parts)), rate, sample_weight=size)
    corners: list[tuple[float, float]] = []
    for level in np.unique(rising):
        mine = rising == level
        x, y = float(np.average(middle[mine], weights=size[mine])), float(np.log(level) - np.log1p(-level))
        if not corners or min(x - corners[-1][0], y - corners[-1][1]) > _LEAST_RISE:
            corners.append((x, y))
    slope = 1 / _temperature(truth, values).temperature
    (first, bottom), (last, top) = corners[0], corners[-1]
    return Map(knots=((first - 1, bottom - slope), *corners, (last + 1, top + slope)))


_FITS: dict[str, Callable[[np.ndarray, np.ndarray], Map]] = {
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}
