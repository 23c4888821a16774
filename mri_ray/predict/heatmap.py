"""Where a bundle sees the tumor, and how well that agrees with masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_ray import resample
from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.cnn import Network, answer
from mri_ray.learn.loop import to_input

_BATCH = 16
CUT = 0.5  # a pixel from there on is marked
# The layer whose output is weighed, the last that knows places, by network.
_LAYERS = {
    "cnn": "features",
    "resnet18": "net.layer4",
    "mobilenet_v3_small": "net.features",
    "efficientnet_b0": "net.features",
}


def heatmaps(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """How much each pixel speaks for tumor, float32 (N, S, S) from 0 to 1. images: uint8 (N, 1, S, S).

    What the mask head takes each pixel's probability of lesion to be; without one, the last features by how much the
    logit rises with each (Grad-CAM, place by place: HiResCAM), where they speak for tumor, the picture's highest as 1.
    Computed in fp32 on the CPU: for pictures that people look at.
    """
    net = module(bundle)
    assert isinstance(net, Network)
    layer = net.get_submodule(_LAYERS[bundle.model.name])
    assert isinstance(layer, nn.Sequential)
    found = [np.empty((0, *images.shape[2:]), np.float32)]
    for start in range(0, len(images), _BATCH):
        batch = to_input(torch.from_numpy(images[start : start + _BATCH].copy()), torch.device("cpu"))
        with torch.inference_mode():
            mask = answer(net(batch)).mask if bundle.model.masks else None
        heat = _of_gradient(net, layer[-1], batch) if mask is None else torch.sigmoid(mask)
        heat = F.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)
        found.append(heat[:, 0].numpy())
    return np.concatenate(found)


def _of_gradient(net: Network, layer: nn.Module, images: Tensor) -> Tensor:
    """float32 (N, 1, s, s) of the features' size."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, given, features: seen.append(features))
    try:
        z = answer(net.single(images)).logits
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad((z[:, 1] - z[:, 0]).sum(), seen[0])
    heat = (gradient * seen[0].detach()).sum(dim=1, keepdim=True).clamp_min(0)
    return heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Heat maps against masks, arrays (N,): pixels that both mark, that the heat map does, that the mask does; hit:
    whether the hottest pixel is marked."""

    both: np.ndarray
    marked: np.ndarray
    truth: np.ndarray
    hit: np.ndarray


def agreement(heat: np.ndarray, masks: np.ndarray) -> Agreement:
    """heat: float32 (N, S, S). masks: uint8 (N, 1, S, S), above 0 where lesion is."""
    truth, marked = masks[:, 0] > 0, heat >= CUT
    hottest = heat.reshape(len(heat), -1).argmax(axis=1) if len(heat) else np.zeros(0, np.int64)
    return Agreement(
        both=(truth & marked).sum(axis=(1, 2)),
        marked=marked.sum(axis=(1, 2)),
        truth=truth.sum(axis=(1, 2)),
        hit=np.take_along_axis(truth.reshape(len(heat), -1), hottest[:, None], axis=1)[:, 0],
    )


def figures(found: Agreement, group: np.ndarray) -> dict[str, Any]:
    """What heat maps are worth on slices with known masks, normal ones among them.

    group: (N,), whose each slice is, patient or study. dice: mean over groups that have a lesion, each as one volume:
    what is marked on normal slices counts against it. dice_slices: mean over slices with a lesion. extent: median over
    those groups of what is marked as a part of the lesion, in pixels. pointing: share of the slices with a lesion whose
    hottest pixel lies in it. `_bootstrap`: intervals of 95 %, groups drawn; None of fewer than 5.
    """
    numbers = np.unique(group, return_inverse=True)[1]
    both, marked, truth = (np.bincount(numbers, weights=part) for part in (found.both, found.marked, found.truth))
    volumes, slices = truth > 0, found.truth > 0
    dice = 2 * both[volumes] / (marked + truth)[volumes]
    by_slice = 2 * found.both[slices] / (found.marked + found.truth)[slices]
    extent = marked[volumes] / truth[volumes]
    count = len(volumes)
    hits = np.bincount(numbers[slices], weights=found.hit[slices], minlength=count)[volumes]
    lesions = np.bincount(numbers[slices], minlength=count)[volumes]
    return {
        "slices": len(found.truth),
        "slices_with_lesion": int(slices.sum()),
        "groups": int(volumes.sum()),
        "dice": float(dice.mean()) if dice.size else None,
        "dice_bootstrap": _spread(dice, np.ones(len(dice))),
        "dice_lowest": float(dice.min()) if dice.size else None,
        "dice_slices": float(by_slice.mean()) if by_slice.size else None,
        "extent": float(np.median(extent)) if extent.size else None,
        "pointing": float(found.hit[slices].mean()) if slices.any() else None,
        "pointing_bootstrap": _spread(hits, lesions),
    }


def _spread(sums: np.ndarray, counts: np.ndarray) -> list[float] | None:
    """The interval of the ratio of what groups sum up to, arrays (groups,)."""
    if len(sums) < resample.LEAST_GROUPS:
        return None
    drawn = np.concatenate(
        [weights @ sums / (weights @ counts) for weights in resample.draws(len(sums), resample.ROUNDS, 0)]
    )
    return np.quantile(drawn, (0.025, 0.975)).tolist()
