import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.archive.identity import object_id, row_id
from mri_ray.cohort.groups import group
from mri_ray.cohort.split import SIDES, TEST, TRAIN, VALIDATION, SplitConfig, assign, leakage, refuse
from mri_ray.errors import ConfigError, SplitError

rows = st.lists(
    st.tuples(st.sampled_from([None, "p", "q", "r", "s"]), st.sampled_from([None, "a", "b", "c", "d"])),
    min_size=1,
    max_size=20,
)


def split(cases, by="group", seed=0, names=None, **fractions):
    """Sides and groups of (patient, digest) rows; `names` are their keys."""
    names = names or [f"{number}.png" for number in range(len(cases))]
    patients, digests = [patient for patient, _ in cases], [pixels for _, pixels in cases]
    groups = group(digests, np.ones(len(cases), bool), (patients,))
    row_ids = [row_id(object_id(name)) for name in names]
    config = SplitConfig(by=by, **fractions)
    return assign(config, seed=seed, keys=names, row_ids=row_ids, patients=patients, groups=groups), groups


def in_folders(parents, patients=None, **settings):
    keys = [f"{parent}/{number}.png" for number, parent in enumerate(parents)]
    patients = patients or [None] * len(keys)
    groups = group([None] * len(keys), np.ones(len(keys), bool), (patients,))
    config = SplitConfig(by="folder", **settings)
    return assign(config, seed=0, keys=keys, row_ids=keys, patients=patients, groups=groups)


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(0, 5), st.floats(0.01, 0.49), st.floats(0, 0.49))
def test_a_split_by_group_never_crosses(cases, seed, validation, test):
    sides, groups = split(cases, seed=seed, validation=validation, test=test)
    found = leakage(sides, groups)
    assert found.crossing == found.test_rows_with_copy_in_train == 0
    assert found.groups == len(set(groups.tolist()))


@settings(max_examples=50, deadline=None)
@given(rows, st.sampled_from(["group", "image"]), st.randoms(use_true_random=False))
def test_sides_do_not_depend_on_the_order_of_rows(cases, by, random):
    order = list(range(len(cases)))
    random.shuffle(order)
    straight, _ = split(cases, by)
    shuffled, _ = split([cases[row] for row in order], by, names=[f"{row}.png" for row in order])
    assert np.array_equal(straight[order], shuffled)


@settings(max_examples=50, deadline=None)
@given(rows, rows)
def test_rows_that_are_added_move_no_untouched_group(cases, added):
    before, _ = split(cases)
    after, joined = split(cases + added)
    touched = set(joined[len(cases) :].tolist())
    untouched = np.array([number not in touched for number in joined[: len(cases)].tolist()])
    assert np.array_equal(before[untouched], after[: len(cases)][untouched])
    by_image, _ = split(cases, "image")
    assert np.array_equal(by_image, split(cases + added, "image")[0][: len(cases)])


def test_more_rows_of_a_patient_do_not_move_the_patient():
    before, _ = split([("p", None), ("q", None)])
    after, _ = split([("p", None), ("q", None)] + [("p", None)] * 20)
    assert np.array_equal(before, after[:2])
    assert set(after[2:].tolist()) == {int(before[0])}


@pytest.mark.parametrize("by", ["group", "image"])
def test_fractions_are_about_right_for_many_groups(by):
    sides, _ = split([(f"patient {number}", None) for number in range(4000)], by, validation=0.2, test=0.1)
    shares = np.bincount(sides, minlength=3) / len(sides)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.025)  # about 4 standard deviations
    assert sides.dtype == np.int8


def test_the_seed_draws_another_split():
    cases = [(f"patient {number}", None) for number in range(200)]
    assert not np.array_equal(split(cases, seed=1)[0], split(cases, seed=2)[0])
    assert np.array_equal(split(cases, seed=1)[0], split(cases, seed=1)[0])


def test_sides_stay_as_they_were_released():
    """A changed hash would move the rows of every archive that has been trained on."""
    sides, _ = split([(f"patient {number}", None) for number in range(12)], validation=0.3, test=0.3)
    assert "".join(SIDES[side][0] if side != TEST else "T" for side in sides) == "TtTvvTvtvvvv"


def test_no_test_side_when_its_fraction_is_zero():
    sides, _ = split([(None, None)] * 300, test=0.0)
    assert set(sides.tolist()) == {TRAIN, VALIDATION}


def test_images_split_apart_though_their_pixels_are_equal():
    sides, groups = split([(None, "the same")] * 300, "image")
    found = leakage(sides, groups)
    assert (found.groups, found.crossing) == (1, 1)
    assert found.test_rows == found.test_rows_with_copy_in_train == np.sum(sides == TEST)
    refuse(SplitConfig(by="image"), sides, groups, np.arange(300) % 2)  # a leak that was asked for


