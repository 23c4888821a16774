"""What is said of a cohort before training: copies counted, leaks of splits, contradictory labels with both names."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mri_ray.cohort import audit, columns
from mri_ray.cohort.assemble import INDEX, assemble
from mri_ray.cohort.groups import contradicting, group
from mri_ray.cohort.labels import DEFAULT_CLASSES, Matched
from mri_ray.cohort.shortcuts import AuditConfig
from mri_ray.cohort.split import TEST, TRAIN, VALIDATION, SplitConfig, sides_told
from mri_ray.errors import SplitError
from mri_ray.records import Flag, prepared_schema


def rows(entries: list[dict]) -> pa.Table:
    """Prepared rows in the order given: path, and any column of prepared rows."""
    filled = [
        {"object_id": f"o{n}", "version_id": f"v{n}", "row_id": f"r{n}", "uri": f"file:///a/{entry['path']}"}
        | {"size": 100 + n, "width": 64, "height": 64, "flags": [], "etag": ""}
        | entry
        for n, entry in enumerate(entries)
    ]
    table = pa.Table.from_pylist(filled, schema=prepared_schema(8)).select(INDEX)
    count = len(entries)
    return table.append_column("part", pa.array([0] * count, pa.int32())).append_column(
        "place", pa.array(range(count), pa.int32())
    )


def cohort(entries, labels, patients=None, near=(), split=None, sides=None):
    matched = Matched(
        label=np.array(labels, np.int8),
        patient=patients or [None] * len(labels),
        study_date=[None] * len(labels),
        unlabelled=0,
        labels_without_file=0,
        lesion_px=np.full(len(labels), np.nan),
        split=sides or [None] * len(labels),
    )
    paths = pa.chunked_array([[entry["path"] for entry in entries]])
    return assemble(rows(entries), paths=paths, matched=matched, key_of=str, near=near, split=split, seed=0)


ENTRIES = [
    {"path": "Training/no/a.png", "pixel_digest": "a"},
    {"path": "Training/no/a2.png", "pixel_digest": "a"},
    {"path": "Testing/no/b.png", "pixel_digest": "b"},  # a near copy of a
    {"path": "Testing/yes/c.png", "pixel_digest": "c"},
    {"path": "Training/yes/d.png", "pixel_digest": "d"},  # the patient of c
    {"path": "Testing/yes/e.png", "pixel_digest": "e"},
    {"path": "Training/no/black.png", "pixel_digest": "0", "flags": [Flag.BLANK.value]},
    {"path": "Testing/no/black.png", "pixel_digest": "0", "flags": [Flag.BLANK.value]},
]
LABELS = [0, 0, 0, 1, 1, 1, 0, 0]
PATIENTS = [None, None, None, "p", "p", None, None, None]
SIDES = np.array([TRAIN, TRAIN, TEST, TEST, TRAIN, TEST, TRAIN, TEST], np.int8)


def test_near_copies_join_groups():
    found = cohort(ENTRIES, LABELS, PATIENTS, near=[("b", "a")])
    assert found.group.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
    assert found.index["picture"].to_pylist() == [0, 0, 0, 1, 2, 3, 4, 5]
    assert found.index["owner"].is_null().to_pylist() == [True, True, True, False, False, True, True, True]


def test_slices_of_one_patient_that_are_alike_are_no_copies():
    found = cohort(ENTRIES, [0, 0, 0, 0, 1, 1, 0, 0], PATIENTS, near=[("c", "d"), ("d", "e")])
    assert found.group.tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    assert found.index["picture"].to_pylist() == [0, 0, 1, 2, 3, 3, 4, 5]
    assert audit.contradictions(found)["pictures"] == 0


def test_chains_of_near_copies_link_and_blank_pictures_do_not():
    joins = np.array([True, True, True, True, False])
    found = group(["a", "b", "c", "x", "c"], joins, near=[("a", "b"), ("c", "b"), ("y", "z")])
    assert found.tolist() == [0, 0, 0, 1, 2]


def test_leaks_are_counted_by_what_they_come_from():
    found = audit.leaks(cohort(ENTRIES, LABELS, PATIENTS, near=[("b", "a")]), SIDES)
    assert found == {"test_slices": 4, "same_pixels": 0, "copy": 1, "owner": 1, "any": 2}
    exact = np.array([TRAIN, TEST, TEST, TRAIN, TRAIN, TEST, TRAIN, TEST], np.int8)
    found = audit.leaks(cohort(ENTRIES, LABELS, PATIENTS, near=[("b", "a")]), exact)
    assert found == {"test_slices": 4, "same_pixels": 1, "copy": 2, "owner": 0, "any": 2}


def test_a_split_that_labels_tell_is_judged_without_what_it_leaves_out():
    given = [ENTRIES, LABELS, PATIENTS]
    words = ["Training", None, "TEST", "testing ", "train", "val", "train", "test"]
    found = cohort(*given, near=[("b", "a")], sides=words)
    side = sides_told(SplitConfig(), found.index["told_split"])
    assert side.tolist() == [TRAIN, -1, TEST, TEST, TRAIN, VALIDATION, TRAIN, TEST]
    assert audit.leaks(found, side) == {"test_slices": 3, "same_pixels": 0, "copy": 1, "owner": 1, "any": 2}
    side = np.where(np.arange(len(side)) == 0, -1, side)  # b has no copy left on another side
    assert audit.leaks(found, side)["copy"] == 0
    assert sides_told(SplitConfig(), cohort(*given).index["told_split"]) is None
    own = SplitConfig(folders={"train": ["a"], "test": ["b"]})
    with pytest.raises(SplitError, match=r"split must be one of a, b, test, train, validation .* for 1 of 8 slices"):
        sides_told(own, cohort(*given, sides=["a", "b", "fold 3", *[None] * 5]).index["told_split"])


def test_pictures_are_counted_by_class():
    found = audit.pictures(cohort(ENTRIES, LABELS, PATIENTS, near=[("b", "a")]))
    assert found["normal"] == {"slices": 5, "pixels": 3, "pictures": 3, "groups": 3}
    assert found["tumor"] == {"slices": 3, "pixels": 3, "pictures": 3, "groups": 2}


@pytest.mark.parametrize("near", [(), [("a", "c")]], ids=["exact", "near"])
def test_a_picture_with_both_labels_is_told_with_both_names(near):
    entries = [
        {"path": "x/one.png", "pixel_digest": "a"},
        {"path": "x/two.png", "pixel_digest": "c" if near else "a"},
        {"path": "x/three.png", "pixel_digest": "b"},
    ]
    found = cohort(entries, [1, 0, 0], near=near)
    assert audit.contradictions(found) == {"pictures": 1, "first": [["file:///a/x/two.png", "file:///a/x/one.png"]]}
    (told,) = [text for text in found.warnings() if "normal and tumor" in text]
    assert "x/two.png (normal)" in told
    assert "x/one.png (tumor)" in told


def test_slices_without_label_and_labels_without_slice_are_told():
    found = cohort(ENTRIES, [-1, -1, *LABELS[2:]])
    assert len(found.label) == 6
    told = replace(found, unlabelled=2, labels_without_file=3).warnings()
    assert "2 slices have no label and are left out" in told
    assert "3 labels name nothing that could be read in the archive" in told


def test_slices_of_one_patient_and_blank_pictures_contradict_nothing():
    entries = [
        {"path": "one.png", "pixel_digest": "a"},
        {"path": "two.png", "pixel_digest": "b"},
        {"path": "black.png", "pixel_digest": "0", "flags": [Flag.BLANK.value]},
        {"path": "black2.png", "pixel_digest": "0", "flags": [Flag.BLANK.value]},
    ]
    found = cohort(entries, [1, 0, 1, 0], ["p", "p", "p", "q"])
    assert audit.contradictions(found) == {"pictures": 0, "first": []}
    assert not [text for text in found.warnings() if "normal and tumor" in text]


def test_contradictions_are_one_pair_a_picture_in_the_order_of_rows():
    picture, label = np.array([5, 3, 5, 3, 3, 9, 5]), np.array([0, 1, 1, 0, 1, 0, 1])
    assert contradicting(picture, label).tolist() == [[0, 2], [3, 1]]
    assert contradicting(picture, np.zeros(7, int)).shape == (0, 2)


def test_the_largest_groups_and_their_pictures():
    found = cohort(ENTRIES, LABELS, PATIENTS, near=[("b", "a")])
    assert audit.groups(found) == [
        {"slices": 3, "tumor": 0, "pictures": 1, "owners": 0},
        {"slices": 2, "tumor": 2, "pictures": 2, "owners": 1},
    ]
    (largest,) = audit.largest(found, found.index["picture"].to_numpy(), 5)
    assert largest.tolist() == [0, 1, 2]
    pixels = columns.codes(found.index["pixel_digest"])
    assert audit.different(pixels, largest, 8).tolist() == [0, 2]


def test_an_audit_is_plain_values():
    entries = [{"path": f"{'yes' if n % 2 else 'no'}/{n}.png", "pixel_digest": str(n)} for n in range(40)]
    for n, entry in enumerate(entries):
        entry["width"] = 512 if n % 2 else 256
    split = SplitConfig()
    found = audit.audit(
        cohort(entries, [n % 2 for n in range(40)], split=split), AuditConfig(), split, DEFAULT_CLASSES, 0
    )
    assert found["shortcuts"]["size"]["suspect"]
    assert found["shortcuts"]["size"]["auroc"] == 1.0
    assert found["leaks"]["any"] == 0
    assert not found["shortcuts"]["source folder"]["suspect"]  # which are those of the classes


def test_a_split_without_a_test_side_is_told() -> None:
    entries = [{"path": f"{i}.png", "pixel_digest": f"{i}"} for i in range(60)]
    labels = [i % 2 for i in range(60)]
    told = "the test side is empty"
    for share, wanted in ((0.0, True), (0.3, False)):
        found = cohort(entries, labels, split=SplitConfig(validation=0.3, test=share))
        assert any(told in text for text in found.warnings()) is wanted
