"""From prepared pictures to calibrated probabilities and decisions; all that makes inference fast is here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from mri_ray.errors import ConfigError, RunError
from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.cnn import answer
from mri_ray.learn.device import Precision, autocast, choose_device, place
from mri_ray.learn.loop import to_input
from mri_ray.predict.quick import quickened
from mri_ray.predict.vino import Compiled
from mri_ray.predict.ways import NCNN, OPENVINO, choose, choose_engine, doubtful
from mri_ray.predict.winograd import Winograd
from mri_ray.records import Decision

MICRO_BATCH = {"cpu": 8, "cuda": 128}
Answers = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # pictures -> logits, and pixels marked as lesion


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Answers in the order of the pictures, each of length N; logit and probability are float32.

    lesion: float32, how many of the prepared picture's pixels the mask head marks; None where the bundle has none.
    """

    logit: np.ndarray
    probability: np.ndarray
    decision: list[Decision]
    lesion: np.ndarray | None = None


class Predictor:
    """A bundle's network, loaded and ready.

    precision: as in `ways.choose`. micro_batch: pictures a forward pass, None: what suits the device; with large ones a
    CPU spends its time on page faults, as the allocator returns the activations. threads: torch's CPU threads, of the
    whole process; None leaves them as they are. device: None takes the GPU if there is one. engine, slices: as in
    `ways.choose_engine`.
    Raises ConfigError for a setting out of its range, BundleError for a way that answers otherwise.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "auto",
        micro_batch: int | None = None,
        threads: int | None = None,
        device: torch.device | None = None,
        engine: str = "torch",
        slices: int = 0,
    ) -> None:
        for name, value in (("micro_batch", micro_batch), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        self.device = device or choose_device()
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # fp32 is what other ways are held against
        self.precision, self._proof = choose(bundle, precision, self.device)
        self.micro_batch = micro_batch or MICRO_BATCH[self.device.type]
        self.engine, proof = choose_engine(bundle, engine, self.precision, self.device, slices)
        self._proof = self._proof if proof is None else proof
        self._module = place(_steady(quickened(module(bundle))), self.device)
        self._fast = self._chosen(threads)

    def _chosen(self, threads: int | None) -> Answers:
        if self.engine == OPENVINO:
            return Compiled(self.bundle, batch=self.micro_batch, threads=threads).answers
        net = _steady(Winograd(self.bundle, threads=threads)) if self.engine == NCNN else self._module
        return partial(self._answers, net, self.precision)

    def predict(self, images: np.ndarray) -> Predictions:
        """Score pictures, uint8 (N, 1, S, S) with the bundle's S; N may be 0, the array may be read-only.

        A picture's probability does not depend on its batch: |dp| <= 1e-6 for the CNN at 224 pixels on one machine with
        one number of threads. Measured beyond: a few 1e-6 at 64 to 128 pixels and for untrained backbones.
        Raises ValueError for another shape or type, RunError when a logit is not finite.
        """
        size = self.bundle.prepare.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (1, size, size):
            raise ValueError(f"images: must be uint8 (N, 1, {size}, {size}), got {images.dtype} {images.shape}")
        logit, lesion = self._fast(images)
        if self._proof is not None:
            again = np.flatnonzero(doubtful(logit, self.bundle, self._proof.margin))
            logit[again], lesion[again] = self._answers(self._module, Precision.FP32, images[again])
        if bad := np.flatnonzero(~np.isfinite(logit)).tolist():
            # NaN compares as below every threshold, and would be called negative.
            raise RunError(f"logit: must be finite, got {logit[bad[0]]} at {self.precision} for picture {bad[0]}")
        found = probability(logit, self.bundle)
        return Predictions(
            logit=logit,
            probability=found,
            decision=decide(found, threshold=self.bundle.threshold, refer=self.bundle.refer),
            lesion=lesion if self.bundle.model.masks else None,
        )

    def _answers(self, net: nn.Module, precision: Precision, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and pixels marked as lesion: NaN without a mask head."""
        parts = [torch.empty(2, 0, device=self.device)]
        with torch.inference_mode(), autocast(precision, self.device):
            for start in range(0, len(images), self.micro_batch):
                # Copied, since torch cannot wrap what is read-only, as Ray's arrays are.
                batch = torch.from_numpy(images[start : start + self.micro_batch].copy())
                found = answer(net(to_input(batch, self.device)))
                z = found.logits.float()
                parts.append(torch.stack([z[:, 1] - z[:, 0], marked(found.mask, z, images.shape[2])]))
            logit, lesion = torch.cat(parts, dim=1).cpu().numpy()
        return logit, lesion


def marked(mask: torch.Tensor | None, like: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels that a mask (N, 1, s, s) of logits marks in pictures of `size`, float32 (N,); NaN without one."""
    if mask is None:
        return torch.full((len(like),), torch.nan, device=like.device)
    return (mask > 0).float().mean(dim=(1, 2, 3)) * size**2


def _steady(net: nn.Module) -> nn.Module:
    """Let the dense layers, at most a hundredth of the work, compute in float64.

    In float32 the rounding of a matrix product depends on its number of rows, and so a picture's answer on its batch;
    the CNN's convolutions at 224 pixels have no such trait (measured on x86 with oneDNN and MKL).
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.double()
            layer.register_forward_pre_hook(lambda _, given: (given[0].double(),))
            layer.register_forward_hook(lambda _, given, answer: answer.float())
    return net


def probability(logit: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Calibrated, float32 as given."""
    return torch.sigmoid(torch.from_numpy(bundle.calibrated(logit))).float().numpy()


def decide(
    probabilities: np.ndarray | Sequence[float], *, threshold: float, refer: tuple[float, float] | None
) -> list[Decision]:
    """REFER within [low, high), else POSITIVE from the threshold on, else NEGATIVE.

    Compared as float64, so that a stored float32 probability leads to its stored decision.
    """
    low, high = refer if refer is not None else (threshold, threshold)
    p = np.asarray(probabilities).astype(np.float64)
    chosen = np.where(p < low, Decision.NEGATIVE, np.where(p < high, Decision.REFER, Decision.POSITIVE))
    return [Decision(value) for value in chosen]
