"""Epochs' figures for TensorBoard, as they come: event files below an output, wherever it lies."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter  # type: ignore[import-untyped,unused-ignore]

from mri_ray.archive.storage import Location

FOLDER = "tensorboard"


@contextmanager
def curves(output: Location, name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Called with each line of the history; what is known of the run `name` lies below `output` after each.

    A run that goes on adds a file of its own, whose epochs go on, too.
    """
    with tempfile.TemporaryDirectory(prefix="mri_ray-") as folder, SummaryWriter(logdir=folder) as writer:

        def tell(line: Mapping[str, Any]) -> None:
            for figure, value in line.items():
                if figure != "epoch" and value is not None:
                    side, _, what = figure.partition("_")
                    named = f"{what}/{side}" if side in ("train", "validation") else figure
                    writer.add_scalar(named, value, line["epoch"])
            writer.flush()
            for file in Path(folder).iterdir():
                output.write(f"{FOLDER}/{name}/{file.name}", file.read_bytes())

        yield tell
