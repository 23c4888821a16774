"""Contestant (c): a torch DataLoader over the files, Pillow and torchvision transforms, batches of 32, two workers.

The picture is resized as it is to 224 x 224 (no crop to the head, aspect not kept); DICOM is scaled by its maximum.
"""

import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tests.benchmarks.network import PRECISIONS


class Files(Dataset):
    def __init__(self, archive: str) -> None:
        files, root = fsspec.core.url_to_fs(archive)
        self.paths = sorted(files.find(root))
        self.archive = archive
        self.transform = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        path = self.paths[index]
        files, _ = fsspec.core.url_to_fs(self.archive)
        with files.open(path, "rb") as file:
            if path.endswith(".dcm"):
                pixels = pydicom.dcmread(file).pixel_array.astype(np.float32)
                image = Image.fromarray((pixels * (255 / max(pixels.max(), 1))).astype(np.uint8))
            else:
                image = Image.open(file).convert("L")
        return self.transform(image), path


def main(archive: str, bundle: str, output: str, precision: str) -> None:
    answer = PRECISIONS[precision](bundle)
    paths: list[str] = []
    probabilities: list[np.ndarray] = []
    for images, names in DataLoader(Files(archive), batch_size=32, num_workers=2):
        probabilities.append(answer(images))
        paths += names
    Path(output).mkdir(parents=True)
    pq.write_table(pa.table({"uri": paths, "probability": np.concatenate(probabilities)}), f"{output}/answers.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
