"""What the pages of the report are made of: plain values, no storage, no Ray."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mri_ray.report.folders import Folders
from mri_ray.report.subgroups import Subgroups
from mri_ray.search.trials import Trial


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One slice as it was prepared. picture: uint8 (S, S). title: why it is shown, e.g. `missed tumor`.

    heat: float32 (S, S) from 0 to 1, where it sees the tumor (`predict.heatmap`); None where that is not shown.
    """

    picture: np.ndarray
    title: str
    name: str  # the last part of its URI
    probability: float
    decision: str
    label: str | None = None
    frame: int | None = None
    heat: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One object, or a slice of it, that has no answer. detail: what was wrong, as its row tells it.

    name: of its URI what lies below the archive. state: of the object, which may have other slices that do have an
    answer: then `beside` is one of them, where it may be shown.
    """

    reason: str
    state: str
    name: str
    frame: int | None
    detail: str
    beside: Example | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Slices with their answers; arrays (N,). label: int8, 1 tumor, 0 normal, -1 unknown. side: str, "" for none.

    logit: as the network gives it. group: whose slice it is, among the labelled ones. source: str, "" where there is
    one only. lesion_px: pixels of the lesion on it, NaN where that is not known.
    """

    row_id: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    probability: np.ndarray
    side: np.ndarray
    group: np.ndarray
    source: np.ndarray
    lesion_px: np.ndarray


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
    refer: tuple[float, float] | None
    study_threshold: float
    subgroups: Subgroups  # of the side that tells most
    worst_groups: list[dict[str, Any]]  # of that side: what `answers.worst_groups` gives
    bundle_digest: str
    examples: list[Example]
    warnings: list[str]
    timings_s: dict[str, float]
    versions: dict[str, str]
    settings: dict[str, Any]

    @property
    def from_folders(self) -> bool:
        """Whether names of folders tell the classes."""
        return self.settings.get("labels") is None

    @property
    def no_patients(self) -> bool:
        """Whether neither a labels file nor a header tells of any patient or study."""
        return self.from_folders and not (self.studies.get("patients") or self.studies.get("studies"))


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchFacts:
    """trials: all of them. winner: its number. seen: how many had a figure to be chosen by. figure: what it was chosen
    by, and its epoch. scheduler, algorithm, share: how the search went about it. importance: by path, summing to 1.
    cost: whether milliseconds an image were an objective. paths: that were searched. folds: of each trial, 0 for one.
    refit: whether the bundle was then trained on validation too.
    """

    trials: list[Trial]
    winner: int
    seen: int
    algorithm: str
    scheduler: str
    share: dict[str, Any]
    importance: dict[str, float]
    cost: bool
    paths: list[str]
    folds: int
    refit: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFacts(Facts):
    """history: one dict an epoch (epoch, train_loss, train_accuracy, validation_loss, validation_accuracy,
    validation_auroc or None, images_per_s, waiting, seconds). best_epoch: the one the bundle holds, from 1.
    split: by side {rows, tumor, groups}. leakage: {groups, crossing, test_rows, test_rows_with_copy_in_train}.
    operating: as in the bundle. held_out: trainings beside this one, as `on_ray.beside` tells them. audit: how well
    each trait alone tells the class (`cohort.shortcuts`). lesions: by side, how well heat maps agree with masks
    (`predict.heatmap.figures`).
    """

    history: list[dict[str, Any]]
    best_epoch: int
    split_by: str
    split: dict[str, dict[str, int]]
    leakage: dict[str, int]
    parameters: int
    operating: dict[str, Any] = field(default_factory=dict)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    audit: dict[str, dict[str, Any]] = field(default_factory=dict)
    lesions: dict[str, dict[str, Any]] = field(default_factory=dict)
    search: SearchFacts | None = None  # that the bundle came out of


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditFacts:
    """What the page of an audit shows. pictures, contradictions, shortcuts, groups: as `cohort.audit` gives them.

    leaks: of each kind of split what `cohort.audit.leaks` gives. copies: pictures (uint8 (S, S) each, with their names)
    of the most copied ones. joined: those of the largest groups. both: pairs of pictures that have two labels. told:
    counts of slices and labels.
    """

    run_id: str
    archive: str
    told: dict[str, int]
    pictures: dict[str, dict[str, int]]
    leaks: dict[str, dict[str, int]]
    groups: list[dict[str, int]]
    contradictions: dict[str, Any]
    shortcuts: dict[str, dict[str, Any]]
    copies: list[tuple[int, list[tuple[str, np.ndarray]]]]
    joined: list[tuple[int, list[tuple[str, np.ndarray]]]]
    both: list[list[tuple[str, np.ndarray]]]
    warnings: list[str]
    timings_s: dict[str, float]
    versions: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringFacts(Facts):
    """this_run: what `report.record.figures` gives; `history`, if it is
    there, is what was done by when: [{seconds, objects, quarantined, bytes}, ...], all counted from the start.
    results: its URI. decisions, flags: slices by decision and by flag. folders: None where paths are not kept.
    flagged: examples whose title is a flag. copies: pairs of a copy and its original. cases: some of every reason.
    """

    this_run: dict[str, Any] = field(default_factory=dict)
    results: str = ""
    decisions: dict[str, int] = field(default_factory=dict)
    folders: Folders | None = None
    flags: dict[str, int] = field(default_factory=dict)
    flagged: list[Example] = field(default_factory=list)
    copies: list[tuple[Example, Example]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
