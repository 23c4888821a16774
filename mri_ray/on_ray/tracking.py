"""A training's settings and epochs in MLflow, where that is installed and `MLFLOW_TRACKING_URI` says where they go."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

log = logging.getLogger(__name__)

_EXPERIMENT = "mri_ray"  # where MLFLOW_EXPERIMENT_NAME names none
_TAG = "mri_ray.fit"  # tells the run of a training that goes on
_PARAMETERS = 100  # that a request may hold


def _nobody(line: Mapping[str, Any]) -> None:
    pass


@contextmanager
def tracked(fit: str, settings: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Gives what a line of the history is told to; it goes to the run of the fit, a new one or a killed training's.

    settings: of the training, nested. No training ends because MLflow does not answer: it is told no more.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") or find_spec("mlflow") is None:
        yield _nobody
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it reports each use over the network
    from mlflow.exceptions import MlflowException

    run: _Run | None = None

    def attempt(step: Callable[[], Any]) -> Any:
        nonlocal run
        try:
            return step()
        except (MlflowException, OSError) as exc:
            run = None
            log.warning("MLflow is told no more of this training: %s", type(exc).__name__)  # its text may hold secrets

    def tell(line: Mapping[str, Any]) -> None:
        if (now := run) is not None:
            attempt(lambda: now.tell(line))

    run = attempt(lambda: _Run(fit, settings))
    ended = "FAILED"
    try:
        yield tell
        ended = "FINISHED"
    finally:
        if (last := run) is not None:
            attempt(lambda: last.end(ended))


class _Run:
    """MLflow's run of one fit."""

    def __init__(self, fit: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        before = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{fit}'", max_results=1)
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, tags={_TAG: fit}).info.run_id
        parameters = [Param(name, value) for name, value in _flat(settings)]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS])
        points = self._client.get_metric_history(self._id, "train_loss")
        self._told = max((point.step for point in points), default=0)

    def tell(self, line: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        if line["epoch"] <= self._told:  # learned again, with the same figures, after its worker was lost
            return
        now, figures = round(1000 * time.time()), dict(line)
        step = figures.pop("epoch")
        self._client.log_batch(
            self._id, [Metric(name, value, now, step) for name, value in figures.items() if value is not None]
        )
        self._told = step

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, status)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)
