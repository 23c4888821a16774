"""Ways to compute an answer: which may be used in place of plain fp32, by what was proven when the bundle was made."""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch

from mri_ray.errors import BundleError
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.device import Precision, choose_precision

BOUND = 0.01  # of |dp|
_SAFETY = 1.5  # slices to come may be further off than those it was tried on
_WORTH = 0.4  # of the slices; with more to compute again, fp32 for all is faster

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A way's answers against those of plain fp32 for the same slices.

    max_dp, mean_dp, flips (positive for negative, or the reverse): with the slices that are `doubtful` computed again
    in fp32. again: the part of them. margin: of the logit, by which the fast answers alone may be off.
    """

    slices: int
    max_dp: float
    mean_dp: float
    flips: int
    again: float
    margin: float

    @property
    def holds(self) -> bool:
        return self.max_dp <= BOUND and not self.flips

    @property
    def pays(self) -> bool:
        return self.again <= _WORTH


def margin(away: np.ndarray) -> float:
    """Of a way whose logits were so far from fp32's."""
    return _SAFETY * float(np.abs(away).max())


def doubtful(logit: np.ndarray, bundle: Bundle, margin: float) -> np.ndarray:
    """Which logits are too near a decision, or to where the probability is steep, for an error of `margin` to pass.

    bool (N,).
    """
    low, middle, high = (bundle.calibrated(logit.astype(np.float64) + away) for away in (-margin, 0.0, margin))
    least, p, most = (1 / (1 + np.exp(-z)) for z in (low, middle, high))
    doubt = np.maximum(most - p, p - least) > BOUND
    for edge in {bundle.threshold, *(bundle.refer or ())} - {0.0, 1.0}:
        line = math.log(edge / (1 - edge))
        doubt |= (low <= line) & (line <= high)
    return doubt


def way(device: torch.device, precision: Precision) -> str:
    """Its name in `Bundle.proofs`."""
    return f"{device.type}-{precision.value}"


def choose(bundle: Bundle, wanted: str, device: torch.device) -> tuple[Precision, Proof | None]:
    """As `choose_precision`, but `auto` gives what the bundle has proven on such a device, else fp32.

    Raises BundleError when another precision is asked for by name and was proven to answer otherwise. One that was
    never tried is taken at its word, without a proof.
    """
    precision = choose_precision(wanted, device)
    if precision is Precision.FP32:
        return precision, None
    name = way(device, precision)
    found = bundle.proofs.get(name)
    proof = None if found is None else Proof(**found)
    fault = None
    if proof is None and wanted == "auto":
        fault = "the bundle holds no proof that its answers are those of fp32"
    elif proof is not None and not proof.holds:
        fault = (
            f"answers must be within {BOUND:g} of those of fp32, and no decision another, got a difference of "
            f"{proof.max_dp:.4g} and {proof.flips} other decisions on {proof.slices} slices of validation"
        )
    elif proof is not None and not proof.pays and wanted == "auto":
        fault = f"{proof.again:.0%} of the slices would have to be computed again"
    if fault is None:
        return precision, proof
    if wanted != "auto":
        raise BundleError(f"precision: {name}: {fault}; use auto or fp32")
    log.warning("%s: %s; fp32 is used", name, fault)
    return Precision.FP32, None
