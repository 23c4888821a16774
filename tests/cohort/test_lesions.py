"""Labels and masks brought together: which stand, and what is told of the others."""

import numpy as np
import pytest

from mri_ray.cohort.lesions import lesions
from mri_ray.errors import LabelError

NAN = float("nan")


def told(label, marked, fault=None, without_slice=0, given=None, packed=None):
    count = len(label)
    reasons = np.array(fault or [""] * count, object)
    known = np.ones(count, bool) if given is None else np.array(given)
    inside = np.zeros(count, bool) if packed is None else np.array(packed)
    return lesions(
        *(np.array(label, np.int8), np.array(marked, float), reasons),
        given=known,
        packed=inside,
        without_slice=without_slice,
    )


def test_a_normal_slice_has_no_lesion_and_a_tumor_slice_without_a_mask_an_unknown_one():
    found = told([0, 0, 1, 1], [NAN, 0, 12, NAN])
    np.testing.assert_array_equal(found.px, [0, 0, 12, NAN])
    assert found.known.tolist() == [True, True, True, False]
    assert found.warnings == ["1 tumor slices have no mask: nothing is learned of where their lesion is"]


def test_contradictions_and_faults_are_counted_and_not_used():
    found = told([0, 1, 1, 0, 1], [7, 0, NAN, NAN, 5], ["", "", "unreadable", "of another size", ""], without_slice=3)
    np.testing.assert_array_equal(found.px, [NAN, NAN, NAN, NAN, 5])
    assert found.known.tolist() == [False, False, False, False, True]
    text = "\n".join(found.warnings)
    assert len(found.warnings) == 5
    for part in ("3 masks are of no labelled", "1 slices are called normal, but", "1 slices are called tumor, but"):
        assert part in text
    assert "1 masks are unreadable" in text
    assert "1 masks are of another size" in text


@pytest.mark.parametrize("marked", [[NAN, NAN], [0, NAN], [5, NAN], [0, 0]])
def test_masks_that_tell_of_no_tumor_are_refused(marked):
    with pytest.raises(LabelError, match=r"masks: at least one must be that of a tumor slice, got \d of 2 .* 4 masks"):
        told([0, 1], marked, without_slice=4)


def test_an_archive_without_masks_teaches_nothing_of_where_lesions_are():
    found = told([0, 1, 0, 1], [NAN, 9, NAN, NAN], given=[True, True, False, False])
    assert found.known.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(found.px, [0, 9, 0, NAN])
    assert found.warnings == []


def test_slices_in_packs_are_told_to_be_unpacked():
    found = told([0, 1, 0, 1, 1], [NAN, 9, NAN, NAN, NAN], packed=[False, False, True, True, False])
    assert found.known.tolist() == [True, True, True, False, False]
    assert found.warnings == [
        "1 tumor slices have no mask: nothing is learned of where their lesion is",
        "1 tumor slices lie in packs, where masks are not looked for: unpack them for their lesions to be learned",
    ]
    with pytest.raises(LabelError, match="2 slices lie in packs, which must be unpacked for it"):
        told([0, 1, 1], [NAN, NAN, NAN], packed=[True, True, False])
