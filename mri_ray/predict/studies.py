"""Answers for slices -> answers for studies and patients.

A study's probability is the mean of its highest slice probabilities (`StudyRule.top`): one noisy slice does not decide,
a small lesion on three slices does. It is no calibrated probability of the study: the more slices, the higher the
highest of them, so that studies of very different sizes compare badly.

Each slice with an answer is in exactly one of these counts:

blank     nothing to see; never counts
copies    the same picture again within the study; it counts once
left_out  of a kind that `StudyRule.leave_out` names; counts only where a study has nothing else (StudyFlag.ONLY)
counted   the others, of which `positive`, `refer` and `negative` tell the decisions
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.cohort.columns import (
    cast,
    codes,
    flag_lists,
    flagged,
    floats,
    groups,
    least,
    outcomes,
    ranks,
    starts,
    whole,
)
from mri_ray.cohort.series import SERIES, SeriesFlag
from mri_ray.errors import ConfigError
from mri_ray.predict.predictor import decide
from mri_ray.records import SCHEMA_VERSION, Decision, Flag, State


class StudyFlag(StrEnum):
    """What a reader should know about a study, beside the flags of its series (`SeriesFlag`)."""

    ONLY = "only.left_out"  # it has no other slices than such as are left out elsewhere; here they count


@dataclass(frozen=True, kw_only=True)
class StudyRule:
    """How slices make a study. top: the mean of so many highest probabilities, of fewer where a study has fewer.

    leave_out: flags of slices that do not count; blank slices and copies never do.
    """

    top: int = 3
    leave_out: tuple[Flag, ...] = (Flag.LOCALIZER, Flag.DERIVED, Flag.SECONDARY)

    def __post_init__(self) -> None:
        if isinstance(self.top, bool) or not isinstance(self.top, int) or self.top < 1:
            raise ConfigError(f"top: must be a whole number of at least 1, got {self.top!r}")
        known = [flag.value for flag in Flag]
        if isinstance(self.leave_out, str) or not all(flag in known for flag in self.leave_out):
            raise ConfigError(f"leave_out: must list flags among {', '.join(known)}, got {self.leave_out!r}")


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"mri_ray.table": name, "mri_ray.version": str(SCHEMA_VERSION)})


def _counts(*names: str) -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, pa.int32(), nullable=False) for name in names)


# Of rows: slices have an answer, duplicates are those of them in an object that is a copy of another anywhere.
_ROWS = ("slices", "duplicates", "failed", "skipped", "blank", "copies", "left_out", "counted")
_DECISIONS = tuple(decision.value for decision in Decision)  # of the counted ones

# One row a study. What is told of a probability is null where no slice counts.
STUDIES = _schema(
    "studies",
    pa.field("study_key", pa.string(), nullable=False),
    pa.field("patient_key", pa.string()),
    pa.field("acquired", pa.date32()),  # the earliest of its rows
    *_counts("series", *_ROWS, *_DECISIONS),
    pa.field("probability", pa.float32()),
    pa.field("decision", pa.string()),
    pa.field("worst_row_id", pa.string()),  # the counted slice of the highest probability
    pa.field("worst_probability", pa.float32()),
    pa.field("flags", pa.list_(pa.string()), nullable=False),  # of StudyFlag, and of the series with counted slices
)

# One row a patient: the answer of the study with the highest probability, and the sums of all studies' counts.
PATIENTS = _schema(
    "patients",
    pa.field("patient_key", pa.string(), nullable=False),
    *_counts("studies", "unanswered", "series", *_ROWS, *_DECISIONS),
    pa.field("probability", pa.float32()),
    pa.field("decision", pa.string()),
    pa.field("worst_study_key", pa.string()),
    pa.field("worst_row_id", pa.string()),
    pa.field("worst_probability", pa.float32()),
    pa.field("flags", pa.list_(pa.string()), nullable=False),
)

COLUMNS = [  # of records.RESULTS: what `studies` reads
    *("row_id", "state", "reason", "flags", "pixel_digest", "patient_key", "study_key", "series_key", "acquired"),
    *("probability", "decision"),
]


def studies(
    rows: pa.Table, series: pa.Table, *, rule: StudyRule, threshold: float, refer: tuple[float, float] | None
) -> pa.Table:
    """Rows (with COLUMNS) and their series (`cohort.series.SERIES`) -> STUDIES, ascending by study_key.

    threshold, refer: as of `predictor.decide`. Rows without study_key belong to no study.
    """
    rows = rows.select(COLUMNS).filter(pc.is_valid(rows["study_key"]))
    owner, names = groups(rows, "study_key")
    count = names.num_rows
    patient, patients_differ = least(rows["patient_key"], owner, count)
    probability = floats(rows["probability"])
    order = ranks(rows["row_id"])
    kinds = _kinds(rows, owner, np.isfinite(probability), order, rule)
    counted = np.flatnonzero(kinds["counted"])
    flags = [*SeriesFlag, StudyFlag.ONLY]
    held = np.zeros((count, len(flags)), bool)
    held[:, :-1] = _series_flags(rows.take(pa.array(counted)), series, names["study_key"])
    held[:, flags.index(SeriesFlag.MIXED_PATIENTS)] |= patients_differ
    held[owner[counted[flagged(rows["flags"], rule.leave_out)[counted]]], -1] = True
    found = {
        "study_key": names["study_key"],
        "patient_key": patient,
        "acquired": least(rows["acquired"], owner, count)[0],
        "series": _distinct(owner, codes(rows["series_key"]), count),
        **{name: np.bincount(owner[where], minlength=count) for name, where in kinds.items()},
        **_answers(rows["row_id"], probability, order, owner, counted, count, rule.top),
        "flags": flag_lists(held, flags),
    }
    found["decision"] = _decisions(found["probability"], threshold, refer)
    return pa.table([cast(found[field.name], field.type) for field in STUDIES], schema=STUDIES)


def of_slices(rows: pa.Table, probability: np.ndarray, *, rule: StudyRule) -> pa.Table:
    """STUDIES of prepared slices (with COLUMNS but for state, probability and decision) whose probability is known."""
    told = {"state": pa.repeat(State.SCORED.value, rows.num_rows), "probability": pa.array(probability)}
    told["decision"] = pa.nulls(rows.num_rows, pa.string())
    whole_rows = pa.table({**{name: rows[name] for name in COLUMNS if name not in told}, **told})
    return studies(whole_rows, SERIES.empty_table(), rule=rule, threshold=0.5, refer=None)


def patients(studies: pa.Table) -> pa.Table:
    """STUDIES -> PATIENTS, ascending by patient_key. Studies without patient_key belong to no patient."""
    studies = studies.filter(pc.is_valid(studies["patient_key"]))
    owner, names = groups(studies, "patient_key")
    count = names.num_rows
    probability = floats(studies["probability"])
    order = np.lexsort((ranks(studies["study_key"]), -probability, owner))  # NaN stands last
    worst = studies.take(pa.array(order[starts(owner[order])]))
    flags = [*SeriesFlag, StudyFlag.ONLY]
    held = np.zeros((count, len(flags)), bool)
    for number, flag in enumerate(flags):
        held[owner[flagged(studies["flags"], [flag])], number] = True
    counts = {
        name: np.bincount(owner, weights=floats(studies[name]), minlength=count)
        for name in ("series", *_ROWS, *_DECISIONS)
    }
    found = {
        "patient_key": names["patient_key"],
        "studies": np.bincount(owner, minlength=count),
        "unanswered": np.bincount(owner[np.isnan(probability)], minlength=count),
        **counts,
        **{name: worst[name] for name in ("probability", "decision", "worst_row_id", "worst_probability")},
        "worst_study_key": pc.if_else(pc.is_valid(worst["probability"]), worst["study_key"], None),
        "flags": flag_lists(held, flags),
    }
    return pa.table([cast(found[field.name], field.type) for field in PATIENTS], schema=PATIENTS)


def _kinds(
    rows: pa.Table, owner: np.ndarray, slices: np.ndarray, order: np.ndarray, rule: StudyRule
) -> dict[str, np.ndarray]:
    """By the name of a column of STUDIES, which rows it counts; bool (N,) each."""
    _, skipped = outcomes(rows["reason"])
    duplicate = slices & _equal(rows["state"], State.DUPLICATE)
    blank, aside = slices & flagged(rows["flags"], [Flag.BLANK]), flagged(rows["flags"], rule.leave_out)
    copies = np.zeros(len(owner), bool)
    picture = codes(rows["pixel_digest"])
    at = np.flatnonzero(slices & ~blank & (picture >= 0))
    # Of equal pictures the one that counts is kept, and before a duplicate what it is a duplicate of.
    at = at[np.lexsort((order[at], duplicate[at], aside[at], picture[at], owner[at]))]
    copies[at] = ~starts(owner[at], picture[at])
    usable = slices & ~blank & ~copies
    has_plain = np.zeros(owner.max(initial=-1) + 1, bool)
    has_plain[owner[usable & ~aside]] = True
    counted = usable & ~(aside & has_plain[owner])
    return {
        "slices": slices,
        "duplicates": duplicate,
        "failed": ~slices & ~skipped,
        "skipped": ~slices & skipped,
        "blank": blank,
        "copies": copies,
        "left_out": usable & ~counted,
        "counted": counted,
        **{name: counted & _equal(rows["decision"], name) for name in _DECISIONS},
    }


def _answers(
    row_ids: Any,
    probability: np.ndarray,
    order: np.ndarray,
    owner: np.ndarray,
    counted: np.ndarray,
    count: int,
    top: int,
) -> dict[str, pa.Array]:
    """The answer of each study from its counted rows (positions). order: of the rows, settles ties."""
    at = counted[np.lexsort((order[counted], -probability[counted], owner[counted]))]
    begins = starts(owner[at])
    nth = np.arange(len(at)) - np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
    high = at[nth < top]
    number = np.bincount(owner[high], minlength=count)
    total = np.bincount(owner[high], weights=probability[high], minlength=count)
    first = np.zeros(count, np.int64)
    first[owner[at[begins]]] = at[begins]
    place = pa.array(first, mask=number == 0)
    mean = (total / np.maximum(number, 1)).astype(np.float32)
    return {
        "probability": pa.array(mean, mask=number == 0),
        "worst_row_id": whole(row_ids).take(place),
        "worst_probability": pa.array(probability).take(place),
    }


def _decisions(probability: pa.Array, threshold: float, refer: tuple[float, float] | None) -> pa.Array:
    known = probability.is_valid()
    told = decide(probability.filter(known).to_numpy(), threshold=threshold, refer=refer)
    place = np.cumsum(known.to_numpy(zero_copy_only=False)) - 1
    return pa.array([decision.value for decision in told], pa.string()).take(
        pa.array(place, mask=~known.to_numpy(zero_copy_only=False))
    )


def _series_flags(counted: pa.Table, series: pa.Table, study_keys: Any) -> np.ndarray:
    """Which flags the series with counted rows have, bool (studies, SeriesFlag)."""
    names = groups(counted, "study_key", "series_key")[1]
    series = series.filter(pc.is_in(_pair(series), value_set=whole(_pair(names)).drop_null()))
    place = pc.index_in(whole(series["study_key"]), value_set=whole(study_keys)).to_numpy()
    held = np.zeros((len(study_keys), len(SeriesFlag)), bool)
    for number, flag in enumerate(SeriesFlag):
        held[place[flagged(series["flags"], [flag])], number] = True
    return held


def _pair(table: pa.Table) -> Any:
    """Study and series as one text, null without either: a series key may occur in several studies."""
    return pc.binary_join_element_wise(table["study_key"], table["series_key"], "\n")


def _distinct(owner: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    """How many different codes each owner has, those below 0 not counted."""
    known = code >= 0
    pairs = np.unique(owner[known] * (code.max(initial=0) + 1) + code[known])
    return np.bincount(pairs // (code.max(initial=0) + 1), minlength=count)


def _equal(column: Any, value: str) -> np.ndarray:
    return pc.fill_null(pc.equal(whole(column), str(value)), False).to_numpy(zero_copy_only=False)
