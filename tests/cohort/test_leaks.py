"""Labels that mean nothing can be learned from copies only: honest splits are told from leaky ones by that."""

import cv2
import numpy as np
import pytest

from mri_ray import phantom
from mri_ray.cohort import copies, thumbnails
from mri_ray.cohort.groups import components
from mri_ray.prepare.evidence import evidence_of
from mri_ray.records import THUMBNAIL_SIDE
from tests.benchmarks.leaks import areas as permuted
from tests.benchmarks.leaks import interval


def areas(*given):
    return permuted(*given, splits=5, permutations=20)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails of 20 heads, two slices of each and three changed copies of every slice; and whose each one is."""
    slices = list(phantom.generate(phantom.PhantomConfig(patients=20, slices=2, second_study=0, seed=4)))
    pictures, heads = [], []
    for item in slices:
        changed = [
            item.pixels,
            cv2.resize(item.pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
            cv2.add(item.pixels, 25),
            np.clip(item.pixels * 1.3, 0, 255).astype(np.uint8),
        ]
        pictures += [np.frombuffer(evidence_of(picture)["thumbnail"], np.uint8) for picture in changed]
        heads += [item.patient] * len(changed)
    return np.stack(pictures).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.array(heads)


def test_a_naive_split_learns_what_means_nothing_and_an_honest_one_does_not(planted):
    pictures, heads = planted
    vectors = thumbnails.vectors(pictures)
    found = copies.find(pictures)
    pictured = components(len(pictures), found.one, found.other)
    # Labels of pictures: the groups that are found must hold all copies of each, as no patient is known here.
    picture = np.repeat(np.arange(len(pictures) // 4), 4)
    naive, low, _ = interval(areas(vectors, picture, np.arange(len(pictures))))
    assert low > 0.9, naive
    honest, low, high = interval(areas(vectors, picture, pictured))
    assert low <= 0.5 <= high, honest
    # Labels of heads: slices of a head are alike, which only its name tells.
    leaky, low, _ = interval(areas(vectors, heads, np.arange(len(pictures))))
    assert low > 0.9, leaky
    named, low, high = interval(areas(vectors, heads, np.unique(heads, return_inverse=True)[1]))
    assert low <= 0.5 <= high, named
