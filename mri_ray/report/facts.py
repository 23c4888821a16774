"""What the pages of the report are made of: plain values, no storage, no Ray."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One slice as the model saw it. picture: uint8 (S, S). title: why it is shown, e.g. `missed tumor`."""

    picture: np.ndarray
    title: str
    name: str  # the last part of its URI
    probability: float
    decision: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Slices with their answers; arrays (N,). label: int8, 1 tumor, 0 normal, -1 unknown. side: str, "" for none."""

    row_id: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    probability: np.ndarray
    side: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What both pages show."""

    run_id: str
    archive: str
    headline: str  # one sentence on what this is and what its figures are about
    counts: dict[str, int]  # objects, and by state
    packs: int  # opened; their members are the objects counted
    reasons: dict[str, int]  # rows by reason code
    answers: Answers
    metrics: dict[str, dict[str, Any]]  # by side: what metrics.evaluate gives
    levels: dict[str, dict[str, dict[str, Any]]]  # `study` and `patient`, by side: what predict.levels gives
    studies: dict[str, int]  # how many studies and patients the slices belong to, and series by flag
    threshold: float
    bundle_digest: str
    examples: list[Example]
    warnings: list[str]
    timings_s: dict[str, float]
    versions: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFacts(Facts):
    """history: one dict an epoch (epoch, train_loss, train_accuracy, validation_loss, validation_accuracy,
    validation_auroc or None, images_per_s, waiting, seconds). best_epoch: the one the bundle holds, from 1.
    split: by side {rows, tumor, groups}. leakage: {groups, crossing, test_rows, test_rows_with_copy_in_train}.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    split_by: str
    split: dict[str, dict[str, int]]
    leakage: dict[str, int]
    parameters: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringFacts(Facts):
    """this_run: what `report.record.figures` gives. results: its URI."""

    this_run: dict[str, Any] = field(default_factory=dict)
    results: str = ""
