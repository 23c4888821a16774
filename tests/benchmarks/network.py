"""The bundle's network as the contestants (c) and (d) run it, without the project's Predictor."""

from collections.abc import Callable

import numpy as np
import torch

from mri_ray.archive.storage import Location
from mri_ray.learn.bundle import load, module
from mri_ray.learn.device import autocast, choose_precision

Answer = Callable[[torch.Tensor], np.ndarray]


def eager(bundle: str) -> Answer:
    """As written by anybody: float (N, 1, S, S) in [0, 1] -> the tumour's probability, float32 (N,)."""
    net = module(load(Location.of(bundle)))

    def answer(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.softmax(net(images), dim=1)[:, 1].numpy()

    return answer


def ours(bundle: str) -> Answer:
    """The same at the precision and memory layout of the job on this machine."""
    cpu = torch.device("cpu")
    precision = choose_precision("auto", cpu)
    net = module(load(Location.of(bundle))).to(memory_format=torch.channels_last)

    def answer(images: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), autocast(precision, cpu):
            logits = net(images.contiguous(memory_format=torch.channels_last))
        return torch.softmax(logits.float(), dim=1)[:, 1].numpy()

    return answer


PRECISIONS: dict[str, Callable[[str], Answer]] = {"written": eager, "ours": ours}
