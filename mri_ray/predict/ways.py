"""Ways to compute an answer: which may be used in place of plain fp32, by what was proven when the bundle was made."""

import logging
from dataclasses import dataclass

import torch

from mri_ray.errors import BundleError
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.device import Precision, choose_precision

BOUND = 0.01  # of |dp|

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A way's answers against those of plain fp32 for the same slices. flips: positive for negative, or the reverse."""

    slices: int
    max_dp: float
    mean_dp: float
    flips: int

    @property
    def holds(self) -> bool:
        return self.max_dp <= BOUND and not self.flips


def way(device: torch.device, precision: Precision) -> str:
    """Its name in `Bundle.proofs`."""
    return f"{device.type}-{precision.value}"


def choose(bundle: Bundle, wanted: str, device: torch.device) -> Precision:
    """As `choose_precision`, but `auto` gives what the bundle has proven on such a device, else fp32.

    Raises BundleError when another precision is asked for by name and was proven to answer otherwise. One that was
    never tried is taken at its word.
    """
    precision = choose_precision(wanted, device)
    found = bundle.proofs.get(way(device, precision))
    proof = None if found is None else Proof(**found)
    if precision is Precision.FP32 or (proof is not None and proof.holds) or (proof is None and wanted != "auto"):
        return precision
    if proof is None:
        log.warning(
            "%s: the bundle holds no proof that its answers are those of fp32, so fp32 is used", way(device, precision)
        )
        return Precision.FP32
    fault = (
        f"{way(device, precision)}: answers must be within {BOUND:g} of those of fp32, and no decision another, got a "
        f"difference of {proof.max_dp:.4g} and {proof.flips} other decisions on {proof.slices} slices of validation"
    )
    if wanted != "auto":
        raise BundleError(f"precision: {fault}; use auto or fp32")
    log.warning("%s; fp32 is used", fault)
    return Precision.FP32
