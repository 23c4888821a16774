"""A trained network -> one that gives the same answers with less work, and nearer ones in bf16."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mri_ray.learn.cnn import Cnn


def quickened(net: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, and pool before ReLU; changes `net`, and returns it.

    net: in evaluation mode. What stands in no `nn.Sequential` (ResNet's blocks) is left as it is.
    """
    return exact_first(_within(net, lambda layers: _pooled_first(_folded(layers))))


def folded(net: nn.Module) -> nn.Module:
    """Fold batch norms only, for engines that know all else by themselves; changes `net`, and returns it."""
    return _within(net, _folded)


def exact_first(net: nn.Module) -> nn.Module:
    """Let bf16 not blur what is first seen of the pixels; changes `net`, and returns it."""
    if isinstance(net, Cnn):  # the others standardise pixels first
        block: Any = net.features[0]
        block[0] = OfPixels(block[0])
    return net


def _within(net: nn.Module, change: Callable[[list[nn.Module]], list[nn.Module]]) -> nn.Module:
    for name, child in net.named_children():
        setattr(net, name, _within(child, change))
    if type(net).forward is not nn.Sequential.forward:
        return net
    return nn.Sequential(*change(list(net.children())))


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and found and isinstance(found[-1], nn.Conv2d):
            # In float64: in float32 the sums round twice, which deep networks magnify.
            found[-1] = fuse_conv_bn_eval(found[-1].double(), layer.double()).float()
        else:
            found.append(layer)
    return found


def _pooled_first(layers: list[nn.Module]) -> list[nn.Module]:
    """Maximum and ReLU may change places: ReLU then has a quarter of the pixels."""
    found: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d) and layer.kernel_size == layer.stride == 2 and layer.padding == 0:
            last = [found.pop()] if found and isinstance(found[-1], nn.ReLU) else []
            found += [_Halved(), *last]
        else:
            found.append(layer)
    return found


class _Halved(nn.Module):
    """The maximum of 2 x 2 pixels: to the bit what `MaxPool2d(2)` gives, by two passes of torch's vectorised maximum.

    Torch's pooling of channels-last bf16 is slow on CPUs: a quarter of the CNN's time (torch 2.14).
    """

    def forward(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 3, 1)
        count, height, width, channels = rows.shape
        rows = rows[:, : height // 2 * 2, : width // 2 * 2]
        rows = torch.maximum(rows[:, 0::2], rows[:, 1::2]).reshape(count, height // 2, width // 2, 2, channels)
        return torch.maximum(rows[..., 0, :], rows[..., 1, :]).permute(0, 3, 1, 2)


class OfPixels(nn.Module):
    """A first convolution that bf16 does not blur: its rounding is half of the network's and more (measured).

    Pixels in [0, 1] are whole numbers of 1/255, which bf16 holds exactly, and each weight is the sum of two bf16
    numbers, as two equal channels: a kernel of nine products has room for them. whole: it is given whole numbers, up to
    255, always.
    """

    whole = False

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.plain = plain
        weight = plain.weight.detach().double() / 255
        high = weight.bfloat16()
        self.halves = copy.deepcopy(plain)
        self.halves.weight = nn.Parameter(torch.cat((high, (weight - high.double()).bfloat16()), dim=1).float())
        self.halves.bias = plain.bias

    def forward(self, images: Tensor) -> Tensor:
        if self.whole:
            return self.halves(torch.cat((images, images), dim=1))
        where = images.device.type
        if not torch.is_autocast_enabled(where) or torch.get_autocast_dtype(where) is not torch.bfloat16:
            return self.plain(images)
        pixels = (images.permute(0, 2, 3, 1) * 255).bfloat16()
        twice = pixels.expand(*pixels.shape[:3], 2).contiguous().permute(0, 3, 1, 2)
        return self.halves(twice)
