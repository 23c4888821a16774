"""Steps of training and evaluation in plain torch; who calls them decides on how many processes.

With DistributedDataParallel every process must bring the same number of batches to `train_steps`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_ray.errors import TrainingFailed
from mri_ray.learn.cnn import answer
from mri_ray.learn.device import Precision, autocast
from mri_ray.learn.losses import Batch, Objective, Target, class_loss, mask_loss, mixed
from mri_ray.learn.optimiser import Optimiser, unwrap

_CHECK_EVERY = 16  # steps between looks at the loss: each look makes the host wait for a GPU
_NAMED_ROWS = 64  # of a batch whose loss is not finite


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What an epoch adds up to, over batches and over processes. mask_sum: of the masks' losses."""

    loss_sum: float = 0.0
    correct: int = 0
    n: int = 0
    mask_sum: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            loss_sum=self.loss_sum + other.loss_sum,
            correct=self.correct + other.correct,
            n=self.n + other.n,
            mask_sum=self.mask_sum + other.mask_sum,
        )

    @property
    def loss(self) -> float | None:
        return self.loss_sum / self.n if self.n else None

    @property
    def mask_loss(self) -> float | None:
        return self.mask_sum / self.n if self.n else None

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.n if self.n else None


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
    objective: Objective | None = None,
    accumulate: int = 1,
    epoch: int = 0,
    row_ids: Sequence[str] | np.ndarray | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Sums:
    """One pass over the batches, a step each; loss and accuracy are of the model as it was at each batch.

    accumulate: in so many parts a batch goes through the network. Dropout and mixing draw from torch's global
    generator: seed it for a run that can be repeated. row_ids: what `Batch.rows` counts, for messages. on_step is given
    the steps taken so far. Raises TrainingFailed, naming epoch, step and rows, when the loss is not finite, and when
    memory does not suffice.
    """
    model.train()
    objective = objective or Objective()
    sums, held = Sums(), list[_Step]()
    for batch in batches:
        try:
            held.append(_step(model, optimiser, batch, device, precision, objective, accumulate))
        except (MemoryError, RuntimeError) as exc:
            if isinstance(exc, RuntimeError) and "memory" not in str(exc):  # torch's and oneDNN's say no more
                raise
            at_once, side = -(-len(batch) // accumulate), batch.images.shape[2]
            raise TrainingFailed(
                f"memory: must do for {at_once} pictures of {side} pixels a side at a time, got no more "
                f"of it in epoch {epoch}, step {optimiser.step}; lower train.batch_size or "
                "model.width, or raise train.accumulate"
            ) from exc
        if len(held) == _CHECK_EVERY:
            sums += _checked(held, optimiser.step, epoch, row_ids)
            held.clear()
        if on_step is not None:
            on_step(optimiser.step)
    return sums + _checked(held, optimiser.step, epoch, row_ids)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Of one batch, still on the device: sums of the classes' and of the masks' losses, and answers that were right."""

    loss: Tensor
    mask: Tensor
    correct: Tensor
    rows: Tensor


def _step(
    model: nn.Module,
    optimiser: Optimiser,
    batch: Batch,
    device: torch.device,
    precision: Precision,
    objective: Objective,
    accumulate: int,
) -> _Step:
    loss, mask, correct = (torch.zeros((), device=device) for _ in range(3))
    parts = batch.parts(accumulate)
    for number, part in enumerate(parts, start=1):
        images, target = mixed(to_input(part.images, device), _target(part, device), objective.mixup)
        with autocast(precision, device):
            found = answer(model(images))
        of_classes, of_mask = class_loss(found.logits, target, objective), mask_loss(found, target)
        share = len(part) / len(batch)
        optimiser.gather(share * (of_classes + objective.mask_weight * of_mask), more=number < len(parts))
        loss += of_classes.detach() * len(part)
        mask += of_mask.detach() * len(part)
        correct += (found.logits.detach().argmax(dim=1) == target.labels).sum()
    optimiser.move()
    return _Step(loss=loss, mask=mask, correct=correct, rows=batch.rows)


def _target(batch: Batch, device: torch.device) -> Target:
    labels = _move(batch.labels, device)
    if batch.masks is None or batch.known is None:
        return Target(labels=labels)
    masks = _move(batch.masks, device).to(torch.float32).div_(255)
    return Target(labels=labels, mask=masks, known=_move(batch.known, device))


def _checked(held: list[_Step], step: int, epoch: int, row_ids: Sequence[str] | np.ndarray | None) -> Sums:
    if not held:
        return Sums()
    values = torch.stack([torch.stack([one.loss, one.mask, one.correct]) for one in held]).double().cpu()
    bad = (~values.isfinite().all(dim=1)).nonzero()
    if len(bad):
        first = int(bad[0])
        rows = held[first].rows.tolist()
        named = [str(row if row_ids is None else row_ids[row]) for row in rows[:_NAMED_ROWS]]
        raise TrainingFailed(
            f"loss: must stay finite, got {float(values[first, :2].sum())} in epoch {epoch}, "
            f"step {step - len(held) + first}; a lower learning rate or fp32 may help; its batch of {len(rows)} rows: "
            f"{', '.join(named)}{', ...' if len(rows) > _NAMED_ROWS else ''}"
        )
    loss, mask, correct = values.sum(dim=0).tolist()
    return Sums(loss_sum=loss, mask_sum=mask, correct=round(correct), n=sum(len(one.rows) for one in held))


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Answers in the order they came: labels int64 (N,), logits float32 (N,) = z_tumor - z_normal, rows int64 (N,).

    overlap: float64 (3,), over rows whose mask is known: cells that both the answer and the truth call lesion, that the
    answer does, and that the truth does.
    """

    labels: np.ndarray
    logits: np.ndarray
    rows: np.ndarray
    overlap: np.ndarray


def evaluate_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision = Precision.FP32,
) -> Evaluation:
    """Answers for all rows, of the network inside DistributedDataParallel: processes may bring different numbers."""
    model = unwrap(model)
    was_training = model.training
    model.eval()
    labels, logits, rows = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    overlap = torch.zeros(3, dtype=torch.float64)
    try:
        with torch.inference_mode(), autocast(precision, device):
            for batch in batches:
                found = answer(model(to_input(batch.images, device)))
                z = found.logits.float()
                logits.append((z[:, 1] - z[:, 0]).cpu())
                labels.append(batch.labels.cpu())
                rows.append(batch.rows.cpu())
                overlap += _overlap(found.mask, _target(batch, device))
    finally:
        model.train(was_training)
    joined = (torch.cat(parts).numpy() for parts in (labels, logits, rows))
    return Evaluation(**dict(zip(("labels", "logits", "rows"), joined, strict=True)), overlap=overlap.numpy())


def _overlap(mask: Tensor | None, target: Target) -> Tensor:
    if mask is None or target.mask is None or target.known is None:
        return torch.zeros(3, dtype=torch.float64)
    marked = mask[target.known] > 0
    truth = F.adaptive_avg_pool2d(target.mask[target.known], (mask.shape[2], mask.shape[3])) >= 0.5
    return torch.stack([(marked & truth).sum(), marked.sum(), truth.sum()]).double().cpu()
