"""From gradients to weights: AdamW, its learning rate over time, and the running average of the weights."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mri_ray.learn.device import Precision
from mri_ray.learn.settings import OptimiserConfig

_LOWEST = 0.01  # where the cosine ends, as a part of the learning rate
_RISE, _FIRST, _LAST = 0.3, 0.04, 1e-4  # of one cycle: the part of the steps that it rises, where it begins and ends


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
        if config.schedule == "one-cycle":
            warmup = round(_RISE * total)
        return cls(learning_rate=config.learning_rate, warmup_steps=warmup, total_steps=total, kind=config.schedule)

    def rate(self, step: int) -> float:
        """For the step with this number, from 0; beyond the last step the last rate."""
        one_cycle = self.kind == "one-cycle"
        if step < self.warmup_steps:
            part = (step + 1) / self.warmup_steps
            return self.learning_rate * (_between(_FIRST, 1, part) if one_cycle else part)
        if self.kind == "constant":
            return self.learning_rate
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps))
        return self.learning_rate * _between(1, _LAST if one_cycle else _LOWEST, done)


def _between(first: float, last: float, done: float) -> float:
    """Along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


class Optimiser:
    """AdamW, its schedule, the gradient scaler that fp16 needs, the weights' average, and the number of steps taken.

    average: the network with the running average of its weights, on the same device; None where none is kept.
    """

    def __init__(
        self, model: nn.Module, config: OptimiserConfig, schedule: Schedule, precision: Precision = Precision.FP32
    ) -> None:
        self.step = 0
        self.schedule = schedule
        self._model = model
        self._begun = False
        self._clip_norm = config.clip_norm or math.inf
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=schedule.rate(0))
        device = self._parameters[0].device.type
        self._scaler = torch.amp.GradScaler(device, enabled=precision is Precision.FP16)
        self._average = _average_of(unwrap(model), config.average) if config.average else None

    @property
    def average(self) -> nn.Module | None:
        return None if self._average is None else self._average.module

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss."""
        self.gather(loss)
        self.move()

    def gather(self, loss: Tensor, *, more: bool = False) -> None:
        """Add the gradient of a scalar loss to what the next `move` follows. more: another loss comes before it."""
        if not self._begun:
            self._adamw.zero_grad(set_to_none=True)
        self._begun = True
        waits = more and isinstance(self._model, nn.parallel.DistributedDataParallel)
        # What is gathered goes between processes once, with the last loss.
        with self._model.no_sync() if waits else nullcontext():  # type: ignore[operator]
            self._scaler.scale(loss).backward()

    def move(self) -> None:
        """One step down the gradients gathered."""
        for group in self._adamw.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self._scaler.unscale_(self._adamw)
        nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._scaler.step(self._adamw)
        self._scaler.update()
        self._begun = False
        self.step += 1
        if self._average is not None:
            self._average.update_parameters(unwrap(self._model))

    def tensors(self) -> dict[str, Tensor]:
        state = self._adamw.state_dict()["state"]
        found = {f"{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}
        found["step"] = torch.tensor(self.step)
        if self._scaler.is_enabled():
            found["scale"] = torch.tensor(self._scaler.get_scale())
        if self._average is not None:
            found |= {f"average.{name}": value for name, value in self._average.state_dict().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.step = int(tensors["step"])
        moments: dict[int, dict[str, Tensor]] = {}
        average: dict[str, Tensor] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            if index == "average":
                average[name] = value
            elif name:
                moments.setdefault(int(index), {})[name] = value
        self._adamw.load_state_dict({**self._adamw.state_dict(), "state": moments})
        if self._scaler.is_enabled() and "scale" in tensors:
            self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": float(tensors["scale"])})
        if self._average is not None and average:
            self._average.load_state_dict(average)


def _average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Begins short, as the first weights are worth little: after n steps it weighs about n / 10 of them."""

    def update(averages: Any, values: Any, steps: Any) -> None:
        weight = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value.detach(), weight)
            else:
                average.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average.requires_grad_(False).eval()


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, or itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
