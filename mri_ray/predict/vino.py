"""A network compiled by OpenVINO for this processor: an extra, about a quarter faster than torch in bf16 (README)."""

import importlib.util
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.cnn import answer
from mri_ray.predict.quick import OfPixels, exact_first, folded


def is_there() -> bool:
    return importlib.util.find_spec("openvino") is not None


class Compiled:
    """Scores batches of up to `batch` pictures; compiling takes some two seconds.

    threads: None: as many as OpenVINO likes.
    """

    def __init__(self, bundle: Bundle, *, batch: int, threads: int | None) -> None:
        # It would tell its maker, over the network, each time it is loaded; without this package it cannot.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]

        size = bundle.prepare.size
        self._batch = np.zeros((batch, 1, size, size), np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of checks of shapes, which are fixed here
            model = openvino.convert_model(_OfBytes(module(bundle)), example_input=torch.from_numpy(self._batch))
        model.reshape(self._batch.shape)
        # Pinned, the threads of all processes would share the first core.
        told: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if threads is not None:
            told["INFERENCE_NUM_THREADS"] = threads
        self._one = threading.Lock()  # for the one buffer and the one request, whoever asks meanwhile
        self._request = openvino.Core().compile_model(model, "CPU", told).create_infer_request()

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, 1, S, S) -> float32 (N,), the tumor's logit above the normal's, and pixels marked as lesion.

        The latter are NaN without a mask head.
        """
        logit, lesion = np.empty(len(images), np.float32), np.full(len(images), np.nan, np.float32)
        for start in range(0, len(images), len(self._batch)):
            part = images[start : start + len(self._batch)]
            with self._one:
                self._batch[: len(part)] = part  # always whole batches, so that no answer depends on how full they are
                z, *masks = (np.array(found) for found in self._request.infer({0: self._batch}).values())
            logit[start : start + len(part)] = (z[:, 1] - z[:, 0])[: len(part)]
            for mask in masks:
                share = (mask > 0).mean(axis=(1, 2, 3), dtype=np.float32)
                lesion[start : start + len(part)] = share[: len(part)] * images.shape[2] ** 2
        return logit, lesion


class _OfBytes(nn.Module):
    """Takes uint8, to the network or, as whole numbers, to the layer that keeps them exact in bf16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = exact_first(folded(net))
        first = next((layer for layer in self.net.modules() if isinstance(layer, OfPixels)), None)
        self.scale = 255.0
        if first is not None:
            first.whole = True
            self.scale = 1.0

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = answer(self.net(images.float() if self.scale == 1 else images.float() / self.scale))
        return found.logits if found.mask is None else (found.logits, found.mask)
