"""Divisions beside the delivered split: no group on two sides, all rows tested once, faults told."""

import numpy as np
import pyarrow as pa
import pytest

from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.held_out import FOLDS, NAIVE, SOURCES, divisions
from mri_ray.cohort.split import TEST, TRAIN, VALIDATION, SplitConfig, group_positions, leakage
from mri_ray.errors import ConfigError


def cohort(groups: int = 60, each: int = 5, label=None) -> Cohort:
    group = np.repeat(np.arange(groups), each).astype(np.int32)
    n = len(group)
    row_ids = [f"row{i:05d}" for i in range(n)]
    side = (group % 3).astype(np.int8)
    return Cohort(
        index=pa.table({"row_id": row_ids}),
        label=(np.arange(n) % 2).astype(np.int8) if label is None else label,
        group=group,
        side=side,
        position=group_positions(7, row_ids, [f"patient{g}" for g in group], group),
        source=(group % 2).astype(np.int16),
        sources=["left", "right"],
        lesion_px=np.full(n, np.nan),
        leakage=leakage(side, group),
        unlabelled=0,
        labels_without_file=0,
        weak=0,
        nameless=0,
        mask_known=np.zeros(n, bool),
    )


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_test_every_row_once_and_part_no_group(folds: int) -> None:
    whole = cohort()
    found = divisions(whole, SplitConfig(folds=folds), naive=False, seed=7)
    assert [division.kind for division in found] == [FOLDS] * folds
    tested = np.zeros(len(whole.label), int)
    for division in found:
        assert division.fault is None
        assert division.cohort.leakage.crossing == 0
        tested += division.cohort.side == TEST
        validation = np.unique(whole.group[division.cohort.side == VALIDATION])
        assert len(validation) == pytest.approx(0.15 / 0.85 * 60 * (1 - 1 / folds), abs=7)
    assert (tested == 1).all()
    again = divisions(whole, SplitConfig(folds=folds), naive=False, seed=7)
    assert all((a.cohort.side == b.cohort.side).all() for a, b in zip(found, again, strict=True))


def test_a_source_is_tested_by_what_never_met_it() -> None:
    whole = cohort()
    shared = whole.group == 0
    whole.source[np.flatnonzero(shared)[:2]] = 1  # group 0 now stands in both sources
    found = divisions(whole, SplitConfig(by_source=True), naive=False, seed=7)
    assert [division.kind for division in found] == [SOURCES, SOURCES]
    assert found[0].name == "left, by what was learned from right"
    for number, division in enumerate(found):
        part = division.cohort
        assert (part.source[part.side == TEST] == number).all()
        assert (part.source[part.side != TEST] != number).all()
        assert (part.side == TEST).sum() == (whole.source == number).sum()
        assert part.leakage.crossing == 0
        assert part.index.num_rows == len(part.side) == len(part.label)


def test_the_naive_split_tears_groups_apart() -> None:
    (found,) = divisions(cohort(), SplitConfig(), naive=True, seed=7)
    assert found.kind == NAIVE
    assert found.cohort.leakage.crossing > 30
    assert len(np.unique(found.cohort.side)) == 3


def test_what_cannot_be_trained_says_why() -> None:
    whole = cohort()
    label = (whole.source == 0).astype(np.int8)
    found = divisions(cohort(label=label), SplitConfig(by_source=True), naive=False, seed=7)
    assert [division.fault for division in found] == ["its training side would hold one class only"] * 2
    tiny = divisions(cohort(groups=2), SplitConfig(folds=2), naive=False, seed=7)
    assert all("side would" in (division.fault or "") for division in tiny)


def test_nothing_is_asked_for_by_default() -> None:
    assert divisions(cohort(), SplitConfig(), naive=False, seed=7) == []


@pytest.mark.parametrize("folds", [1, -1, 21, True, 2.5])
def test_folds_are_checked(folds) -> None:
    with pytest.raises(ConfigError, match="folds: must be 0 for none, or from 2 to 20"):
        SplitConfig(folds=folds)


def test_training_sides_hold_both_classes_where_there_is_no_fault() -> None:
    for division in divisions(cohort(), SplitConfig(folds=4, by_source=True), naive=True, seed=1):
        part = division.cohort
        assert division.fault is None
        assert set(part.label[part.side == TRAIN]) == {0, 1}
