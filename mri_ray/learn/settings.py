"""Which network, and how it learns. Imports no torch, so that a config is checked at once."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from mri_ray.errors import ConfigError

NAMES = ("cnn", "resnet18", "mobilenet_v3_small", "efficientnet_b0")
SCHEDULES = ("cosine", "one-cycle", "constant")
_LATER = ("masks", "mirrors")  # fields of a network that bundles made before do not know


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and how large.

    width: channels of the CNN's first block, doubled by each block up to 8 * width. blocks: halvings of the picture.
    convolutions: in each block, or for every block its own. dense: units between pooling and output. masks: a mask head
    is trained along, where there are masks, and its evidence is weighed. These five set the CNN only.
    mirrors: an answer is the mean of a picture's and its mirror image's, at twice the cost.
    pretrained: URI of a state dict to start from, `.safetensors` or a `.pth` that torch loads with weights_only.
    """

    name: str = "cnn"
    input_size: int = 224
    width: int = 16
    blocks: int = 5
    convolutions: int | tuple[int, ...] = 1
    dense: int = 64
    dropout: float = 0.3
    masks: bool = False
    mirrors: bool = False
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"name: must be one of {', '.join(NAMES)}, got {self.name!r}")
        for field, low, high in (
            ("input_size", 32, 2048),
            ("width", 1, 256),
            ("blocks", 1, 8),
            ("dense", 1, 4096),
        ):
            value = getattr(self, field)
            if not _is_whole(value, low, high):
                raise ConfigError(f"{field}: must be a whole number from {low} to {high}, got {value!r}")
        if isinstance(self.convolutions, list):  # as JSON and YAML hold it
            object.__setattr__(self, "convolutions", tuple(self.convolutions))
        if len(self.by_block) != self.blocks or not all(_is_whole(number, 1, 4) for number in self.by_block):
            raise ConfigError(
                f"convolutions: must be a whole number from 1 to 4, or one for each of {self.blocks} blocks, got "
                f"{self.convolutions!r}"
            )
        if self.masks and (self.name != "cnn" or self.blocks < 2):
            raise ConfigError(f"masks: need the cnn with at least 2 blocks, got {self.name!r} with {self.blocks}")
        if self.name == "cnn" and self.input_size < 2**self.blocks:
            raise ConfigError(
                f"blocks: each halves the picture, so input_size {self.input_size} must be at least 2**blocks, "
                f"got {self.blocks}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout: must be at least 0 and below 1, got {self.dropout!r}")
        if self.pretrained is not None and not self.pretrained.endswith((".safetensors", ".pth", ".pt")):
            raise ConfigError(f"pretrained: must be the URI of a .safetensors, .pth or .pt, got {self.pretrained!r}")

    @property
    def by_block(self) -> tuple[int, ...]:
        """Convolutions of each block."""
        return self.convolutions if isinstance(self.convolutions, tuple) else (self.convolutions,) * self.blocks

    def decisive(self) -> dict[str, Any]:
        """What names the network: later fields count where they are set, so that older bundles keep their names."""
        plain = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW and its learning rate over time, and what is made smaller.

    warmup_epochs: of linear rise, may be a fraction; one-cycle has its own. clip_norm: largest norm of the whole
    gradient, 0 for no limit. Weight decay leaves biases and batch norm alone. average: what a running average of the
    weights keeps of itself at each step, such as 0.995; it is what is evaluated and kept; 0 for none. mixup: both
    parameters of the beta distribution that pictures are mixed by, 0 for none. mask_weight: of the masks' loss.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    warmup_epochs: float = 1.0
    schedule: str = "cosine"
    clip_norm: float = 5.0
    average: float = 0.0
    mixup: float = 0.0
    mask_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate: must be above 0 and finite, got {self.learning_rate!r}")
        for name in ("weight_decay", "warmup_epochs", "clip_norm", "mixup", "mask_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: must be at least 0 and finite, got {getattr(self, name)!r}")
        for name in ("label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 0 and below 1, got {getattr(self, name)!r}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How the validation side makes logits mean probabilities, and where the line is drawn.

    method: `temperature`, `platt` (slope and shift), `isotonic` (a rising line of several pieces), `none`; `auto`: the
    first, unless another does better on groups it was not fitted to. target: which rate of validation must be at least
    `at_least`: `sensitivity` or `specificity`, `none` for a threshold of 0.5. bound: what of that rate must reach it,
    its lower Wilson bound or the estimate itself. refer: the share of validation, nearest the threshold, that is
    referred; 0 for none.
    """

    method: str = "auto"
    target: str = "sensitivity"
    at_least: float = 0.95
    bound: str = "lower"
    refer: float = 0.05

    def __post_init__(self) -> None:
        for name, known in (
            ("method", ("auto", "temperature", "platt", "isotonic", "none")),
            ("target", ("sensitivity", "specificity", "none")),
            ("bound", ("lower", "estimate")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.at_least < 1:
            raise ConfigError(f"at_least: must lie between 0 and 1, both excluded, got {self.at_least!r}")
        if not 0 <= self.refer < 1:
            raise ConfigError(f"refer: must be at least 0 and below 1, got {self.refer!r}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How figures are given. rounds: of the bootstrap over groups. prevalences: for which predictive values stand."""

    rounds: int = 1000
    prevalences: tuple[float, ...] = (0.01, 0.1, 0.3)

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or not 100 <= self.rounds <= 100_000:
            raise ConfigError(f"rounds: must be a whole number from 100 to 100000, got {self.rounds!r}")
        if not all(0 < value < 1 for value in self.prevalences):
            raise ConfigError(f"prevalences: must lie between 0 and 1, both excluded, got {self.prevalences!r}")
