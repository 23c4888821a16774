"""What the answers for studies and patients are worth, where labels exist."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray import metrics
from mri_ray.cohort.columns import codes, floats, groups, whole
from mri_ray.learn.operate import Point, operate
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig
from mri_ray.predict.studies import StudyRule, of_slices

LEAST_STUDIES = 10  # of each class, for a threshold of their own
_CLIP = 1e-7  # of a probability before it becomes a logit
_OF_ONE_CLASS = (  # of the figures of `metrics.evaluate`
    *("n", "positives", "confusion", "groups", "positive_groups", "rounds", "at_prevalence", "undefined"),
    *("sensitivity", "sensitivity_interval", "sensitivity_bootstrap"),
    *("specificity", "specificity_interval", "specificity_bootstrap"),
)


def level_labels(keys: Any, labels: np.ndarray) -> pa.Table:
    """Labels of slices -> a table of key string and label int8, ascending, for their studies or patients.

    keys: (N,), the study or patient of each slice; null is none. labels: int8 (N,), 1 tumor, 0 normal, -1 unknown.
    One with a tumor slice is tumor, one without any labelled slice unknown, any other normal: also where the lesion is
    on slices that have no label.
    """
    rows = pa.table({"key": whole(keys), "label": pa.array(labels, pa.int8())})
    rows = rows.filter(pc.is_valid(rows["key"]))
    owner, names = groups(rows, "key")
    found = np.full(names.num_rows, -1, np.int8)
    np.maximum.at(found, owner, rows["label"].to_numpy())
    return pa.table({"key": names["key"], "label": found})


def labelled(answers: pa.Table, key: str, labels: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """STUDIES or PATIENTS with the labels of their `key` (`level_labels`): label, logit and group of each, (N,).

    Those alone that have both; last, how many have a label and no answer. A group is what one patient has.
    """
    place = pc.index_in(whole(answers[key]), value_set=whole(labels["key"])).fill_null(-1).to_numpy()
    label = np.append(labels["label"].to_numpy(), np.int8(-1))[place]
    probability = floats(answers["probability"])
    chosen = (label >= 0) & np.isfinite(probability)
    inner = np.clip(probability[chosen], _CLIP, 1 - _CLIP)
    patient = codes(answers["patient_key"])
    group = np.where(patient < 0, -1 - np.arange(len(patient)), patient)  # one of nobody known stands for itself
    return label[chosen], np.log(inner) - np.log1p(-inner), group[chosen], int(((label >= 0) & ~chosen).sum())


def level_figures(
    answers: pa.Table,
    key: str,
    labels: pa.Table,
    *,
    threshold: float,
    evaluation: EvaluationConfig | None = None,
) -> dict[str, Any] | None:
    """What `metrics.evaluate` gives, for STUDIES or PATIENTS and the labels of their `key` (`level_labels`).

    Also `unanswered`: how many that have a label have no probability, and are in no figure; and `estimable`: whether
    both classes occur. With one class only its own rate is given (sensitivity or specificity), else None: a figure
    that mixes the two would tell of the class, not of the answers. None when there is nothing labelled and answered.
    """
    truth, logits, group, unanswered = labelled(answers, key, labels)
    if not len(truth):
        return None
    evaluation = evaluation or EvaluationConfig()
    # Lowered by less than float32 can tell: on the way to the logit and back a probability loses its last digits.
    found = metrics.evaluate(
        truth,
        logits,
        threshold=threshold * (1 - 1e-12),
        groups=group,
        prevalences=evaluation.prevalences,
        rounds=evaluation.rounds,
    )
    estimable = found["undefined"] is None
    if not estimable:
        found = {name: value if name in _OF_ONE_CLASS else None for name, value in found.items()}
    return {**found, "estimable": estimable, "unanswered": unanswered}


def study_point(
    rows: pa.Table,
    label: np.ndarray,
    probability: np.ndarray,
    calibration: CalibrationConfig,
    evaluation: EvaluationConfig,
) -> Point | None:
    """Where studies are decided, by slices of validation; None (as slices are) where it has too few of either class.

    rows: as of `studies.of_slices`; label 0 and 1, probability: of each.
    """
    found = of_slices(rows, probability, rule=StudyRule())
    truth, logits, group, _ = labelled(found, "study_key", level_labels(rows["study_key"], label))
    if np.bincount(truth, minlength=2).min() < LEAST_STUDIES:
        return None
    return operate(truth, logits, group, calibration, evaluation, what="studies")
