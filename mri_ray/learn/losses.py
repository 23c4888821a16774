"""What training makes smaller: the classes' cross entropy, and where masks are known how far the mask head is off."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mri_ray.learn.cnn import Answer

_CELLS = 5.0  # weight of the cells' cross entropy beside the overlap: few cells are lesion, so its mean is small


@dataclass(frozen=True, kw_only=True)
class Batch:
    """images: uint8 (B, 1, S, S); labels: int64 (B,), 1 tumor; rows: int64 (B,), the caller's numbers.

    masks: uint8 (B, 1, S, S), 255 where lesion is; known: bool (B,), whether that is so; None: no mask is known.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    masks: Tensor | None = None
    known: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, number: int) -> list["Batch"]:
        """The batch in so many parts, or as many as it has rows."""
        given = {
            name: value.tensor_split(min(number, len(self))) for name, value in vars(self).items() if value is not None
        }
        return [replace(self, **dict(zip(given, part, strict=True))) for part in zip(*given.values(), strict=True)]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """class_weights: of normal and tumor. mixup: both parameters of the beta distribution that pictures are mixed by.

    mask_weight: of the mask's loss beside the classes'.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, float] | None = None
    mask_weight: float = 1.0
    mixup: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What answers are held against: labels int64 (B,); mask float32 (B, 1, S, S) and known bool (B,), or None.

    Of a mixed batch, `other` is that of the pictures mixed in, of which `share` is theirs.
    """

    labels: Tensor
    mask: Tensor | None = None
    known: Tensor | None = None
    other: Tensor | None = None
    share: float = 0.0


def mixed(images: Tensor, target: Target, alpha: float) -> tuple[Tensor, Target]:
    """Each picture with a share of another, drawn by torch's global generator; masks alike. alpha 0: as they are."""
    if not alpha or len(images) < 2:
        return images, target
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images)).to(images.device)
    mask, known = target.mask, target.known
    if mask is not None and known is not None:
        mask, known = torch.lerp(mask, mask[order], share), known & known[order]
    images = torch.lerp(images, images[order], share)
    return images, Target(labels=target.labels, mask=mask, known=known, other=target.labels[order], share=share)


def class_loss(logits: Tensor, target: Target, objective: Objective) -> Tensor:
    """Mean cross entropy over the rows, a scalar.

    Not over their weights, as torch would: those have a mean of 1 over the side, and a part of a batch that holds one
    class only would cancel its own.
    """
    weight = (
        None if objective.class_weights is None else logits.new_tensor(objective.class_weights, dtype=torch.float32)
    )

    def against(labels: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits.float(), labels, weight=weight, label_smoothing=objective.label_smoothing, reduction="none"
        )
        return each.mean()

    loss = against(target.labels)
    return loss if target.other is None else torch.lerp(loss, against(target.other), target.share)


def mask_loss(answer: Answer, target: Target) -> Tensor:
    """Overlap lost over the whole batch, and the cells' cross entropy, where masks are known; 0 where none is."""
    if answer.mask is None or target.mask is None or target.known is None or not bool(target.known.any()):
        return answer.logits.new_zeros((), dtype=torch.float32)
    found = answer.mask.float()[target.known]
    truth = F.adaptive_avg_pool2d(target.mask[target.known], (found.shape[2], found.shape[3]))
    marked = torch.sigmoid(found)
    # Over the batch, not a picture: most pictures have no lesion, and a small one would swing.
    overlap = (2 * (marked * truth).sum() + 1) / (marked.sum() + truth.sum() + 1)
    return 1 - overlap + _CELLS * F.binary_cross_entropy_with_logits(found, truth)
