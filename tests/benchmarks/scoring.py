"""The scoring job against the machine's limit and against what others would write.

    MRI_DATA=... python -m tests.benchmarks.scoring files=2000 repeats=5 variants=jpeg,dicom,jpeg-s3

in the project's folder, on Linux. Contestants (see `contestants`, `by_hand`, `by_loader`, `by_documentation`) run in
turns over the same files, which differ in their pixels and, just written, lie in the page cache; each is a process
started and measured from outside, start-up included. Two sizes of the archive tell start-up from rate. Answers are
compared: those of (b) must be (a)'s. All write to local disk, also where they read from S3.

Prints a Markdown table for each variant; writes it, and every run as JSON, below `output`.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mri_ray import config
from mri_ray.errors import ConfigError
from tests.benchmarks import archives, forward, s3, table
from tests.benchmarks.contestants import CONTESTANTS, Answers, Task, difference, environment
from tests.benchmarks.measure import measure
from tests.benchmarks.table import Run

_VARIANTS = ("jpeg", "dicom", "jpeg-s3", "dicom-s3")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The scoring job against the machine's limit and against what others would write; lists are split at commas."""

    data: str | None = None  # a folder of JPEG or PNG to vary; None: kaggle in $MRI_DATA, else phantoms
    files: int = 2000
    fewer: int = 500
    repeats: int = 5
    variants: str = "jpeg"
    contestants: str = ",".join(CONTESTANTS)
    forward_s: float = 20.0
    output: str = "out/benchmarks"

    def __post_init__(self) -> None:
        for name, known in (("variants", _VARIANTS), ("contestants", tuple(CONTESTANTS))):
            if unknown := [item for item in getattr(self, name).split(",") if item not in known]:
                raise ConfigError(f"{name}: must be among {','.join(known)}, got {','.join(unknown)}")
        if not 1 <= self.fewer < self.files:
            raise ConfigError(f"fewer: must be at least 1 and below files ({self.files}), got {self.fewer}")
        if self.repeats < 1:
            raise ConfigError(f"repeats: must be at least 1, got {self.repeats}")


Places = dict[str, dict[int, str]]  # the archive of each variant and size


def run(settings: Benchmark) -> str:
    """Run all, write scoring.json and scoring.md below `output`, and return the latter.

    Raises RuntimeError when a contestant fails, leaves files unanswered, or answers otherwise than it may.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as work, ExitStack() as stack:
        folder = Path(work)
        local = {kind: archives.make(folder, _data(settings), kind, _sizes(settings)) for kind in _kinds(settings)}
        bundle = archives.bundle(folder / "bundle", next(iter(local.values()))[settings.fewer])
        places = {kind: {size: str(place) for size, place in sizes.items()} for kind, sizes in local.items()}
        if "-s3" in settings.variants:
            upload = stack.enter_context(s3.server(folder / "s3"))
            places |= {f"{kind}-s3": {size: upload(place) for size, place in local[kind].items()} for kind in local}
        alone = forward.measure(bundle, settings.forward_s)
        runs = list(_all(settings, places, bundle, folder))
    facts = {"machine": table.machine(), "settings": asdict(settings), "forward": alone}
    return _report(settings, facts, runs)


def _data(settings: Benchmark) -> str | None:
    return settings.data or (f"{os.environ['MRI_DATA']}/kaggle" if os.environ.get("MRI_DATA") else None)


def _sizes(settings: Benchmark) -> tuple[int, int]:
    return settings.fewer, settings.files


def _kinds(settings: Benchmark) -> list[str]:
    return list(dict.fromkeys(variant.partition("-")[0] for variant in settings.variants.split(",")))


def _all(settings: Benchmark, places: Places, bundle: Path, folder: Path) -> Iterator[Run]:
    """Every contestant at every size, again and again; each round begins with another one."""
    keys = settings.contestants.split(",")
    for repeat, variant, size in product(range(settings.repeats), settings.variants.split(","), _sizes(settings)):
        answers: dict[str, Answers] = {}
        measured = {}
        first = repeat % len(keys)
        for key in keys[first:] + keys[:first]:
            task = Task(
                archive=places[variant][size],
                kind=variant.partition("-")[0],
                bundle=str(bundle),
                output=folder / "output",
                ray=folder / "ray",
            )
            task.ray.mkdir()
            measured[key] = measure(CONTESTANTS[key].command(task), environment(task), folder / "log")
            answers[key] = CONTESTANTS[key].answers(task.output)
            for place in (task.output, task.ray):
                shutil.rmtree(place)
            now = measured[key]
            print(f"{repeat} {variant} {size} ({key}) {now.wall_s:.1f} s wall, {now.cpu_s:.1f} s CPU", file=sys.stderr)
        if any(len(given) != size for given in answers.values()):
            raise RuntimeError(f"{size} files, answers to { {key: len(given) for key, given in answers.items()} }")
        for key in keys:
            like = CONTESTANTS[key].like
            found = difference(answers[key], answers[like]) if like in answers else None
            yield Run(
                variant=variant, contestant=key, size=size, repeat=repeat, measured=measured[key], difference=found
            )


def _report(settings: Benchmark, facts: dict[str, Any], runs: list[Run]) -> str:
    keys, variants = settings.contestants.split(","), settings.variants.split(",")
    rows = {variant: [table.summary(runs, variant, key) for key in keys] for variant in variants}
    text = table.page(facts, rows)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    document = facts | {"summary": rows, "runs": [asdict(run) for run in runs]}
    (output / "scoring.json").write_text(json.dumps(document, indent=1))
    (output / "scoring.md").write_text(text)
    print(text)
    for one in runs:
        bound = CONTESTANTS[one.contestant].bound
        if bound is not None and one.difference is not None and one.difference > bound:
            raise RuntimeError(f"({one.contestant}) answers otherwise than ({CONTESTANTS[one.contestant].like}): {one}")
    return text


def main() -> None:
    parse: Callable[..., Benchmark] = config.from_argv  # type: ignore[assignment]  # its types name the jobs' runs only
    try:
        settings = parse(Benchmark)
    except ConfigError as exc:
        raise SystemExit(str(exc)) from exc
    run(settings)


if __name__ == "__main__":
    main()
