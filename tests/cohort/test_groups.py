from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.cohort.groups import group

rows = st.lists(
    st.tuples(st.sampled_from([None, "p", "q", "r"]), st.sampled_from([None, "a", "b", "c", "d"]), st.booleans()),
    max_size=12,
)


def grouped(cases):
    patients, digests, joinable = zip(*cases, strict=True) if cases else ((), (), ())
    return group(list(digests), np.array(joinable, bool), (list(patients),))


def reference(cases):
    """Sets of rows, merged until nothing changes."""
    sets = [{row} for row in range(len(cases))]
    for one, other in combinations(range(len(cases)), 2):
        (patient, digest, joins), (patient2, digest2, joins2) = cases[one], cases[other]
        same_patient = patient is not None and patient == patient2
        same_pixels = digest is not None and digest == digest2 and joins and joins2
        if same_patient or same_pixels:
            left = next(members for members in sets if one in members)
            right = next(members for members in sets if other in members)
            if left is not right:
                left |= right
                sets.remove(right)
    return sets


def test_patients_and_copies_link_through_chains():
    found = group(["a", "b", "a", "b", "c"], np.ones(5, bool), (["p", None, None, "q", None],))
    assert found.tolist() == [0, 1, 0, 1, 2]
    assert found.dtype == np.int32


def test_a_copy_links_two_patients():
    assert group(["a", "a", "x", "y"], np.ones(4, bool), (["p", "q", "p", "q"],)).tolist() == [0, 0, 0, 0]


def test_blank_pictures_join_by_patient_only():
    black = "the same black picture"
    found = group([black] * 5, np.zeros(5, bool), (["p", "q", "p", None, None],))
    assert found.tolist() == [0, 1, 0, 2, 3]


def test_a_picture_that_does_not_join_links_nothing_to_those_that_do():
    assert group(["a", "a", "a"], np.array([True, False, True])).tolist() == [0, 1, 0]


def test_kinds_are_kept_apart():
    found = group([None] * 4, np.ones(4, bool), (["p", "p", None, None],), ([None, "k", "k", "p"],))
    assert found.tolist() == [0, 0, 0, 1]


def test_a_patient_is_the_same_whichever_column_tells_it():
    found = group([None] * 4, np.ones(4, bool), (["p", None, "q", None], [None, "p", "r", "r"]))
    assert found.tolist() == [0, 0, 1, 1]


def test_a_patient_and_a_digest_of_the_same_text_are_no_link():
    assert group([None, "x"], np.ones(2, bool), (["x", None],)).tolist() == [0, 1]


def test_nothing_gives_nothing():
    assert group([], np.array([], bool), ([],)).shape == (0,)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"lengths must agree, got .2, 1, 1."):
        group([None, None], np.ones(1, bool), ([None],))


@settings(max_examples=100, deadline=None)
@given(rows)
def test_groups_are_the_connected_components_numbered_by_first_appearance(cases):
    found = grouped(cases)
    members = [set(np.flatnonzero(found == number).tolist()) for number in range(found.max(initial=-1) + 1)]
    assert sorted(members, key=min) == sorted(reference(cases), key=min)
    assert members == sorted(members, key=min)


@settings(max_examples=50, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(cases, random):
    order = list(range(len(cases)))
    random.shuffle(order)
    straight, shuffled = grouped(cases), grouped([cases[row] for row in order])
    together = straight[order][:, None] == straight[order][None, :]
    assert np.array_equal(together, shuffled[:, None] == shuffled[None, :])
