"""The default network: plain convolutional blocks, and for masks a decoder whose evidence is weighed too."""

from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_ray.learn.settings import ModelConfig

CLASSES = 2
_TOP = 16  # cells of a mask that its evidence is the mean of: one alone may be noise
_EVIDENCE = 3  # numbers that a mask gives beside its pooled features
_RARE = -3.0  # logit of lesion before anything is learned: few pixels are


class Answer(NamedTuple):
    """logits (N, 2) in the order (normal, tumor); mask: logits of lesion (N, 1, s, s), None without a mask head."""

    logits: Tensor
    mask: Tensor | None


def answer(given: Tensor | Answer) -> Answer:
    """What a network gave: one without a mask head gives its logits alone."""
    return given if isinstance(given, Answer) else Answer(given, None)


class Maps(NamedTuple):
    """What convolutions see: features (N, C, h, w) of the last block.

    With a mask head, mask: its logits of lesion (N, 1, s, s), and finest: what they are drawn from, (N, c, s, s).
    """

    features: Tensor
    mask: Tensor | None = None
    finest: Tensor | None = None


class Network(nn.Module):
    """What all networks share: outside of training an answer is the mean of a picture's and its mirror's, if so set.

    Whoever computes an answer (validation, batch scoring, a service, proofs) then gets it so, and none can forget it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mirrors = config.mirrors

    def forward(self, images: Tensor) -> Tensor | Answer:
        if self.training or not self.mirrors:
            return self.single(images)
        one, other = answer(self.single(images)), answer(self.single(images.flip(3)))
        logits = (one.logits + other.logits) / 2
        if one.mask is None or other.mask is None:
            return logits
        return Answer(logits, (one.mask + other.mask.flip(3)) / 2)

    def single(self, images: Tensor) -> Tensor | Answer:
        """The answer for pictures as they are."""
        raise NotImplementedError


class Cnn(Network):
    """Blocks of 3x3 convolution, batch norm, ReLU and max pooling; global pooling; dense layers.

    With masks, a decoder marks the lesion at half the picture's side, and what it sees goes into the dense layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = [config.width * min(2**i, 8) for i in range(config.blocks)]
        sizes = zip(pairwise([1, *channels]), config.by_block, strict=True)
        self.features = nn.Sequential(*(_block(given, out, number) for (given, out), number in sizes))
        self.decoder = _Decoder(channels) if config.masks else None
        evidence = _EVIDENCE + channels[0] if config.masks else 0
        self.head = nn.Sequential(
            OrderedDict(
                dense=nn.Linear(2 * channels[-1] + evidence, config.dense),
                relu=nn.ReLU(inplace=True),
                dropout=nn.Dropout(config.dropout),
                output=nn.Linear(config.dense, CLASSES),
            )
        )

    def single(self, images: Tensor) -> Tensor | Answer:
        return self.judged(self.maps(images))

    def maps(self, images: Tensor) -> Maps:
        """Nearly all of the work."""
        levels = [images]
        for block in self.features:
            levels.append(block(levels[-1]))
        return Maps(levels[-1]) if self.decoder is None else Maps(levels[-1], *self.decoder(levels[1:]))

    def judged(self, maps: Maps) -> Tensor | Answer:
        """The answer that follows from them, whoever computed them."""
        features = maps.features
        # The mean alone dilutes a lesion of a few pixels; the maximum alone follows noise.
        pooled = [features.mean(dim=(2, 3)), features.amax(dim=(2, 3))]
        if maps.mask is None or maps.finest is None:
            return self.head(torch.cat(pooled, dim=1))
        mask = _wide(maps.mask)
        seen = _evidence(mask, _wide(maps.finest))
        return Answer(self.head(torch.cat([*(_wide(part) for part in pooled), seen], dim=1)), mask)


class _Decoder(nn.Module):
    """The blocks' outputs, finest first -> logits of lesion at the finest's size, and what they are drawn from.

    From the coarsest on, each level is brought to the next one's channels and size, added to it and convolved.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(coarse, fine, 1, bias=False) for fine, coarse in pairwise(channels))
        self.merge = nn.ModuleList(_convolved(fine, fine) for fine in channels[:-1])
        self.mask = nn.Conv2d(channels[0], 1, 1)
        nn.init.constant_(self.mask.bias, _RARE)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        features = levels[-1]
        for across, merge, level in reversed(list(zip(self.across, self.merge, levels, strict=False))):
            features = merge(F.interpolate(across(features), size=level.shape[2:], mode="nearest") + level)
        return self.mask(features), features


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: what autocast made narrow is too coarse to be summed up."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _evidence(mask: Tensor, features: Tensor) -> Tensor:
    """How large and how certain the lesion is, and what lies in it; scaled to be of the order of 1."""
    probability = torch.sigmoid(mask)
    area = probability.sum(dim=(1, 2, 3))
    cells = mask.flatten(1)
    top = cells.topk(min(_TOP, cells.shape[1]), dim=1).values
    within = (features * probability).sum(dim=(2, 3)) / (area + 1)[:, None]
    return torch.cat([torch.stack([torch.log1p(area), top.mean(dim=1), top[:, 0]], dim=1) / 3, within], dim=1)


def _block(channels: int, out: int, convolutions: int) -> nn.Sequential:
    layers = [layer for i in range(convolutions) for layer in _convolved(channels if i == 0 else out, out)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def _convolved(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
