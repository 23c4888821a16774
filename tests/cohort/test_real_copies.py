"""Copies, shortcuts and leaks of the public sets (MRI_DATA), against what is known of them."""

import numpy as np
import pytest

from mri_ray.cohort import shortcuts, thumbnails
from mri_ray.cohort.shortcuts import REMOVED, AuditConfig, Trait
from tests.benchmarks.copies import beyond, pairs
from tests.benchmarks.leaks import Archive, areas, interval

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kaggle(mri_data) -> Archive:
    return Archive.load(mri_data, "kaggle")


@pytest.fixture(scope="module")
def near(kaggle) -> list[tuple[str, str]]:
    return kaggle.near()


@pytest.fixture(scope="module")
def found(kaggle, near) -> np.ndarray:
    """Groups by copies alone: no patient is told, as folders tell none."""
    return kaggle.groups(near, patients=False)


def test_kaggle_copies_are_found(kaggle, found):
    known = pairs(kaggle.told["duplicate_group"])
    missed = known & ~pairs(found)
    assert known.sum() == 10_733
    assert missed.sum() <= 0.005 * known.sum()


def test_what_is_joined_beyond_the_known_groups_is_of_one_kind(kaggle, found):
    """Those of them that were looked at are copies that the table does not know: sharpened, or of other contrast.

    A wrong join would sooner or later put a tumor beside a normal head, or one kind of tumor beside another.
    """
    assert len(beyond(found, kaggle.told["leak_free_group"])) <= 130
    for group in np.unique(found):
        assert len(set(kaggle.told["subtype"][found == group].tolist())) == 1


def test_kaggle_tells_its_classes_by_size_and_mode(kaggle, found):
    label = (kaggle.told["label"] == "tumor").astype(np.int8)
    size = np.stack([kaggle.told["width"], kaggle.told["height"]], axis=1).astype(float)
    mode = np.unique(kaggle.told["mode"], return_inverse=True)[1]
    traits = [Trait(name="size", values=size, removed=REMOVED), Trait(name="mode", values=mode, removed=REMOVED)]
    judged = shortcuts.shortcuts(iter(traits), label, found, AuditConfig(), 0)
    assert judged["size"]["suspect"]
    assert judged["mode"]["suspect"]


def test_labels_that_mean_nothing_are_not_learned_from_kaggle_across_groups(kaggle, near):
    vectors, unit = thumbnails.vectors(kaggle.thumbnails), kaggle.told["leak_free_group"]
    naive, low, _ = interval(areas(vectors, unit, np.arange(len(unit)), splits=5))
    assert low > 0.8, naive
    honest, low, high = interval(areas(vectors, unit, kaggle.groups(near)))
    assert low <= 0.5 <= high, honest


def test_no_two_patients_of_lgg_are_joined(mri_data):
    lgg = Archive.load(mri_data, "lgg")
    patient = dict(zip(lgg.digest.tolist(), lgg.told["patient_id"].tolist(), strict=True))
    near = lgg.near()
    assert [pair for pair in near if patient[pair[0]] != patient[pair[1]]] == []
    assert len(np.unique(lgg.groups(near))) == len(set(lgg.told["patient_id"].tolist())) == 72
