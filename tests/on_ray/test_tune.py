"""Searches of tiny trainings on phantoms, from the archive to the bundle."""

import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError, TrainingFailed
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import tune
from mri_ray.on_ray.settings import TrainRun, TuneRun

pytestmark = pytest.mark.slow

SPACE = {
    "optimiser.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.width": {"choice": [2, 4]},
    "augment.rotation_deg": {"uniform": [0, 20]},
}


@pytest.fixture
def given(ray_cluster, small, archive, trained, tmp_path) -> dict[str, Any]:
    """Settings of a search over what the archive's other tests have prepared."""
    return small | {
        "archive": str(archive),
        "labels": f"{archive.parent}/labels.csv",
        "cache": str(Path(trained["bundle"].removeprefix("file://")).parent),
        "output": str(tmp_path / "search"),
        "search": SPACE,
        "split": {"validation": 0.25, "test": 0.25},
        "train": small["train"] | {"workers": 1, "epochs": 2},
        "evaluation": {"rounds": 100},
    }


def searched(given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tune.run(config.build(TuneRun, given | changes)).values


def prepared(given: dict[str, Any]) -> dict[Path, int]:
    """Files of prepared rows, and when each was written."""
    found = {path: path.stat().st_mtime_ns for path in (Path(given["cache"]) / "prepared").rglob("*.parquet")}
    assert found
    return found


def table(given: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(f"{given['output']}/trials.parquet").to_pylist()


def test_a_search_by_asha_and_optuna_ends_in_a_bundle_and_says_why(given):
    decoded = prepared(given)
    values = searched(given, tune={"trials": 4, "grace": 1, "reduction": 2, "startup": 2})
    output, rows = Path(given["output"]), table(given)
    assert [row["trial_id"] for row in rows] == ["0000", "0001", "0002", "0003"]
    assert {row["state"] for row in rows} <= {"done", "stopped"}
    assert json.loads(rows[0]["settings"]) == {}
    found = values["search"]
    best = max(rows, key=lambda row: row["validation_auroc"])
    assert found["winner"] == best["trial_id"]
    assert (found["seen"], found["trials"]) == (4, 4)
    told = values["progress"]["trials"]
    assert (told["planned"], told["ended"], told["under_way"]) == (4, 4, {})
    assert told["best_validation_auroc"] == max(row["validation_auroc"] for row in rows)
    # The bundle is that of the winner's best epoch.
    history = values["history"]
    assert history[values["best_epoch"] - 1]["validation_auroc"] == pytest.approx(found["validation_auroc"])
    bundle = bundles.load(Location.of(values["bundle"]))
    settings = json.loads(best["settings"])
    assert bundle.model.width == settings.get("model.width", given["model"]["width"])
    assert bundle.training["search"]["winner"] == best["trial_id"]
    assert bundle.metrics["test"]["n"] > 0
    again = config.load(TrainRun, output / "best.yaml")
    assert again.model == bundle.model
    assert again.optimiser.learning_rate == settings.get("optimiser.learning_rate", 2e-3)
    assert yaml.safe_load((output / "best.yaml").read_text())["archive"] == given["archive"]
    page = (output / "report.html").read_text()
    assert "chosen among 4 trials" in page
    assert "AUROC of the test side" in page
    assert not (output / "search").exists() or not list((output / "search").rglob("*.safetensors"))
    assert list((output / "tensorboard").glob("trial-0003/*"))
    assert prepared(given) == decoded, "no trial decodes what is there"


def test_a_population_changes_in_flight_and_the_report_shows_it(given):
    tune_it = {"trials": 3, "scheduler": "pbt", "perturb_epochs": 1, "algorithm": "random"}
    # So many that all trials are under way at once for some time, whenever each has started.
    searched(given, tune=tune_it, train=given["train"] | {"epochs": 12, "patience": None})
    rows = table(given)
    assert [row["state"] for row in rows] == ["done"] * 3
    assert all(row["epochs"] == 12 for row in rows)
    assert sum(row["changes"] for row in rows) > 0
    page = (Path(given["output"]) / "report.html").read_text()
    assert "Changes in flight" in page
    assert "optimiser.learning_rate" in page.split("Changes in flight")[1]


def test_trials_that_fail_are_told_and_the_search_goes_on(given):
    space = {"optimiser.learning_rate": {"choice": [2e-3, 1e30]}}
    values = searched(
        given,
        search=space,
        tune={"trials": 2, "algorithm": "grid", "scheduler": "none", "max_failures": 0, "default_first": False},
    )
    good, bad = table(given)
    assert (good["state"], bad["state"]) == ("done", "failed")
    assert "loss: must stay finite" in bad["reason"]
    assert values["search"]["by_state"] == {"done": 1, "failed": 1}
    assert any("1 trials failed" in warning for warning in values["warnings"])


def test_a_trial_whose_worker_is_killed_goes_on_and_one_without_enough_memory_fails_in_the_end(given):
    """Real faults of real processes: SIGKILL, and a limit of memory that the kernel keeps."""
    taken: list[int] = []  # bytes that the first worker had for itself, before it was killed
    met: dict[int, set[int]] = {0: set(), 1: set()}  # worker processes by trial, of which one runs at a time

    def harm(over: threading.Event) -> None:
        while not over.wait(0.01):
            for trial in under_way(given):
                for worker in training_workers() - met[0] - met[1]:
                    if trial["number"]:
                        met[1].add(worker)
                        resource.prlimit(worker, resource.RLIMIT_DATA, (taken[0] + 400 * 2**20,) * 2)
                    elif trial["history"]:
                        met[0].add(worker)
                        if not taken:
                            taken.append(psutil.Process(worker).memory_info().data)
                            os.kill(worker, signal.SIGKILL)

    how = {"trials": 2, "concurrent": 1, "algorithm": "grid", "scheduler": "none", "max_failures": 1}
    with beside(harm):
        values = searched(
            given,
            search={"model.width": {"choice": [4, 256]}},
            tune=how | {"default_first": False},
            train=given["train"] | {"epochs": 5, "batch_size": 64},
        )
    killed, short = table(given)
    assert (killed["state"], killed["resumed"], killed["epochs"]) == ("done", 1, 5)
    assert (short["state"], short["resumed"], short["epochs"]) == ("failed", 1, 0)
    assert "memory: must do for" in short["reason"]
    assert "lower train.batch_size or model.width" in short["reason"]
    assert [len(workers) for workers in met.values()] == [2, 2]
    assert values["search"]["winner"] == "0000"


@contextmanager
def beside(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Something that goes on in a thread of its own until it is told that it is over; what it raises is raised here."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act, over)
        try:
            yield
        finally:
            over.set()
        acting.result()


def under_way(given: dict[str, Any]) -> list[dict[str, Any]]:
    with suppress(FileNotFoundError):  # a search that has ended takes them away
        files = Path(given["output"]).glob("search/*/trials/*.json")
        return [one for one in (json.loads(path.read_text()) for path in files) if one["state"] == "running"]
    return []


def training_workers() -> set[int]:
    """Processes of this test's Ray in which trainings run."""
    with suppress(psutil.NoSuchProcess):
        every = psutil.Process().children(recursive=True)
        return {one.pid for one in every if "RayTrainWorker" in " ".join(one.cmdline())}
    return set()


def test_folds_a_preparation_of_its_own_and_a_refit(given, masks):
    given["search"] = {"prepare.size": {"choice": [32, 64]}, "model.width": {"choice": [2, 4]}}
    given["model"] = given["model"] | {"blocks": 3, "masks": True}
    values = searched(
        given,
        masks=str(masks),
        tune={"trials": 2, "folds": 2, "final": "refit", "cost": True, "grace": 2, "startup": 1},
    )
    rows = table(given)
    assert all(row["epochs"] <= 2 and row["planned"] == 2 for row in rows)
    assert set(values["split"]) == {"train", "validation", "test"}
    assert values["split"]["validation"]["rows"] == 0
    assert "validation" not in values["metrics"] or values["metrics"]["validation"]["n"] == 0
    assert any("trained again" in warning for warning in values["warnings"])
    assert bundles.load(Location.of(values["bundle"])).model.masks
    assert values["lesions"]["test"]["dice"] >= 0
    assert {path.name for path in (Path(given["output"]) / "tensorboard").glob("trial-0000-*")} == {
        "trial-0000-fold-1",
        "trial-0000-fold-2",
    }


def test_worker_hours_end_a_search_with_median_stopping(given):
    hours = 0.001
    how = {"trials": 200, "scheduler": "median", "algorithm": "random", "grace": 1, "concurrent": 2}
    found = searched(given, tune=how | {"worker_hours": hours}, train=given["train"] | {"epochs": 3})["search"]
    rows = table(given)
    assert found["worker_hours"] > hours
    assert len(rows) < 50
    assert sum(row["worker_hours"] for row in rows) == pytest.approx(found["worker_hours"], abs=1e-3)
    assert {row["state"] for row in rows} <= {"done", "stopped", "cut"}
    assert rows[-1]["reason"] is None or "tune.worker_hours" in rows[-1]["reason"] or "median" in rows[-1]["reason"]


def test_a_budget_cuts_what_is_under_way_and_a_search_without_figures_fails(given):
    with pytest.raises(TrainingFailed, match=r"tune\.max_minutes"):
        searched(given, tune={"trials": 2, "max_minutes": 1e-4})
    assert {row["state"] for row in table(given)} <= {"cut"}
    with pytest.raises(ConfigError, match=r"with the settings and the archive of the search to go on with.*search"):
        searched(given, resume=True, search={"model.width": {"choice": [2, 8]}})
