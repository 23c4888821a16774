"""Trying the fast ways of computing on some slices, when a bundle is made."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.device import Precision, choose_device, choose_precision
from mri_ray.predict.predictor import Predictor, decide, probability
from mri_ray.predict.ways import Proof, way
from mri_ray.records import Decision

SLICES = 256  # show a way that is wrong; a few seconds
_EMULATED_SLICES = 32  # where a processor computes bf16 by other means, ten times slower


def prove(bundle: Bundle, images: np.ndarray) -> dict[str, dict[str, Any]]:
    """`ways.Proof` by way, for this machine's devices. images: uint8 (N, 1, S, S) of validation, at most SLICES used.

    The CPU's bf16 is tried wherever bundles are made, since processors that have it may score with them.
    """
    images = images[:SLICES]
    if not len(images):
        return {}
    cpu, device = torch.device("cpu"), choose_device()
    tried = {(cpu, Precision.FP32), (cpu, Precision.BF16), (device, choose_precision("auto", device))}
    plain = _plain(bundle, images)
    found = {}
    for where, precision in sorted(tried, key=str):
        emulated = precision is Precision.BF16 and choose_precision("auto", where) is not Precision.BF16
        some = images[:_EMULATED_SLICES] if emulated else images
        unproven = Predictor(replace(bundle, proofs={}), precision=precision.value, device=where)
        found[way(where, precision)] = asdict(_compared(bundle, unproven.predict(some).probability, plain[: len(some)]))
    return found


def _plain(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """The reference: the network as it was trained, eager, in float32 on the CPU."""
    net = module(bundle)
    with torch.inference_mode():
        z = torch.cat([net(part.float() / 255) for part in torch.from_numpy(images.copy()).split(16)])
    return probability((z[:, 1] - z[:, 0]).numpy(), bundle.temperature)


def _compared(bundle: Bundle, fast: np.ndarray, plain: np.ndarray) -> Proof:
    decisions = [decide(values, threshold=bundle.threshold, refer=bundle.refer) for values in (fast, plain)]
    flips = sum({*pair} == {Decision.POSITIVE, Decision.NEGATIVE} for pair in zip(*decisions, strict=True))
    away = np.abs(fast.astype(np.float64) - plain)
    return Proof(slices=len(plain), max_dp=float(away.max()), mean_dp=float(away.mean()), flips=flips)
