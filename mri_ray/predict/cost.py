"""What an answer costs: milliseconds an image of a network that need not be trained for that."""

import time

import numpy as np
import torch

from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build, count_parameters
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict.predictor import MICRO_BATCH, Predictor
from mri_ray.prepare.settings import PrepareConfig

_IMAGES = 16
_ROUNDS = 4


def ms_per_image(model: ModelConfig, prepare: PrepareConfig) -> tuple[float, int]:
    """Of one CPU core in fp32, the fastest of a few rounds, since others may be at work; and its parameters."""
    made = build(model, seed=0)
    bundle = Bundle(model=model, prepare=prepare, weights=dict(made.state_dict()))
    predictor = Predictor(
        bundle, precision="fp32", threads=1, device=torch.device("cpu"), micro_batch=MICRO_BATCH["cpu"]
    )
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 1, prepare.size, prepare.size), np.uint8)
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        predictor.predict(images)
        taken.append(time.perf_counter() - started)
    return 1000 * min(taken) / _IMAGES, count_parameters(made)
