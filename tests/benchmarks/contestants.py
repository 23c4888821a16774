"""Who is compared, how each is started, and what it answered."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from mri_ray.archive.storage import Location

Answers = dict[str, float]  # by the file's name


@dataclass(frozen=True, kw_only=True)
class Task:
    """archive: a folder or S3 prefix. output, ray: folders that are not there yet; the latter with a short name."""

    archive: str
    kind: str
    bundle: str
    output: Path
    ray: Path


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """bound: of |dp| against `like`, the contestant whose answers these should be; None: told, not held to it."""

    title: str
    command: Callable[[Task], list[str]]
    answers: Callable[[Path], Answers]
    like: str
    bound: float | None


def _job(task: Task) -> list[str]:
    pairs = {"archive": task.archive, "bundle": task.bundle, "output": task.output, "ray.temp_dir": task.ray}
    fields = [f"{name}={value}" for name, value in pairs.items()]
    return [sys.executable, "-m", "jobs.score", "--config", "configs/score.yaml", *fields]


def _module(name: str, *extra: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        given = [task.archive, task.bundle, str(task.output), *extra]
        return [sys.executable, "-m", f"tests.benchmarks.{name}", *given]

    return command


def _documented(precision: str) -> Callable[[Task], list[str]]:
    return lambda task: [*_module("by_documentation", precision)(task), task.kind]


def _of_job(output: Path) -> Answers:
    return _of_folder(Location.of(json.loads((output / "run.json").read_text())["results"]).uri.removeprefix("file://"))


def _of_folder(folder: Path | str) -> Answers:
    table = ds.dataset(str(folder), format="parquet", exclude_invalid_files=True).to_table(["uri", "probability"])
    names = [uri.rpartition("/")[2] for uri in table["uri"].to_pylist()]
    return dict(zip(names, table["probability"].to_pylist(), strict=True))


CONTESTANTS = {
    "a": Contestant(title="jobs.score", command=_job, answers=_of_job, like="a", bound=0.0),
    "b": Contestant(
        title="by hand, a process a core", command=_module("by_hand"), answers=_of_folder, like="a", bound=1e-6
    ),
    "b+": Contestant(
        title="by hand, all of the job's steps", command=_module("by_parts"), answers=_of_folder, like="a", bound=1e-6
    ),
    "c": Contestant(
        title="DataLoader, fp32 eager",
        command=_module("by_loader", "written"),
        answers=_of_folder,
        like="a",
        bound=None,
    ),
    "c+": Contestant(
        title="DataLoader, our precision",
        command=_module("by_loader", "ours"),
        answers=_of_folder,
        like="c",
        bound=0.1,
    ),
    "d": Contestant(
        title="read_images + map_batches, fp32 eager",
        command=_documented("written"),
        answers=_of_folder,
        like="c",
        bound=0.01,
    ),
    "d+": Contestant(
        title="read_images + map_batches, our precision",
        command=_documented("ours"),
        answers=_of_folder,
        like="d",
        bound=0.1,
    ),
}


def environment(task: Task) -> dict[str, str]:
    """What every contestant is started with: a user's shell, a site key for what DICOM headers name, a quiet Ray."""
    own = {"MRI_RAY_SITE_KEY": "a key of the benchmark's own", "RAY_TMPDIR": str(task.ray)}
    return os.environ | own | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def difference(answers: Mapping[str, float], others: Mapping[str, float]) -> float:
    """The largest |dp| of any file. Raises RuntimeError when the files differ, or an answer is missing."""
    if answers.keys() != others.keys():
        raise RuntimeError(f"answers to {len(answers)} files, {len(answers.keys() & others.keys())} of those asked for")
    pairs = np.array([(answers[name], others[name]) for name in answers], dtype=float)
    if not np.isfinite(pairs).all():
        raise RuntimeError(f"{int((~np.isfinite(pairs)).any(axis=1).sum())} files without an answer")
    return float(np.abs(pairs[:, 0] - pairs[:, 1]).max())
