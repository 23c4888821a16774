"""Trying the fast ways of computing on some slices, when a bundle is made."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.cnn import answer
from mri_ray.learn.device import Precision, choose_device, choose_precision
from mri_ray.predict.predictor import Predictor, decide, probability
from mri_ray.predict.vino import is_there
from mri_ray.predict.ways import NCNN, OPENVINO, Proof, doubtful, margin, way
from mri_ray.records import Decision

SLICES = 256  # show a way that is wrong; a few seconds
_EMULATED_SLICES = 32  # where a processor computes bf16 by other means, ten times slower


def prove(bundle: Bundle, images: np.ndarray) -> dict[str, dict[str, Any]]:
    """`ways.Proof` by way, for this machine's devices. images: uint8 (N, 1, S, S) of validation, at most SLICES used.

    The CPU's bf16 is tried wherever bundles are made, since processors that have it may score with them. OpenVINO's is
    not: on a processor without it, it computes in fp32 whatever it is told.
    """
    images = images[:SLICES]
    if not len(images):
        return {}
    cpu, device = torch.device("cpu"), choose_device()
    plain = _plain(bundle, images)
    tried = {(cpu, Precision.BF16), (device, choose_precision("auto", device))}
    proofs = {
        way(*tried_way): _proven(bundle, images, plain, *tried_way)
        for tried_way in sorted(tried, key=str)
        if tried_way[1] is not Precision.FP32
    }
    if is_there() and choose_precision("auto", cpu) is Precision.BF16:
        proofs[way(cpu, OPENVINO)] = _proven(bundle, images, plain, cpu, Precision.BF16, engine=OPENVINO)
    if bundle.model.name == "cnn":
        proofs[way(cpu, NCNN)] = _proven(bundle, images, plain, cpu, Precision.FP32, engine=NCNN)
    return {name: asdict(proof) for name, proof in proofs.items()}


def _plain(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Logits of the network as it was trained, eager, in float32 on the CPU."""
    net = module(bundle)
    with torch.inference_mode():
        parts = torch.from_numpy(images.copy()).split(16)
        z = torch.cat([answer(net(part.float() / 255)).logits for part in parts])
    return (z[:, 1] - z[:, 0]).numpy()


def _proven(
    bundle: Bundle,
    images: np.ndarray,
    plain: np.ndarray,
    device: torch.device,
    precision: Precision,
    engine: str = "torch",
) -> Proof:
    emulated = precision is Precision.BF16 and choose_precision("auto", device) is not Precision.BF16
    if emulated:
        images, plain = images[:_EMULATED_SLICES], plain[:_EMULATED_SLICES]
    unproven = Predictor(replace(bundle, proofs={}), precision=precision.value, device=device, engine=engine)
    fast = unproven.predict(images).logit
    allowed = margin(fast - plain)
    again = doubtful(fast, bundle, allowed)
    answers = [probability(logit, bundle) for logit in (np.where(again, plain, fast), plain)]
    decisions = [decide(values, threshold=bundle.threshold, refer=bundle.refer) for values in answers]
    away = np.abs(answers[0].astype(np.float64) - answers[1])
    return Proof(
        slices=len(images),
        max_dp=float(away.max()),
        mean_dp=float(away.mean()),
        flips=sum({*pair} == {Decision.POSITIVE, Decision.NEGATIVE} for pair in zip(*decisions, strict=True)),
        again=float(again.mean()),
        margin=allowed,
    )
