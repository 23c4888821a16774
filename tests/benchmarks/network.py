"""The bundle's network as the contestants (b), (c) and (d) run it, without the project's Predictor."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mri_ray.archive.storage import Location
from mri_ray.learn.bundle import load, module

Answer = Callable[[torch.Tensor], np.ndarray]


def eager(bundle: str) -> Answer:
    """As written by anybody: float (N, 1, S, S) in [0, 1] -> the tumour's probability, float32 (N,)."""
    net = module(load(Location.of(bundle)))

    def answer(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.softmax(net(images), dim=1)[:, 1].numpy()

    return answer


def ours(bundle: str) -> Answer:
    """The same at the precision and memory layout of the job."""
    net = module(load(Location.of(bundle))).to(memory_format=torch.channels_last)

    def answer(images: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(images.contiguous(memory_format=torch.channels_last))
        return torch.softmax(logits.float(), dim=1)[:, 1].numpy()

    return answer


PRECISIONS: dict[str, Callable[[str], Answer]] = {"written": eager, "ours": ours}


class _Halved(nn.Module):
    """The maximum of 2 x 2 pixels, channels-last and of even sides: two passes of torch's vectorised maximum.

    To the bit what MaxPool2d(2) gives, which is slow in bf16 (measured with torch 2.14: a quarter of the network).
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.permute(0, 2, 3, 1)
        count, height, width, channels = rows.shape
        rows = torch.maximum(rows[:, 0::2], rows[:, 1::2]).view(count, height // 2, width // 2, 2, channels)
        return torch.maximum(rows[..., 0, :], rows[..., 1, :]).permute(0, 3, 1, 2)


def quickened(features: nn.Sequential) -> nn.Sequential:
    """The CNN's blocks with the same answers: max and ReLU may change places, so ReLU has a quarter of the work."""
    blocks = []
    for block in features:
        *layers, relu, _ = block
        blocks.append(nn.Sequential(*layers, _Halved(), relu))
    return nn.Sequential(*blocks)
