"""A fresh network's logits of some prepared rows: what calibration and operating point are chosen by."""

import numpy as np
import ray

from mri_ray.learn.bundle import Bundle
from mri_ray.learn.plan import Rows
from mri_ray.on_ray import cluster
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.work import ONE_CPU
from mri_ray.predict.predictor import Predictor

_ROWS = 1024  # of a task: 50 MB of pixels at 224 x 224


def logits(bundle: Bundle, prepared: Prepared, rows: Rows) -> np.ndarray:
    """float32 (N,), computed in fp32, spread over the cluster: with a GPU if there is one."""
    task = ray.remote(_answered).options(**({"num_gpus": 1} if cluster.gpus() else ONE_CPU))
    held, place = ray.put(bundle), ray.put(prepared)
    parts = [rows.take(np.arange(start, min(start + _ROWS, len(rows)))) for start in range(0, len(rows), _ROWS)]
    return np.concatenate([np.empty(0, np.float32), *ray.get([task.remote(held, place, part) for part in parts])])


def _answered(bundle: Bundle, prepared: Prepared, rows: Rows) -> np.ndarray:
    return Predictor(bundle, precision="fp32", threads=1).predict(prepared.pixels(rows)).logit
