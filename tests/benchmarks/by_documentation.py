"""Contestant (d): Ray Data as its documentation has it for batch inference: `read_images`, `map_batches`, Parquet.

The picture is resized as it is to 224 x 224 by `read_images`. There is no reader of DICOM: `read_binary_files` and a
map stand in, with the same resize and a scaling by the maximum.
"""

import os
import sys
from io import BytesIO

import numpy as np
import pyarrow.fs
import pydicom
import ray
import torch
from PIL import Image

from tests.benchmarks.network import PRECISIONS


class Scorer:
    def __init__(self, bundle: str, precision: str) -> None:
        self.answer = PRECISIONS[precision](bundle)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = torch.from_numpy(batch["image"].copy()).unsqueeze(1).float() / 255
        return {"uri": batch["path"], "probability": self.answer(images)}


def decoded(row: dict) -> dict:
    pixels = pydicom.dcmread(BytesIO(row["bytes"])).pixel_array.astype(np.float32)
    image = Image.fromarray((pixels * (255 / max(pixels.max(), 1))).astype(np.uint8))
    return {"image": np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)), "path": row["path"]}


def main(archive: str, bundle: str, output: str, precision: str, kind: str) -> None:
    ray.init(include_dashboard=False)
    files = None
    if archive.startswith("s3://"):
        files = pyarrow.fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL"), region=os.environ.get("AWS_REGION")
        )
    if kind == "dicom":
        pictures = ray.data.read_binary_files(archive, filesystem=files, include_paths=True).map(decoded)
    else:
        pictures = ray.data.read_images(archive, filesystem=files, size=(224, 224), mode="L", include_paths=True)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=os.cpu_count())
    answers = pictures.map_batches(Scorer, fn_constructor_args=(bundle, precision), batch_size=32, compute=pool)
    answers.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
