"""Trainings beside the one that is delivered: k folds, all sources but one, and the naive split that others report."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np

from mri_ray import metrics
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.held_out import NAIVE, Division
from mri_ray.cohort.split import TEST, VALIDATION
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.settings import EvaluationConfig
from mri_ray.on_ray.progress import Tell, nobody

log = logging.getLogger(__name__)

Made = Callable[[Cohort], Bundle]  # a training, calibrated on its own validation side
Answered = Callable[[Bundle, Cohort, int], np.ndarray]  # logits of the rows of one side


def trained_beside(
    divisions: Sequence[Division],
    make: Made,
    answer: Answered,
    evaluation: EvaluationConfig,
    tell: Tell = nobody,
) -> list[dict[str, Any]]:
    """By kind: {kind, parts, pooled}; a part is {name, counts, leakage, fault, threshold, test}, the naive one's also
    {validation}.

    test, validation, pooled: what `metrics.evaluate` gives, and what it is `uncalibrated`; None with a fault. The last
    is of all test rows together, each by the network that had not seen it, at that one's threshold; None where fewer
    than two parts have any.
    """
    return [
        _kind(kind, list(parts), make, answer, evaluation, tell)
        for kind, parts in groupby(divisions, key=lambda division: division.kind)
    ]


def _kind(
    kind: str, divisions: list[Division], make: Made, answer: Answered, evaluation: EvaluationConfig, tell: Tell
) -> dict[str, Any]:
    parts, rows = [], []
    for division in divisions:
        cohort = division.cohort
        part: dict[str, Any] = {
            "name": division.name,
            "counts": cohort.counts(),
            "leakage": asdict(cohort.leakage),
            "fault": division.fault,
            "test": None,
        }
        parts.append(part)
        if division.fault:
            log.warning("%s, %s: not trained, as %s", kind, division.name, division.fault)
            continue
        log.info("%s, %s: a training of its own", kind, division.name)
        tell(training=f"{kind}, {division.name}")
        bundle = make(cohort)
        tested = _rows(bundle, cohort, TEST, answer)
        rows.append(tested)
        part |= {"threshold": bundle.threshold, "test": _figures(tested, evaluation)}
        if kind == NAIVE:
            part["validation"] = _figures(_rows(bundle, cohort, VALIDATION, answer), evaluation)
    together = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]} if len(rows) > 1 else None
    return {"kind": kind, "parts": parts, "pooled": None if together is None else _figures(together, evaluation)}


def _rows(bundle: Bundle, cohort: Cohort, side: int, answer: Answered) -> dict[str, np.ndarray]:
    mine, logits = cohort.side == side, answer(bundle, cohort, side)
    return {
        "labels": cohort.label[mine],
        "groups": cohort.group[mine],
        "logits": logits,
        "calibrated": bundle.calibrated(logits),
        "threshold": np.full(len(logits), bundle.threshold),
    }


def _figures(rows: dict[str, np.ndarray], evaluation: EvaluationConfig) -> dict[str, Any]:
    figures = metrics.evaluate(
        rows["labels"],
        rows["calibrated"],
        threshold=rows["threshold"],
        groups=rows["groups"],
        prevalences=evaluation.prevalences,
        rounds=evaluation.rounds,
    )
    return figures | {"uncalibrated": metrics.uncalibrated(rows["labels"], rows["logits"])}
