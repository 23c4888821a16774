"""Contestant (c): as tutorials have it, a DataLoader over the files, torchvision's transforms on each picture, fp32.

One training process with as many threads as there are workers, and as many loading processes. Prints images a second,
a number an epoch, as JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from tests.benchmarks.train_by_hand import PART
from tests.benchmarks.training import BATCH


class Files(Dataset):
    def __init__(self, archive: str) -> None:
        paths = sorted(Path(archive).iterdir())
        self.paths = paths[: int(PART * len(paths))]
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomAffine(15, translate=(0.05, 0.05), scale=(0.9, 1.1)),
                transforms.ColorJitter(brightness=0.1),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("L")), index % 2


def main(archive: str, workers: str, epochs: str) -> None:
    torch.set_num_threads(int(workers))
    net = build(ModelConfig())
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    loader = DataLoader(Files(archive), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=int(workers))
    rates = []
    for _ in range(int(epochs)):
        started, count = time.monotonic(), 0
        for images, labels in loader:
            optimiser.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimiser.step()
            count += len(labels)
        rates.append(count / (time.monotonic() - started))
    print(json.dumps(rates))


if __name__ == "__main__":
    main(*sys.argv[1:])
