"""A CNN's convolutions by ncnn, which computes those of 3x3 in fp32 with fewer multiplications (Winograd's way).

On a core without bf16 it takes about two thirds of torch's time (README, notes).
"""

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mri_ray.errors import RunError
from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.cnn import Answer, Cnn, Maps, Network
from mri_ray.predict.quick import folded

_INPUT = "pixels"


class Winograd(Network):
    """A bundle's CNN, whose maps come from ncnn and whose dense layers, and all else, from torch; for float32 on a CPU.

    One picture at a time: its answer cannot depend on others. threads: None: as many as torch has now.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None) -> None:
        super().__init__(bundle.model)
        self.eval()
        net = folded(module(bundle))
        if not isinstance(net, Cnn):
            raise TypeError(f"network: must be the CNN, got {type(net).__name__}")
        self._judge = net
        graph = _Graph()
        self._outputs = graph.draw(net, bundle.prepare.size)
        self._maps = graph.load(threads or torch.get_num_threads())

    def single(self, images: Tensor) -> Tensor | Answer:
        import ncnn  # type: ignore[import-untyped,unused-ignore]

        found: list[list[Tensor]] = [[] for _ in self._outputs]
        for image in images.numpy():
            pixels = np.ascontiguousarray(image)  # has a name, since what ncnn is given does not keep it
            computing = self._maps.create_extractor()
            computing.input(_INPUT, ncnn.Mat(pixels))
            for name, parts in zip(self._outputs, found, strict=True):
                failed, values = computing.extract(name)
                if failed:
                    raise RunError(f"ncnn: must compute {name}, got its error {failed}")
                parts.append(torch.from_numpy(np.array(values)))
        return self._judge.judged(Maps(*(torch.stack(parts) for parts in found)))


class _Graph:
    """A network in ncnn's words: a line for each layer, and the weights in their order."""

    def __init__(self) -> None:
        self._lines = [f"Input {_INPUT} 0 1 {_INPUT}"]
        self._weights = bytearray()
        self._values = 1

    def draw(self, net: Cnn, size: int) -> list[str]:
        """For pictures of `size`; returns the names of what `Maps` holds, in its order."""
        levels, kept = [_INPUT], []
        for number, block in enumerate(net.features, 1):
            last = self._sequence(block, levels[-1])
            onward, aside = self._split(last) if net.decoder is not None and number < len(net.features) else (last, "")
            levels.append(onward)
            kept.append(aside)
        if net.decoder is None:
            return [levels[-1]]
        features, value = self._split(levels[-1])
        steps = list(zip(net.decoder.across, net.decoder.merge, kept[:-1], strict=True))
        for depth, (across, merge, level) in reversed(list(enumerate(steps, 1))):
            side = size >> depth
            value = self._sequence([across], value)
            value = self._layer("Interp", [value], "0=1", f"3={side}", f"4={side}")  # 1: the nearest pixel
            value = self._sequence(merge, self._layer("BinaryOp", [value, level], "0=0"))  # 0: their sum
        value, finest = self._split(value)
        return [features, self._sequence([net.decoder.mask], value), finest]

    def load(self, threads: int) -> Any:
        import ncnn

        net = ncnn.Net()
        net.opt.num_threads = threads
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):  # which Arm would take
            setattr(net.opt, f"use_{option}", False)
        net.opt.use_winograd63_convolution = False  # tiles of 8 x 8: half as exact as those of 6 x 6, and no faster
        magic = "7767517"
        text = "\n".join([magic, f"{len(self._lines)} {self._values}", *self._lines, ""])
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:  # its loader of bytes takes text only
            file.write(self._weights)
            file.flush()
            if net.load_param_mem(text) or net.load_model(file.name):
                raise RunError("ncnn: must load the network, could not")
        return net

    def _sequence(self, given: Iterable[nn.Module] | nn.Module, value: str) -> str:
        layers = list(given.children()) if isinstance(given, nn.Module) else list(given)
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d):
                value = self._convolution(layer, value, relu=isinstance(after, nn.ReLU))
            elif isinstance(layer, nn.MaxPool2d):
                value = self._layer("Pooling", [value], "0=0", "1=2", "2=2", "5=1")
            elif not isinstance(layer, nn.ReLU):
                raise TypeError(f"layer: must be a convolution, ReLU or pooling, got {type(layer).__name__}")
        return value

    def _convolution(self, layer: nn.Conv2d, value: str, *, relu: bool) -> str:
        weight = layer.weight.detach().numpy()
        self._weights += bytes(4)  # zero: as they are, float32
        self._weights += weight.astype("<f4").tobytes()
        if layer.bias is not None:
            self._weights += layer.bias.detach().numpy().astype("<f4").tobytes()
        side, padding = layer.kernel_size[0], int(layer.padding[0])
        biased = int(layer.bias is not None)
        told = {0: layer.out_channels, 1: side, 4: padding, 5: biased, 6: weight.size, 9: int(relu)}
        return self._layer("Convolution", [value], *(f"{key}={number}" for key, number in told.items()))

    def _split(self, value: str) -> tuple[str, str]:
        """What two layers read: each value has one reader only."""
        one, other = f"{value}a", f"{value}b"
        self._lines.append(f"Split split{len(self._lines)} 1 2 {value} {one} {other}")
        self._values += 2
        return one, other

    def _layer(self, kind: str, values: list[str], *told: str) -> str:
        made = f"v{len(self._lines)}"
        self._lines.append(" ".join([kind, f"l{len(self._lines)}", str(len(values)), "1", *values, made, *told]))
        self._values += 1
        return made
