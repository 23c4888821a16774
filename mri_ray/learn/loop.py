"""Steps of training and evaluation in plain torch; who calls them decides on how many processes.

With DistributedDataParallel every process must bring the same number of batches to `train_steps`.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_ray.errors import ConfigError, TrainingFailed
from mri_ray.learn.device import Precision, autocast
from mri_ray.learn.model import misfit
from mri_ray.learn.settings import OptimiserConfig

_CHECK_EVERY = 16  # steps between looks at the loss: each look makes the host wait for a GPU
_LOWEST = 0.01  # where the cosine ends, as a part of the learning rate


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of the step alone, so that a resumed run needs nothing but its step count."""

    learning_rate: float
    warmup_steps: int
    total_steps: int
    kind: str = "cosine"

    @classmethod
    def of(cls, config: OptimiserConfig, *, steps_per_epoch: int, epochs: int) -> "Schedule":
        total = steps_per_epoch * epochs
        warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
        return cls(learning_rate=config.learning_rate, warmup_steps=warmup, total_steps=total, kind=config.schedule)

    def rate(self, step: int) -> float:
        """For the step with this number, from 0; beyond the last step the last rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.learning_rate
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps))
        return self.learning_rate * (_LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """images: uint8 (B, 1, S, S); labels: int64 (B,), 1 tumor; rows: int64 (B,), the caller's numbers."""

    images: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What an epoch adds up to, over batches and over processes."""

    loss_sum: float = 0.0
    correct: int = 0
    n: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(loss_sum=self.loss_sum + other.loss_sum, correct=self.correct + other.correct, n=self.n + other.n)

    @property
    def loss(self) -> float | None:
        return self.loss_sum / self.n if self.n else None

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.n if self.n else None


class Optimiser:
    """AdamW, its schedule, the gradient scaler that fp16 needs, and the number of steps taken."""

    def __init__(
        self, model: nn.Module, config: OptimiserConfig, schedule: Schedule, precision: Precision = Precision.FP32
    ) -> None:
        self.step = 0
        self.schedule = schedule
        self._clip_norm = config.clip_norm or math.inf
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=schedule.rate(0))
        device = self._parameters[0].device.type
        self._scaler = torch.amp.GradScaler(device, enabled=precision is Precision.FP16)

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss."""
        for group in self._adamw.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self._adamw.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._adamw)
        nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._scaler.step(self._adamw)
        self._scaler.update()
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        state = self._adamw.state_dict()["state"]
        found = {f"{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}
        found["step"] = torch.tensor(self.step)
        if self._scaler.is_enabled():
            found["scale"] = torch.tensor(self._scaler.get_scale())
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.step = int(tensors["step"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            if name:
                moments.setdefault(int(index), {})[name] = value
        self._adamw.load_state_dict({**self._adamw.state_dict(), "state": moments})
        if self._scaler.is_enabled() and "scale" in tensors:
            self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": float(tensors["scale"])})


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, or itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 1, S, S) anywhere -> float32 in [0, 1] on the device, channels-last."""
    return _move(images, device).to(torch.float32, memory_format=torch.channels_last).div_(255)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def train_steps(
    model: nn.Module,
    optimiser: Optimiser,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision = Precision.FP32,
    label_smoothing: float = 0.0,
    epoch: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Sums:
    """One pass over the batches; loss and accuracy are of the model as it was at each batch.

    Dropout draws from torch's global generator: seed it for a run that can be repeated. on_step is given the steps
    taken so far. Raises TrainingFailed, naming epoch and step, when the loss is not finite.
    """
    model.train()
    losses: list[Tensor] = []
    correct, n, loss_sum = torch.zeros((), dtype=torch.int64, device=device), 0, 0.0
    for batch in batches:
        labels = _move(batch.labels, device)
        with autocast(precision, device):
            logits = model(to_input(batch.images, device))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        optimiser.update(loss)
        losses.append(loss.detach() * len(batch))
        correct += (logits.detach().argmax(dim=1) == labels).sum()
        n += len(batch)
        if len(losses) == _CHECK_EVERY:
            loss_sum += _checked_sum(losses, optimiser.step, epoch)
            losses.clear()
        if on_step is not None:
            on_step(optimiser.step)
    loss_sum += _checked_sum(losses, optimiser.step, epoch)
    return Sums(loss_sum=loss_sum, correct=int(correct), n=n)


def _checked_sum(losses: list[Tensor], step: int, epoch: int) -> float:
    if not losses:
        return 0.0
    values = torch.stack(losses).double().cpu()
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        raise TrainingFailed(
            f"loss: must stay finite, got {float(values[first])} in epoch {epoch}, step {step - len(losses) + first}; "
            "a lower learning rate or fp32 may help"
        )
    return float(values.sum())


def evaluate_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision = Precision.FP32,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """labels int64 (N,), logits float32 (N,) = z_tumor - z_normal, rows int64 (N,), in the order they came.

    Runs the network inside DistributedDataParallel, so processes may bring different numbers of batches.
    """
    model = unwrap(model)
    was_training = model.training
    model.eval()
    labels, logits, rows = [torch.zeros(0, dtype=torch.int64)], [], [torch.zeros(0, dtype=torch.int64)]
    try:
        with torch.inference_mode(), autocast(precision, device):
            for batch in batches:
                z = model(to_input(batch.images, device)).float()
                logits.append(z[:, 1] - z[:, 0])
                labels.append(batch.labels.cpu())
                rows.append(batch.rows.cpu())
    finally:
        model.train(was_training)
    joined = torch.cat(logits).cpu() if logits else torch.zeros(0)
    return torch.cat(labels).numpy(), joined.numpy(), torch.cat(rows).numpy()


def state(model: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    """All that a resumed run needs: `model.*` and `optimiser.*`."""
    weights = {f"model.{key}": value for key, value in unwrap(model).state_dict().items()}
    return weights | {f"optimiser.{key}": value for key, value in optimiser.tensors().items()}


def restore(model: nn.Module, optimiser: Optimiser, tensors: dict[str, Tensor]) -> None:
    """Put a `state` back. Raises ConfigError when it was taken from another network."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    fault = misfit(unwrap(model).state_dict(), parts["model"])
    if fault:
        raise ConfigError(f"model: must be the one the checkpoint was taken from, got weights {fault}")
    unwrap(model).load_state_dict(parts["model"])
    optimiser.restore(parts["optimiser"])


def save_checkpoint(folder: Path, model: nn.Module, optimiser: Optimiser, facts: dict[str, Any]) -> None:
    """`state.safetensors` and `facts.json` into a folder that exists; facts are the caller's, JSON-able."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state(model, optimiser).items()}
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def load_checkpoint(folder: Path, model: nn.Module, optimiser: Optimiser) -> dict[str, Any]:
    """Put a checkpoint back into a network and its optimiser, and return its facts."""
    restore(model, optimiser, safetensors.torch.load_file(folder / "state.safetensors"))
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))
