"""What a bundle has seen of the pictures that it is asked about."""

import numpy as np

from mri_ray.cohort.sides import of_groups


def test_who_learned_from_some_slices_of_a_patient_was_not_tested_on_the_rest() -> None:
    side = np.array(["train", "unseen", "validation", "unseen", "unseen", "train", "test", "unseen", "unseen", "train"])
    group = np.array([0, 0, 1, 1, 2, 2, 3, 3, -1, -1])
    assert of_groups(side, group).tolist() == [
        *("train", "train", "validation", "validation", "train", "train"),
        *("test", "unseen"),  # of a patient of the test side nothing was learned
        *("unseen", "train"),  # without a label: in no figure, and nobody's
    ]


def test_what_was_trained_on_spoils_more_than_what_was_chosen_by() -> None:
    side = np.array(["validation", "train", "unseen"])
    assert of_groups(side, np.zeros(3, int)).tolist() == ["validation", "train", "train"]
