"""Whether a search is worth its time: its winner against the config it began with, and ASHA against chance.

    python -m tests.benchmarks.search archive=A labels=L masks=M output=out/search minutes=55

in the project's folder, on a machine with nothing else to do. With what=winner (default): one search; then the winner's
settings and the default's are each trained on 3 folds of patients (`split.folds`), which their networks have not
seen: the figures of the folds together, and the milliseconds an image of both. Some of the folds' test patients are of
the validation side that the winner was chosen by; those of the search's own test side are not, and there the difference
of AUROC is given with a paired bootstrap over patients. With what=asha: a search by Optuna and ASHA, then one at random
without early stopping, with the worker-hours that the first has taken.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from mri_ray import config, metrics
from mri_ray.errors import ConfigError
from mri_ray.learn.settings import ModelConfig
from mri_ray.on_ray.settings import TrainRun, TuneRun
from mri_ray.predict.cost import ms_per_image
from mri_ray.prepare.settings import PrepareConfig

_ROUNDS = 2000


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One of two questions about a search; epochs of both trainings are those of the config."""

    archive: str
    output: str
    labels: str  # a CSV with path, label and patient_id
    masks: str | None = None
    what: str = "winner"
    minutes: float = 55.0
    folds: int = 3
    config: str = "configs/tune.yaml"
    more: tuple[str, ...] = ()  # further key=value pairs of the search

    def __post_init__(self) -> None:
        if self.what not in ("winner", "asha"):
            raise ConfigError(f"what: must be winner or asha, got {self.what!r}")


def run(settings: Benchmark) -> str:
    """Do it, and return what is to be told; numbers also lie in search.json below `output`."""
    found = _winner(settings) if settings.what == "winner" else _asha(settings)
    output = Path(settings.output)
    (output / "search.json").write_text(json.dumps(found, indent=2))
    return "\n".join(f"{name}: {value}" for name, value in found.items())


def _search(settings: Benchmark, name: str, *pairs: str) -> dict[str, Any]:
    from mri_ray.on_ray import tune

    given = [f"archive={settings.archive}", f"output={settings.output}/{name}", f"cache={settings.output}/cache"]
    given += [f"{key}={value}" for key in ("labels", "masks") if (value := getattr(settings, key)) is not None]
    return tune.run(config.load(TuneRun, settings.config, [*given, *settings.more, *pairs])).values


def _winner(settings: Benchmark) -> dict[str, Any]:
    from mri_ray.on_ray import train

    searched = _search(settings, "search", f"tune.max_minutes={settings.minutes}")
    best = yaml.safe_load((Path(settings.output) / "search" / "best.yaml").read_text())
    plain = {key: value for key, value in searched["settings"].items() if key not in ("search", "tune", "resume")}
    found: dict[str, Any] = {
        "trials": searched["search"]["by_state"],
        "winner's validation AUROC": searched["search"]["validation_auroc"],
        "winner's test AUROC": searched["metrics"]["test"]["auroc"],
        "winner's settings": searched["search"]["settings"],
    }
    answers = {}
    for name, values in (("default", plain), ("winner", best)):
        output = f"{settings.output}/{name}"
        split = values["split"] | {"folds": settings.folds}
        run = config.build(TrainRun, values | {"output": output, "cache": f"{settings.output}/cache", "split": split})
        values = train.run(run).values
        pooled = next(one for one in values["held_out"] if one["kind"] == "folds")
        answers[name] = values
        found[f"{name}, {settings.folds} folds"] = pooled["pooled"]["auroc"]
        found[f"{name}, its intervals"] = pooled["pooled"].get("auroc_bootstrap")
        found[f"{name}, test"] = values["metrics"]["test"]["auroc"]
        cost = ms_per_image(config_of(values, ModelConfig, "model"), config_of(values, PrepareConfig, "prepare"))
        found[f"{name}, ms an image"] = round(cost[0], 3)
    low, high, mean = _paired(answers["default"], answers["winner"], settings.labels)
    found["test AUROC, winner less default, paired bootstrap over patients"] = f"{mean:+.4f} ({low:+.4f}, {high:+.4f})"
    return found


def config_of(values: dict[str, Any], kind: type, name: str) -> Any:
    told = values["settings"][name]
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})


def _paired(default: dict[str, Any], winner: dict[str, Any], file: str) -> tuple[float, float, float]:
    """The difference of test AUROC: 95 % of a bootstrap that draws the same patients for both, and itself."""
    one, other = (_test_rows(values, file) for values in (default, winner))
    labels, groups = one["label"], one["group"]
    assert len(labels) == len(other["label"]), "both have the same test side"
    names, inverse = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(inverse == number) for number in range(len(names))]
    rng, found = np.random.default_rng(0), []
    for _ in range(_ROUNDS):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        areas = [metrics.auroc(labels[drawn], part["logit"][drawn]) for part in (other, one)]
        if None not in areas:
            found.append(areas[0] - areas[1])
    whole = metrics.auroc(labels, other["logit"]) - metrics.auroc(labels, one["logit"])
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high), float(whole)


def _test_rows(values: dict[str, Any], labels: str) -> dict[str, np.ndarray]:
    """Of the bundle's test side, in one order: labels, patients and logits."""
    told = {row["path"]: row for row in csv.DictReader(Path(labels).read_text().splitlines())}
    sides = pq.read_table(f"{values['bundle'].removeprefix('file://')}/sides.parquet").to_pylist()
    tested = {row["pixel_digest"] for row in sides if row["side"] == 2}
    root = f"file://{Path(values['settings']['archive']).resolve()}/"
    results = pq.read_table(values["results"].removeprefix("file://")).sort_by("row_id").to_pylist()
    rows = [row for row in results if row["pixel_digest"] in tested]
    mine = [told[row["uri"].removeprefix(root)] for row in rows]
    return {
        "label": np.array([int(row["label"] == "tumor") for row in mine]),
        "group": np.array([row["patient_id"] for row in mine]),
        "logit": np.array([row["logit"] for row in rows]),
    }


def _asha(settings: Benchmark) -> dict[str, Any]:
    first = _search(settings, "asha", f"tune.max_minutes={settings.minutes}", "tune.cost=false")["search"]
    hours = first["worker_hours"]
    pairs = [
        "tune.algorithm=random",
        "tune.scheduler=none",
        f"tune.worker_hours={hours}",
        "tune.max_minutes=null",
        "tune.cost=false",
    ]
    second = _search(settings, "random", *pairs, "tune.trials=1000")["search"]
    found: dict[str, Any] = {}
    for name, told in (("optuna and asha", first), ("at random", second)):
        found[name] = {key: told[key] for key in ("by_state", "worker_hours", "validation_auroc", "saved_worker_hours")}
    return found


def main() -> None:
    parse: Callable[..., Benchmark] = config.from_argv
    print(run(parse(Benchmark)))


if __name__ == "__main__":
    main()
