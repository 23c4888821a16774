"""The scoring job against the machine's limit and against what others would write.

    MRI_DATA=... python -m tests.benchmarks.scoring files=2000 repeats=5 variants=jpeg,dicom,jpeg-s3

in the project's folder, on Linux. Contestants (see `contestants`, `by_hand`, `by_parts`, `by_loader`,
`by_documentation`) run in turns over the same files, which differ in their pixels and, just written, lie in the page
cache; each is a process started and measured from outside, start-up included. Two sizes of the archive tell start-up
from rate (fewer=0: only one, for a single long run). Answers are compared: those of (b) and (b+) must be (a)'s. All
write to local disk, also where they read from S3, whose server shares the machine with them.

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
from tests.benchmarks.measure import Measured, measure
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
        if not 0 <= self.fewer < self.files:
            raise ConfigError(f"fewer: must be at least 0 and below files ({self.files}), got {self.fewer}")
        if self.repeats < 1:
            raise ConfigError(f"repeats: must be at least 1, got {self.repeats}")


Places = dict[str, dict[int, str]]  # the archive of each variant and size


def run(settings: Benchmark) -> str:
    """Run all, write scoring.json and scoring.md below `output` after every round, and return the latter.

    Raises RuntimeError when a contestant fails, leaves files unanswered, or answers otherwise than it may.
    """
    text, runs = "", list[Run]()
    with tempfile.TemporaryDirectory(prefix="bench-") as work, ExitStack() as stack:
        folder = Path(work)
        local = {kind: archives.make(folder, _data(settings), kind, _sizes(settings)) for kind in _kinds(settings)}
        bundle = archives.bundle(folder / "bundle", next(iter(local.values()))[settings.files])
        places = {kind: {size: str(place) for size, place in sizes.items()} for kind, sizes in local.items()}
        if "-s3" in settings.variants:
            upload = stack.enter_context(s3.server(folder / "s3"))
            places |= {f"{kind}-s3": {size: upload(place) for size, place in local[kind].items()} for kind in local}
        facts: dict[str, Any] = {"machine": table.machine(), "settings": asdict(settings)}
        facts["forward"] = forward.measure(bundle, settings.forward_s)
        facts["server"] = {name: s3.rate(at[settings.files]) for name, at in places.items() if name.endswith("-s3")}
        for number in range(settings.repeats):
            runs += _round(settings, places, bundle, folder, number)
            text = _write(settings, facts, runs)
    return text


def _data(settings: Benchmark) -> str | None:
    return settings.data or (f"{os.environ['MRI_DATA']}/kaggle" if os.environ.get("MRI_DATA") else None)


def _sizes(settings: Benchmark) -> tuple[int, ...]:
    return (settings.fewer, settings.files) if settings.fewer else (settings.files,)


def _kinds(settings: Benchmark) -> list[str]:
    return list(dict.fromkeys(variant.partition("-")[0] for variant in settings.variants.split(",")))


def _round(settings: Benchmark, places: Places, bundle: Path, folder: Path, number: int) -> Iterator[Run]:
    """Every contestant at every size of every variant; each round begins with another one."""
    keys = settings.contestants.split(",")
    first = number % len(keys)
    for variant, size in product(settings.variants.split(","), _sizes(settings)):
        measured: dict[str, Measured] = {}
        answers: dict[str, Answers] = {}
        for key in keys[first:] + keys[:first]:
            task = Task(
                archive=places[variant][size],
                kind=variant.partition("-")[0],
                bundle=str(bundle),
                output=folder / "output",
                ray=folder / "ray",
            )
            measured[key], answers[key] = _one(key, task, folder / "log")
            now = measured[key]
            print(f"{number} {variant} {size} ({key}) {now.wall_s:.1f} s wall, {now.cpu_s:.1f} s CPU", file=sys.stderr)
            if len(answers[key]) != size:
                raise RuntimeError(f"({key}) answers to {len(answers[key])} of {size} files")
        for key in keys:
            found = _against(key, answers)
            yield Run(
                variant=variant, contestant=key, size=size, repeat=number, measured=measured[key], difference=found
            )


def _one(key: str, task: Task, log: Path) -> tuple[Measured, Answers]:
    task.ray.mkdir()
    measured = measure(CONTESTANTS[key].command(task), environment(task), log)
    answers = CONTESTANTS[key].answers(task.output)
    for place in (task.output, task.ray):
        shutil.rmtree(place)
    return measured, answers


def _against(key: str, answers: dict[str, Answers]) -> float | None:
    """The largest difference to whom this contestant should be like, None when that one does not run."""
    contestant = CONTESTANTS[key]
    if contestant.like not in answers:
        return None
    found = difference(answers[key], answers[contestant.like])
    if contestant.bound is not None and found > contestant.bound:
        raise RuntimeError(
            f"({key}) answers otherwise than ({contestant.like}): by {found}, at most {contestant.bound}"
        )
    return found


def _write(settings: Benchmark, facts: dict[str, Any], runs: list[Run]) -> str:
    keys, variants = settings.contestants.split(","), settings.variants.split(",")
    rows = {variant: [table.summary(runs, variant, key) for key in keys] for variant in variants}
    text = table.page(facts | {"repeats": runs[-1].repeat + 1}, rows)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    document = facts | {"summary": rows, "runs": [asdict(run) for run in runs]}
    (output / "scoring.json").write_text(json.dumps(document, indent=1))
    (output / "scoring.md").write_text(text)
    return text


def main() -> None:
    parse: Callable[..., Benchmark] = config.from_argv
    try:
        settings = parse(Benchmark)
    except ConfigError as exc:
        raise SystemExit(str(exc)) from exc
    print(run(settings))


if __name__ == "__main__":
    main()
