"""Networks: the default CNN and torchvision backbones behind one build.

Every network takes float (N, 1, S, S) in [0, 1] and gives logits (N, 2) in the order (normal, tumor), or, where it has
a mask head, a `cnn.Answer`.
"""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from mri_ray.errors import ArchiveError, ConfigError
from mri_ray.learn.cnn import CLASSES, Cnn, Network
from mri_ray.learn.settings import ModelConfig

# Where each network keeps its last layer, which pretrained weights for other classes cannot fill.
_HEADS = {
    "cnn": "head.output.",
    "resnet18": "net.fc.",
    "mobilenet_v3_small": "net.classifier.3.",
    "efficientnet_b0": "net.classifier.1.",
}


def build(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """The network with fresh weights, the same for the same seed; `load_pretrained` is a step of its own.

    Torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Cnn(config) if config.name == "cnn" else _Backbone(config)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class _Backbone(Network):
    """A torchvision network with one grey input channel and two outputs.

    Pictures are standardised as its pretrained weights expect, with the means of the three colours' constants.
    """

    mean, std = 0.449, 0.226

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.net = _torchvision(config)

    def single(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


def _torchvision(config: ModelConfig) -> nn.Module:
    from torchvision import models  # a second to import, and the CNN does not need it

    if config.name == "resnet18":
        net = models.resnet18(weights=None)
        net.conv1 = _grey(net.conv1)
        net.fc = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(net.fc.in_features, CLASSES))
        return net
    if config.name == "mobilenet_v3_small":
        net = models.mobilenet_v3_small(weights=None, num_classes=CLASSES, dropout=config.dropout)
    else:
        net = models.efficientnet_b0(weights=None, num_classes=CLASSES, dropout=config.dropout)
    net.features[0][0] = _grey(net.features[0][0])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # MobileNet's 0.01 needs hundreds of steps before evaluation means anything
    return net


def _grey(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution for one channel: its kernels summed, which is what three equal channels would give."""
    grey = nn.Conv2d(1, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]
    grey.weight = nn.Parameter(conv.weight.detach().sum(dim=1, keepdim=True))
    return grey


def load_pretrained(module: nn.Module, config: ModelConfig) -> None:
    """Fill a network from `config.pretrained`; nothing when that is None.

    Kernels for three input channels are summed to one. The last layer keeps its fresh weights when the file's has
    other classes. Raises ConfigError when the file cannot be read or any other key is missing, unknown or of another
    shape.
    """
    if config.pretrained is None:
        return
    given = _read_weights(config.pretrained)
    own = module.state_dict()
    if config.name != "cnn" and not any(key.startswith("net.") for key in given):
        given = {f"net.{key}": value for key, value in given.items()}
    fitted, head = {}, _HEADS[config.name]
    for key, value in given.items():
        expected = own.get(key)
        if expected is not None and value.ndim == 4 and value.shape[1] == 3 and expected.shape[1] == 1:
            value = value.sum(dim=1, keepdim=True)
        if key.startswith(head) and (expected is None or value.shape != expected.shape):
            continue
        fitted[key] = value
    fault = misfit({k: v for k, v in own.items() if k in fitted or not k.startswith(head)}, fitted)
    if fault:
        raise ConfigError(f"pretrained: weights must fit {config.name}, got {fault} in {config.pretrained}")
    module.load_state_dict(own | fitted)


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How given weights differ from a network's own in keys and shapes, in one line; empty when they fit."""
    # Files written before batch norm counted its batches lack that key; it changes nothing.
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [k for k in given if k not in own]
    shapes = [
        f"{k} {tuple(given[k].shape)} for {tuple(own[k].shape)}"
        for k in given
        if k in own and given[k].shape != own[k].shape
    ]
    return "; ".join(
        f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if keys
    )


def _read_weights(uri: str) -> dict[str, Tensor]:
    from mri_ray.archive.storage import Location  # object stores are needed here only

    folder, _, name = uri.rpartition("/")
    try:
        data = Location.of(folder or ".").read(name)
        given = safetensors.torch.load(data) if name.endswith(".safetensors") else _read_pth(data)
    except ArchiveError:
        raise
    except Exception as exc:  # torch, pickle and zip each raise their own for a file that is no state dict
        raise ConfigError(f"pretrained: must be a readable state dict, got {type(exc).__name__}: {uri}") from exc
    if not given or not all(isinstance(value, Tensor) for value in given.values()):
        raise ConfigError(f"pretrained: must hold tensors by name only, got something else in {uri}")
    return {key.removeprefix("module."): value for key, value in given.items()}


def _read_pth(data: bytes) -> dict[str, Tensor]:
    from io import BytesIO

    given = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    return dict(given.get("state_dict", given))
