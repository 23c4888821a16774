"""An epoch's figures for TensorBoard, as they come: a small event file each, below an output, wherever it lies."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter  # type: ignore[import-untyped,unused-ignore]

from mri_ray.archive.storage import Location

FOLDER = "tensorboard"


def tell(place: Location, line: Mapping[str, Any]) -> None:
    """Write a line of the history; one of the same epoch takes its place. Raises ArchiveError."""
    with tempfile.TemporaryDirectory(prefix="mri_ray-") as folder:
        with SummaryWriter(logdir=folder) as writer:  # only its end is sure to write all
            for figure, value in line.items():
                if figure != "epoch" and value is not None:
                    side, _, what = figure.partition("_")
                    named = f"{what}/{side}" if side in ("train", "validation") else figure
                    writer.add_scalar(named, value, line["epoch"])
        (file,) = Path(folder).iterdir()
        place.write(f"events.out.tfevents.{line['epoch']:06}", file.read_bytes())  # else it names the host
