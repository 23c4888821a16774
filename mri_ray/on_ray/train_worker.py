"""What each Ray Train worker does: epochs over its share of the rows, validation, checkpoint, early stop."""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed as dist
from ray.util.queue import Queue
from torch import nn

from mri_ray.archive.storage import Location
from mri_ray.learn.best import best_epoch
from mri_ray.learn.checkpoint import load_checkpoint, save_checkpoint
from mri_ray.learn.device import Precision, choose_precision, place
from mri_ray.learn.loop import Sums, evaluate_batches, train_steps
from mri_ray.learn.losses import Batch, Objective
from mri_ray.learn.model import build, load_pretrained
from mri_ray.learn.optimiser import Optimiser, Schedule, unwrap
from mri_ray.learn.plan import Rows, class_weights, effective_batch
from mri_ray.learn.settings import ModelConfig, OptimiserConfig
from mri_ray.metrics import auroc, log_loss
from mri_ray.on_ray.settings import TrainSettings
from mri_ray.on_ray.stream import Prepared, Stream
from mri_ray.prepare.augment import AugmentConfig

EVALUATION_BATCH = 64
BEST = "best.safetensors"  # weights of the best epoch so far, carried along in every checkpoint

Epoch = dict[str, Any]  # one line of the history: what the learning curves show


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """All that a worker is told: plain values, so that a restarted worker group begins from the same."""

    model: ModelConfig
    optimiser: OptimiserConfig
    augment: AugmentConfig
    settings: TrainSettings
    seed: int
    prepared: Prepared
    train: Rows
    validation: Rows
    start: Location | None = None  # a checkpoint to go on from, where the training has none of its own
    last: bool = False  # the last epoch is kept and not the best: for want of rows that it has not learned from

    @property
    def batch(self) -> int:
        settings = self.settings
        # Whole shares for each number of workers that there may be.
        shares = math.lcm(*range(settings.least_workers or settings.workers, settings.workers + 1))
        return effective_batch(settings.batch_size, len(self.train), shares)


class _Waiting:
    """An iterator that knows how long its user has waited for it."""

    def __init__(self, batches: Iterable[dict[str, np.ndarray]]) -> None:
        self._batches = iter(batches)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.monotonic()
        try:
            arrays = next(self._batches)
        finally:
            self.seconds += time.monotonic() - started
        if "mask" in arrays:
            bits = np.unpackbits(arrays["mask"], axis=-1, count=arrays["pixels"].shape[-1])
            arrays = arrays | {"mask": bits * np.uint8(255)}
        # Ray's batches are read-only views of shared memory, which torch must not be handed.
        fields = {"images": "pixels", "labels": "label", "rows": "row", "masks": "mask", "known": "known"}
        found = {field: arrays[name] for field, name in fields.items() if name in arrays}
        return Batch(**{field: torch.from_numpy(array.copy()) for field, array in found.items()})


def train(config: dict[str, Any]) -> None:
    """The train loop of `ray.train.torch.TorchTrainer`; config holds the task, and the queue for progress."""
    worker = _Worker(config["task"], config["queue"])
    history = worker.resume()
    for epoch in worker.epochs(len(history)):
        if worker.has_waited_enough(history):
            break
        started = time.monotonic()
        sums, waited = worker.learn(epoch)
        learned = time.monotonic() - started
        validation = worker.validate()
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": sums.loss,
                "train_accuracy": sums.accuracy,
                **({"train_mask_loss": sums.mask_loss} if worker.task.model.masks else {}),
                **validation,
                # Of learning alone; seconds: with validation.
                "images_per_s": sums.n / learned,
                "waiting": waited / learned,
                "seconds": time.monotonic() - started,
            }
        )
        worker.report(history, is_best=worker.task.last or best_epoch(history) == epoch + 1)


