"""Traits that tell the class are found, and those that only know their group are not."""

import numpy as np
import pyarrow as pa
import pytest

from mri_ray.cohort import shortcuts
from mri_ray.cohort.shortcuts import KEPT, REMOVED, AuditConfig, Trait
from mri_ray.errors import ConfigError
from mri_ray.records import prepared_schema

CONFIG = AuditConfig()


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Labels and groups of 900 rows in 150 groups, each of one class."""
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(150, size=900))
    return (rng.random(150) < 0.4)[group].astype(np.int8), group, rng


def judged(trait: Trait, label, group, config=CONFIG):
    return shortcuts.shortcuts(iter([trait]), label, group, config, 0)[trait.name]


def test_a_trait_that_goes_with_the_class_is_suspect(cohort):
    label, group, rng = cohort
    size = np.where(label == 1, 512, rng.choice([225, 400, 512], size=900, p=[0.5, 0.4, 0.1]))[:, None].astype(float)
    found = judged(Trait(name="size", values=size, removed=REMOVED), label, group)
    low, high = found["auroc_interval"]
    assert 0.9 < low <= found["auroc"] <= high <= 1
    assert (found["known"], found["removed"], found["suspect"]) == (1.0, "yes", True)


def test_words_are_held_against_the_class_too(cohort):
    label, group, rng = cohort
    mode = np.where(rng.random(900) < 0.9, label, 1 - label).astype(np.int64)
    found = judged(Trait(name="mode", values=mode, removed=REMOVED), label, group)
    assert found["auroc"] == pytest.approx(0.9, abs=0.03)
    assert found["suspect"]


@pytest.mark.parametrize("kind", ["numbers", "words"])
def test_what_only_names_the_group_tells_nothing_of_others(cohort, kind):
    label, group, _ = cohort
    values = np.random.default_rng(1).permutation(150)[group]
    values = values[:, None].astype(float) if kind == "numbers" else values.astype(np.int64)
    found = judged(Trait(name="name", values=values, removed=KEPT), label, group)
    assert found["auroc"] < 0.65
    assert not found["suspect"]


def test_that_a_trait_is_unknown_may_tell_as_well(cohort):
    label, group, _ = cohort
    for values in (
        np.where(label == 1, 1.5, np.nan)[:, None],
        np.where(label == 1, 0, -1).astype(np.int64),
    ):
        found = judged(Trait(name="field strength", values=values, removed=KEPT), label, group)
        assert found["auroc"] > 0.99
        assert found["known"] == pytest.approx(label.mean(), abs=1e-3)


def test_a_trait_that_is_the_same_everywhere_tells_nothing(cohort):
    label, group, _ = cohort
    for values in (np.full((900, 2), 256.0), np.zeros(900, np.int64)):
        found = judged(Trait(name="size", values=values, removed=REMOVED), label, group)
        assert (found["auroc"], found["auroc_interval"], found["suspect"]) == (0.5, [0.5, 0.5], False)


def test_the_bound_decides_and_the_warning_names_the_trait(cohort):
    label, group, rng = cohort
    noisy = (label + rng.normal(0, 0.8, 900))[:, None]
    trait = Trait(name="mean intensity", values=noisy, removed=KEPT)
    for bound, suspect in ((0.6, True), (0.95, False)):
        config = AuditConfig(shortcut_auroc=bound)
        found = shortcuts.shortcuts(iter([trait]), label, group, config, 0)
        told = shortcuts.warnings(found, config)
        assert found["mean intensity"]["suspect"] == suspect == bool(told)
        assert all("mean intensity alone" in text and "does not remove it" in text for text in told)


def test_with_one_group_of_a_class_nothing_is_estimable():
    label, group = np.array([0, 0, 1, 1], np.int8), np.array([0, 1, 2, 2])
    found = judged(Trait(name="size", values=np.arange(4.0)[:, None], removed=REMOVED), label, group)
    assert (found["auroc"], found["auroc_interval"], found["suspect"]) == (None, None, False)


def test_the_interval_is_of_groups_and_not_of_rows():
    """The same rows said 50 times over are no more evidence."""
    rng = np.random.default_rng(2)
    label = (rng.random(40) < 0.5).astype(np.int8)
    values = (label + rng.normal(0, 1.2, 40))[:, None]
    width = {}
    for times in (1, 50):
        found = judged(
            Trait(name="x", values=np.repeat(values, times, axis=0), removed=KEPT),
            np.repeat(label, times),
            np.repeat(np.arange(40), times),
        )
        width[times] = found["auroc_interval"][1] - found["auroc_interval"][0]
    assert width[50] > 0.5 * width[1] > 0.1


def test_of_many_rows_whole_groups_are_drawn(cohort, monkeypatch):
    label, group, _ = cohort
    monkeypatch.setattr(shortcuts, "_MOST_ROWS", 300)
    found = judged(Trait(name="size", values=label[:, None].astype(float), removed=REMOVED), label, group)
    assert found["auroc"] == 1.0
    rows = shortcuts._sample(group, 0)
    assert 200 < len(rows) <= 300
    assert all(np.array_equal(np.flatnonzero(group == one), rows[group[rows] == one]) for one in np.unique(group[rows]))


def test_traits_are_those_that_rows_tell():
    schema = prepared_schema(8)
    row = {"size": 900, "width": 200, "height": 100, "stored": "jpeg", "mode": "RGB", "mean_level": 40.0}
    rows = pa.Table.from_pylist([row, row | {"spacing_mm": [1.0, 2.0]}], schema=schema).select(shortcuts.INDEX)
    found = {trait.name: trait for trait in shortcuts.traits(rows, ["web", "web"])}
    assert set(found) == {
        *("size", "aspect", "mode", "format", "file bytes", "mean intensity", "pixel spacing", "source folder")
    }
    assert found["aspect"].values.tolist() == [[2.0], [2.0]]
    assert found["pixel spacing"].known.tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"), [({"shortcut_auroc": 0.4}, "shortcut_auroc"), ({"folds": 1}, "folds")]
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=f"{message}: must lie between"):
        AuditConfig(**settings)