def test_folders_give_the_sides_and_validation_is_carved_from_training_by_group():
    patients = [f"p{number % 100}" for number in range(400)]
    sides = in_folders(["Training/x"] * 300 + ["TESTING"] * 100, patients, validation=0.25)
    assert set(sides[300:].tolist()) == {TEST}
    assert np.mean(sides[:300] == VALIDATION) == pytest.approx(0.25, abs=0.13)
    carved = group([None] * 300, np.ones(300, bool), (patients[:300],))
    assert leakage(sides[:300], carved).crossing == 0


def test_a_validation_folder_is_the_validation_side():
    sides = in_folders(["train"] * 50 + ["val"] * 3 + ["test"] * 2)
    assert sides.tolist() == [TRAIN] * 50 + [VALIDATION] * 3 + [TEST] * 2


def test_the_outermost_named_folder_counts():
    sides = in_folders(["site/test/train", "set/Train/test/deeper"], validation=1e-9)
    assert sides.tolist() == [TEST, TRAIN]


def test_folders_of_the_config_replace_the_defaults():
    sides = in_folders(["old", "new"], folders={"train": ["OLD"], "test": ["new"]}, validation=1e-9)
    assert sides.tolist() == [TRAIN, TEST]


def test_rows_outside_the_folders_are_refused():
    with pytest.raises(SplitError, match=r"split.folders names \(train, training, .*2 do not, such as those in more/"):
        in_folders(["train", "more", "more"])


def test_a_file_name_is_no_folder():
    with pytest.raises(SplitError, match="1 do not, such as those in the root of the archive"):
        assign(SplitConfig(by="folder"), seed=0, keys=["test"], row_ids=["a"], patients=[None], groups=np.array([0]))


def test_leakage_counts_groups_and_test_rows():
    sides = np.array([TRAIN, TEST, TEST, VALIDATION, TEST, TRAIN, VALIDATION], np.int8)
    groups = np.array([0, 0, 0, 1, 1, 2, 2])
    found = leakage(sides, groups)
    assert (found.groups, found.crossing, found.test_rows, found.test_rows_with_copy_in_train) == (3, 3, 3, 2)


def test_leakage_of_nothing_is_nothing():
    found = leakage(np.array([], np.int8), np.array([], np.int32))
    assert (found.groups, found.crossing, found.test_rows) == (0, 0, 0)


def test_groups_that_cross_are_refused():
    sides, groups = np.array([TRAIN, TRAIN, VALIDATION, TEST], np.int8), np.array([0, 2, 1, 0])
    with pytest.raises(SplitError, match=r"split.by=group: each group must stand on one side, but 1 cross"):
        refuse(SplitConfig(), sides, groups, np.array([0, 1, 1, 0]))


def test_a_training_side_of_one_class_is_refused_with_a_way_out():
    sides = np.array([TRAIN, TRAIN, VALIDATION, TEST], np.int8)
    refuse(SplitConfig(), sides, np.arange(4), np.array([0, 1, 1, 1], np.int8))
    with pytest.raises(SplitError, match=r"must hold both classes, but all of its 2 rows are tumor.* another seed"):
        refuse(SplitConfig(), sides, np.arange(4), np.array([1, 1, 0, 0], np.int8))


@pytest.mark.parametrize(
    ("sides", "empty"), [([TRAIN, TEST], "validation"), ([VALIDATION, TEST], "train"), ([], "train")]
)
def test_empty_sides_are_refused_with_a_way_out(sides, empty):
    with pytest.raises(SplitError, match=rf"the {empty} side must not be empty.* choose another seed"):
        refuse(SplitConfig(), np.array(sides, np.int8), np.arange(len(sides)), np.arange(len(sides)) % 2)


def test_a_split_by_folder_without_training_folder_names_the_field():
    sides = in_folders(["test", "test"])
    with pytest.raises(SplitError, match=r"training folder \(train, training\); name it in split.folders.train"):
        refuse(SplitConfig(by="folder"), sides, np.arange(2), np.arange(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "patient"}, "by: must be group, image or folder, got 'patient'"),
        ({"validation": 0.0}, "validation: must lie between 0 and 1, both excluded, got 0.0"),
        ({"validation": float("nan")}, "validation: .* got nan"),
        ({"test": -0.1}, "test: must be at least 0 and below 1, got -0.1"),
        ({"validation": 0.5, "test": 0.5}, "validation and test: must sum to less than 1, got 1.0"),
        ({"folders": {"test": ["test"]}}, "folders: must name train"),
        ({"folders": {"train": ["a"], "dev": ["b"]}}, "may name validation and test, got train, dev"),
        ({"folders": {"train": "training"}}, "folders.train: must be a list of folder names"),
        ({"folders": {"train": ["a/b"]}}, "must hold names of single folders, got 'a/b'"),
        ({"folders": {"train": ["a"], "test": ["A"]}}, "'A' is already a train folder"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**settings)


def test_a_gap_in_group_numbers_is_our_mistake():
    with pytest.raises(ValueError, match="numbered from 0 without gaps"):
        assign(
            SplitConfig(), seed=0, keys=["a", "b"], row_ids=["a", "b"], patients=[None, None], groups=np.array([0, 2])
        )
