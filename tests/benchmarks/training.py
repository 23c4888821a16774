"""The training job against the machine's limit and against what others would write, in images a second.

    MRI_DATA=... python -m tests.benchmarks.training files=800 epochs=4 repeats=2 workers=1,2

in the project's folder, on a machine with nothing else to do, of which it takes some ten minutes. The same network,
batch and number of processes for all: (a) the job; (b) the same loop by hand, pictures prepared in memory, our
augmentation, bf16, channels-last and allocator settings where the job has them (`train_by_hand`); (c) a DataLoader over
the files, torchvision's transforms on each picture, fp32 (`train_by_loader`). What counts is the training of the epochs
after the first; start-up and validation are left out.
Prints a Markdown table; writes it, and every run as JSON, below `output`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mri_ray import config
from mri_ray.errors import ConfigError
from mri_ray.on_ray.cluster import WORKER_ENVIRONMENT
from tests.benchmarks import archives, table

TITLES = {"a": "jobs.train", "b": "by hand, from memory", "c": "DataLoader, torchvision, fp32"}
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The training job against the machine's limit and against what others would write; lists are split at commas."""

    data: str | None = None  # a folder of JPEG or PNG to vary; None: kaggle in $MRI_DATA, else phantoms
    files: int = 800
    epochs: int = 4
    repeats: int = 2
    workers: str = "1,2"
    contestants: str = "a,b,c"
    output: str = "out/benchmarks"

    def __post_init__(self) -> None:
        if unknown := [key for key in self.contestants.split(",") if key not in TITLES]:
            raise ConfigError(f"contestants: must be among {','.join(TITLES)}, got {','.join(unknown)}")
        if self.epochs < 2:
            raise ConfigError(f"epochs: the first does not count, so there must be at least 2, got {self.epochs}")


def run(settings: Benchmark) -> str:
    """Run all in turns, write training.json and training.md below `output`, and return the latter."""
    data = settings.data or (f"{os.environ['MRI_DATA']}/kaggle" if os.environ.get("MRI_DATA") else None)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        archive = archives.make(Path(work), data, "jpeg", (settings.files,))[settings.files]
        labels = Path(work) / "labels.csv"
        names = sorted(path.name for path in archive.iterdir())
        labels.write_text("path,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
        for repeat in range(settings.repeats):
            for workers in map(int, settings.workers.split(",")):
                for key in settings.contestants.split(","):
                    found = _one(key, archive, labels, workers, settings.epochs, Path(work))
                    runs.append({"contestant": key, "workers": workers, "repeat": repeat, **found})
                    print(f"{repeat} ({key}) {workers} workers: {found['images_per_s']:.1f} images/s", file=sys.stderr)
                    text = _page(runs)
                    document = {"machine": table.machine(), "settings": asdict(settings), "runs": runs}
                    (output / "training.json").write_text(json.dumps(document, indent=1))
                    (output / "training.md").write_text(text)
    return text


def _one(key: str, archive: Path, labels: Path, workers: int, epochs: int, work: Path) -> dict[str, float]:
    """images_per_s, median of the epochs after the first, and of the job waiting, the largest share."""
    if key != "a":
        module = {"b": "train_by_hand", "c": "train_by_loader"}[key]
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", str(archive), str(workers), str(epochs)]
        known = os.environ | WORKER_ENVIRONMENT if key == "b" else None
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=known).stdout
        return {"images_per_s": median(json.loads(printed.splitlines()[-1])[1:])}
    output, temp = work / "trained", work / "r"
    temp.mkdir()
    given = {"archive": archive, "labels": labels, "output": output, "cache": work / "cache", "ray.temp_dir": temp}
    given |= {"train.epochs": epochs, "train.workers": workers, "train.batch_size": BATCH, "train.patience": "null"}
    given |= {"split.by": "image", "split.test": 0.1, "split.validation": 0.1, "evaluation.rounds": 100}
    command = [sys.executable, "-m", "jobs.train", "--config", "configs/train.yaml"]
    quiet = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([*command, *(f"{name}={value}" for name, value in given.items())], check=True, env=quiet)
    history = json.loads((output / "run.json").read_text())["history"][1:]
    for place in (output, temp):
        shutil.rmtree(place)
    rates = [line["images_per_s"] for line in history]
    return {"images_per_s": median(rates), "waiting": max(line["waiting"] for line in history)}


def _page(runs: list[dict[str, Any]]) -> str:
    lines = ["| contestant | workers | images/s | against (a) | waiting |", "|---|---:|---:|---:|---:|"]
    for workers in sorted({run["workers"] for run in runs}):
        rates = {
            key: median(run["images_per_s"] for run in runs if (run["contestant"], run["workers"]) == (key, workers))
            for key in TITLES
            if any((run["contestant"], run["workers"]) == (key, workers) for run in runs)
        }
        waits = [run["waiting"] for run in runs if run["workers"] == workers and "waiting" in run]
        for key, rate in rates.items():
            ratio = f"{rates['a'] / rate:.2f}" if "a" in rates else ""
            waiting = f"{max(waits):.1%}" if key == "a" and waits else ""
            lines.append(f"| ({key}) {TITLES[key]} | {workers} | {rate:.1f} | {ratio} | {waiting} |")
    return "\n".join(lines)


def main() -> None:
    parse: Callable[..., Benchmark] = config.from_argv
    try:
        settings = parse(Benchmark)
    except ConfigError as exc:
        raise SystemExit(str(exc)) from exc
    print(run(settings))


if __name__ == "__main__":
    main()