class _Worker:
    """The network, its optimiser and its streams, for as long as the worker group lives."""

    def __init__(self, task: Task, queue: Queue) -> None:
        context = ray.train.get_context()
        self.task = task
        self._queue = queue
        self._rank, self._workers = context.get_world_rank(), context.get_world_size()
        self._device = ray.train.torch.get_device()
        self._precision: Precision = choose_precision(task.settings.precision, self._device)
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # a worker a core; more threads would fight for them
        network = build(task.model, seed=task.seed)
        load_pretrained(network, task.model)
        self._network: nn.Module = ray.train.torch.prepare_model(place(network, self._device))
        steps = len(task.train) // task.batch
        schedule = Schedule.of(task.optimiser, steps_per_epoch=steps, epochs=task.settings.epochs)
        self._optimiser = Optimiser(self._network, task.optimiser, schedule, self._precision)
        self._objective = Objective(
            label_smoothing=task.optimiser.label_smoothing,
            class_weights=class_weights(task.train.label) if task.settings.balance == "weights" else None,
            mask_weight=task.optimiser.mask_weight,
            mixup=task.optimiser.mixup,
        )
        self._steps = steps
        self._best: dict[str, torch.Tensor] = {}

    def say(self, item: str | Epoch) -> None:
        """Put a line for people, or an epoch's figures, into the driver's queue."""
        if self._rank == 0:
            with suppress(ray.exceptions.RayError):  # a lost line is no reason to lose a training
                self._queue.put(item)

    def has_waited_enough(self, history: list[Epoch]) -> bool:
        patience = self.task.settings.patience
        if patience is None or not history or len(history) - best_epoch(history) < patience:
            return False
        self.say(f"no better epoch than {best_epoch(history)} for {patience} epochs: stopping early")
        return True

    def resume(self) -> list[Epoch]:
        """Go on from the last checkpoint, if there is one; returns the history up to it."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None and self.task.start is not None:
            filesystem, path = self.task.start.arrow()
            checkpoint = ray.train.Checkpoint(path, filesystem)
        if checkpoint is None:
            return []
        with checkpoint.as_directory() as folder:
            facts = load_checkpoint(Path(folder), self._network, self._optimiser, model=self.task.model)
            self._best = safetensors.torch.load_file(Path(folder) / BEST)
        self.say(f"going on after epoch {len(facts['history'])}")
        self.say(facts["history"][-1])  # a driver that was killed may not have told it
        return facts["history"]

    def epochs(self, done: int) -> Iterator[int]:
        """Epochs still to do, from 0; the stream of batches runs on through all of them."""
        task, settings = self.task, self.task.settings
        if done >= settings.epochs:
            return
        stream = Stream(
            prepared=task.prepared,
            rows=task.train,
            rank=self._rank,
            workers=self._workers,
            window=settings.window_rows,
            first=done,
            last=settings.epochs,
            seed=task.seed,
            batch=task.batch,
            augment=task.augment,
            balanced=settings.balance == "sampling",
        )
        self._batches = _Waiting(stream.batches(task.batch // self._workers))
        yield from range(done, settings.epochs)

    def learn(self, epoch: int) -> tuple[Sums, float]:
        """One epoch: sums over all workers, and the seconds this worker waited for data."""
        torch.manual_seed(hash((self.task.seed, epoch, self._rank)) % 2**63)  # dropout's, the same after a restart
        waited = self._batches.seconds
        sums = train_steps(
            self._network,
            self._optimiser,
            (next(self._batches) for _ in range(self._steps)),
            device=self._device,
            precision=self._precision,
            objective=self._objective,
            accumulate=self.task.settings.accumulate,
            epoch=epoch + 1,
            row_ids=self.task.train.row_id,
            on_step=self._progress(epoch),
        )
        return sum(self._gathered(sums), Sums()), self._batches.seconds - waited

    def validate(self) -> Epoch:
        """Loss, accuracy and AUROC over the validation rows of all workers, and Dice of all lesions together.

        The same numbers on each worker.
        """
        network = self._kept
        if self._workers > 1:  # each worker has its own running statistics; the first one's are kept
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        stream = Stream(
            prepared=self.task.prepared,
            rows=self.task.validation,
            rank=self._rank,
            workers=self._workers,
            window=self.task.settings.window_rows,
        )
        batches = _Waiting(stream.batches(EVALUATION_BATCH))
        found = evaluate_batches(network, batches, device=self._device, precision=self._precision)
        parts = self._gathered(found)
        labels, logits = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "logits"))
        both, marked, truth = sum(part.overlap for part in parts).tolist()
        return {
            **({"validation_dice": 2 * both / (marked + truth)} if truth else {}),
            "validation_loss": log_loss(labels, logits),
            "validation_accuracy": float(((logits > 0) == (labels == 1)).mean()),
            "validation_auroc": auroc(labels, logits),
        }

    @property
    def _kept(self) -> nn.Module:
        """The network that is evaluated and becomes the bundle: with averaged weights, where they are averaged."""
        average = self._optimiser.average
        return unwrap(self._network) if average is None else average

    def report(self, history: list[Epoch], *, is_best: bool) -> None:
        """Register the epoch with Ray Train, with a checkpoint from the first worker."""
        line = history[-1]
        area = line["validation_auroc"]
        dice = f", Dice {line['validation_dice']:.3f}" if "validation_dice" in line else ""
        self.say(
            f"epoch {line['epoch']:>3} of {self.task.settings.epochs}: loss {line['train_loss']:.4f}, "
            f"accuracy {line['train_accuracy']:.4f}; validation loss {line['validation_loss']:.4f}, accuracy "
            f"{line['validation_accuracy']:.4f}, AUROC {'-' if area is None else f'{area:.4f}'}{dice}; "
            f"{line['images_per_s']:.0f} images/s, {line['waiting']:.0%} waiting"
        )
        self.say(line)
        metrics = {key: value for key, value in line.items() if value is not None}
        if self._rank:
            ray.train.report(metrics)
            return
        if is_best:
            state = self._kept.state_dict()
            self._best = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
        with tempfile.TemporaryDirectory() as folder:
            facts = {"history": history, "model": self.task.model.decisive()}
            save_checkpoint(Path(folder), self._network, self._optimiser, facts)
            safetensors.torch.save_file(self._best, Path(folder) / BEST)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _gathered(self, value: Any) -> list[Any]:
        """The value of every worker, by rank."""
        if self._workers == 1:
            return [value]
        values: list[Any] = [None] * self._workers
        dist.all_gather_object(values, value)
        return values

    def _progress(self, epoch: int) -> Callable[[int], None]:
        said = time.monotonic()

        def say(step: int) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said > 10:
                said = now
                self.say(f"epoch {epoch + 1:>3}: step {step - epoch * self._steps} of {self._steps}")

        return say


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], list[Epoch]]:
    """The best epoch's weights, and the history, of a finished training."""
    history = json.loads((folder / "facts.json").read_text(encoding="utf-8"))["history"]
    assert all(math.isfinite(line["train_loss"]) for line in history)
    return safetensors.torch.load_file(folder / BEST), history
