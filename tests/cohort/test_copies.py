"""Near copies on phantoms: every kind of change is found, and different heads stay apart."""

import io
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mri_ray import phantom
from mri_ray.cohort import copies, thumbnails
from mri_ray.cohort.groups import components
from mri_ray.prepare.evidence import evidence_of
from mri_ray.records import THUMBNAIL_SIDE

PHANTOMS = phantom.PhantomConfig(patients=10, slices=3, second_study=0, seed=21)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """30 pictures of 10 heads."""
    return [item.pixels for item in phantom.generate(PHANTOMS)]


def thumbnail(picture) -> np.ndarray:
    found = evidence_of(np.ascontiguousarray(picture, np.uint8))["thumbnail"]
    return np.frombuffer(found, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def jpeg(picture, quality):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(picture, scale):
    return cv2.resize(
        picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )


def cropped(picture, top, bottom, left, right):
    height, width = picture.shape
    return picture[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def joined(one, other) -> np.ndarray:
    """Which of N pictures are joined with their changed copies, looked for among all 2 N."""
    found = copies.find(np.stack([thumbnail(picture) for picture in [*one, *other]]))
    part = components(2 * len(one), found.one, found.other)
    return part[: len(one)] == part[len(one) :]


CHANGES = {
    "mirrored": lambda picture: picture[:, ::-1],
    "upside down": lambda picture: picture[::-1],
    "a quarter turn": lambda picture: np.rot90(picture),
    "three quarters, mirrored": lambda picture: np.rot90(picture[:, ::-1], 3),
    "half the size": lambda picture: resized(picture, 0.5),
    "1.7 times the size": lambda picture: resized(picture, 1.7),
    "JPEG": lambda picture: jpeg(picture, 40),
    "brighter": lambda picture: cv2.add(picture, 30),
    "more contrast": lambda picture: np.clip(picture * 1.4, 0, 255),
    "darker": lambda picture: picture * 0.6,
    "gamma": lambda picture: 255 * (picture / 255) ** 0.7,
    "cropped": lambda picture: cropped(picture, 0.03, 0.03, 0.03, 0.03),
    "all at once": lambda picture: jpeg(cv2.add(resized(picture, 0.8), 15), 60)[:, ::-1].T,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(pictures, change):
    found = joined(pictures, [CHANGES[change](picture) for picture in pictures])
    assert found.mean() >= 0.93, f"{int((~found).sum())} of {len(found)} missed"


def test_different_heads_stay_apart(pictures):
    found = copies.find(np.stack([thumbnail(picture) for picture in pictures]))
    assert np.array_equal(found.one // PHANTOMS.slices, found.other // PHANTOMS.slices)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, PHANTOMS.patients * PHANTOMS.slices - 1),
    st.integers(0, 7),
    st.floats(0.6, 1.6),
    st.floats(0.6, 1.3),
    st.integers(0, 25),
    st.integers(50, 95),
)
def test_any_mixture_of_changes_is_found(pictures, number, turn, scale, gain, offset, quality):
    picture = np.clip(pictures[number] * gain + offset, 0, 255).astype(np.uint8)
    changed = jpeg(thumbnails.turned(resized(picture, scale), turn), quality)
    assert joined([pictures[number]], [changed]).all()


def test_pictures_with_nothing_in_them_join_nothing(pictures):
    rng = np.random.default_rng(0)
    even = [np.zeros((200, 200)), np.full((200, 200), 90), np.zeros((256, 256))]
    noise = [rng.normal(20, 1.5, (200, 200)) for _ in range(3)]
    found = copies.find(np.stack([thumbnail(picture) for picture in [*even, *even, *noise, pictures[1], pictures[9]]]))
    assert len(found) == 0


def test_what_is_found_does_not_depend_on_the_order(pictures):
    changed = [CHANGES["all at once"](picture) for picture in pictures[:10]]
    every = np.stack([thumbnail(picture) for picture in pictures + changed])
    order = np.random.default_rng(3).permutation(len(every))
    straight, shuffled = copies.find(every), copies.find(every[order])
    one, other = order[shuffled.one], order[shuffled.other]
    assert {frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)} == {
        frozenset(pair) for pair in zip(straight.one.tolist(), straight.other.tolist(), strict=True)
    }


def test_versions_are_those_of_the_turned_and_cropped_picture(pictures):
    small = thumbnail(pictures[2])
    found = thumbnails.versions(small[None])[0]
    for number, (zoom, turn) in enumerate(thumbnails.VERSIONS):
        expected = thumbnails.vectors(thumbnails.turned(thumbnails.zoomed(small, zoom), turn)[None])[0]
        assert found[number] @ expected > 0.9999


def test_pictures_of_one_owner_are_not_looked_at(pictures):
    twice = np.stack([thumbnail(picture) for picture in [pictures[0], pictures[0][:, ::-1], pictures[9]]])
    held, versions = copies.index(thumbnails.vectors(twice)), thumbnails.versions(twice)
    assert len(copies.near(held, versions, 0, np.array([-1, -1, -1]))) == 1
    assert len(copies.near(held, versions, 0, np.array([4, 5, 4]))) == 1
    assert len(copies.near(held, versions, 0, np.array([4, 4, -1]))) == 0


def test_a_large_index_finds_what_an_exact_one_finds(pictures, monkeypatch):
    every = np.stack(
        [thumbnail(picture) for picture in pictures + [change(pictures[0]) for change in CHANGES.values()]]
    )
    # Vectors alone are enough here: 20,000 that lie anywhere, and those of the pictures among them.
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(20_000, thumbnails.LENGTH)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    vectors, versions = thumbnails.vectors(every), thumbnails.versions(every)
    unknown = np.full(len(every) + len(noise), -1)
    large = copies.index(np.concatenate([vectors, noise]))
    assert len(large) < 320 * len(unknown)  # bytes a picture
    assert np.array_equal(large, copies.index(np.concatenate([vectors, noise])))
    exact, found = (copies.near(held, versions, 0, unknown) for held in (copies.index(vectors), large))
    pairs = [
        {frozenset(pair) for pair in zip(some.one.tolist(), some.other.tolist(), strict=True)}
        for some in (exact, found)
    ]
    assert len(pairs[1] & pairs[0]) >= 0.95 * len(pairs[0])


def test_only_pairs_that_join_something_are_judged():
    """20 copies of one picture: the pairs of a spanning tree are enough."""
    one, other = np.triu_indices(20, 1)
    pairs = copies.Candidates(
        one=one, other=other, version=np.zeros(len(one), np.int8), score=np.linspace(1, 0.8, len(one), dtype=np.float32)
    )
    judged = []

    def judge(some):
        judged.append(len(some))
        return np.ones(len(some), np.float32)

    assert len(copies.links(pairs, 20, judge)) == 19
    assert judged == [19]


def test_pairs_that_were_left_open_are_judged_when_the_likeliest_fail():
    pairs = copies.Candidates(
        one=np.array([0, 1, 0]),
        other=np.array([1, 2, 2]),
        version=np.zeros(3, np.int8),
        score=np.array([0.99, 0.95, 0.9], np.float32),
    )

    def judge(some):
        return np.where(some.one + some.other == 3, 0.1, 0.9)  # 1 and 2 are none

    found = copies.links(pairs, 3, judge)
    assert sorted(zip(found.one.tolist(), found.other.tolist(), strict=True)) == [(0, 1), (0, 2)]
    assert asdict(copies.links(pairs.take(np.array([], int)), 3, judge))["one"].shape == (0,)
