"""Contestant (b): prepared pictures in memory, a plain torch loop, a process a worker, and nothing else.

Prints images a second of all processes together, a number an epoch, as JSON.
"""

import json
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from mri_ray.decode.read import read
from mri_ray.learn.device import autocast, choose_precision
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.prepare.augment import AugmentConfig, apply, draw
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Slice
from tests.benchmarks.training import BATCH

CPU = torch.device("cpu")
PART = 0.8  # of the files that the job trains on


def pictures(archive: str) -> np.ndarray:
    """Prepared, uint8 (N, 1, 224, 224)."""
    config = PrepareConfig()
    bodies = [(path.name, BytesIO(path.read_bytes())) for path in sorted(Path(archive).iterdir())]
    bodies = bodies[: int(PART * len(bodies))]
    return np.stack([prepare(item, config).pixels for n, b in bodies for item in read(b, n) if isinstance(item, Slice)])


def main(archive: str, workers: str, epochs: str) -> None:
    """A process trains what `torch.multiprocessing` starts for each rank."""
    images, number = pictures(archive), int(workers)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if number == 1:
            train(0, images, 1, int(epochs), folder)
        else:
            torch.multiprocessing.spawn(train, (images, number, int(epochs), folder), nprocs=number)


def train(rank: int, images: np.ndarray, workers: int, epochs: int, folder: str) -> None:
    torch.set_num_threads(1)
    net: nn.Module = build(ModelConfig()).to(memory_format=torch.channels_last)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
        net = nn.parallel.DistributedDataParallel(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    precision, config, size = choose_precision("auto", CPU), AugmentConfig(), BATCH // workers
    rates = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(images))
        steps = len(order) // BATCH
        started = time.monotonic()
        for step in range(steps):
            rows = order[step * BATCH + rank * size :][:size]
            changed = apply(images[rows], draw(config, seed=0, epoch=epoch, row_ids=[str(row) for row in rows]))
            batch = torch.from_numpy(changed).to(torch.float32, memory_format=torch.channels_last).div_(255)
            with autocast(precision, CPU):
                logits = net(batch)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), torch.from_numpy(rows % 2)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
        rates.append(steps * BATCH / (time.monotonic() - started))
    if rank == 0:
        print(json.dumps(rates), flush=True)
    if workers > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
