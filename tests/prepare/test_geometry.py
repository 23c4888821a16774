"""The head is found in spite of what surrounds it, and the resize keeps aspect and averages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mri_ray.prepare.geometry import crop_to_head, fit, shrink, squared
from mri_ray.prepare.settings import PrepareConfig

CONFIG = PrepareConfig()


def head(shape=(400, 360), centre=(210, 170), axes=(120, 90), grey=110, seed=0):
    """A bright skull, brain with texture, dark air; every row and column of it is known."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot((y - centre[0]) / axes[0], (x - centre[1]) / axes[1])
    texture = np.random.default_rng(seed).normal(0, 8, shape)
    picture = np.where(distance < 1, np.where(distance > 0.93, 230, grey + texture), 0)
    return picture.clip(0, 255).astype(np.uint8)


def box_of(picture, config=CONFIG):
    """Where the crop lies: top, left, bottom, right (it is a view)."""
    crop = crop_to_head(picture, config)
    assert np.shares_memory(crop, picture)
    start = crop.__array_interface__["data"][0] - picture.__array_interface__["data"][0]
    top, left = divmod(start, picture.strides[0])
    return np.array([top, left, top + crop.shape[0], left + crop.shape[1]])


def jpeg_noise(picture):
    return (picture + np.random.default_rng(1).integers(0, 7, picture.shape)).clip(0, 255).astype(np.uint8)


def writing(picture):
    for row in range(10, 34, 8):  # three lines of small strokes in two corners
        picture[row : row + 5, 8:70:4] = 255
        picture[row : row + 5, -60:-5:4] = 255
    return picture


def thin_frame(picture):
    picture[[0, 1, -2, -1]] = 255
    picture[:, [0, 1, -2, -1]] = 255
    return picture


def thick_frame(picture):
    picture[:16] = picture[-16:] = 250
    picture[:, :16] = picture[:, -16:] = 250
    return picture


def lifted_background(picture):
    return np.maximum(picture, 24)


def hot_pixels(picture):
    picture[5, 5] = picture[-5, -5] = picture[5, -5] = 255
    return picture


def grey_bar(picture):
    picture[120:300, -14:-8] = np.linspace(0, 255, 180).astype(np.uint8)[:, None]
    return picture


@pytest.mark.parametrize(
    "surround",
    [np.array, jpeg_noise, writing, thin_frame, thick_frame, lifted_background, hot_pixels, grey_bar],
    ids=lambda surround: surround.__name__,
)
@pytest.mark.parametrize("scale", [1, 2])
def test_the_crop_is_the_head_and_a_margin(surround, scale):
    picture = np.kron(surround(head()), np.ones((scale, scale), np.uint8))
    expected = np.array([90, 80, 330, 260]) * scale
    found = box_of(picture)
    outwards = (found - expected) * [-1, -1, 1, 1]
    assert (outwards >= 0).all(), found
    assert (outwards <= 20 * scale).all(), found


def test_two_heads_are_both_kept():
    picture = np.hstack([head(seed=1), head(seed=2)])
    top, left, bottom, right = box_of(picture)
    assert top <= 90
    assert left <= 80
    assert bottom >= 330
    assert right >= 360 + 260


def test_a_picture_full_of_head_is_kept_whole():
    picture = head()[110:310, 100:240]
    assert crop_to_head(picture, CONFIG).shape == picture.shape


@pytest.mark.parametrize("change", [np.array, jpeg_noise, thin_frame, hot_pixels], ids=lambda change: change.__name__)
@pytest.mark.parametrize("grey", [0, 100, 255])
def test_without_a_head_the_whole_picture_stays(change, grey):
    picture = change(np.full((300, 200), grey, np.uint8))
    assert crop_to_head(picture, CONFIG).shape == picture.shape


def test_a_small_head_is_not_enlarged_beyond_the_limit():
    picture = head(axes=(20, 15))
    assert max(crop_to_head(picture, CONFIG).shape) == pytest.approx(200, abs=4)
    assert max(crop_to_head(picture, PrepareConfig(min_crop=0.3)).shape) == pytest.approx(120, abs=4)
    assert crop_to_head(picture, PrepareConfig(min_crop=1.0)).shape == picture.shape


def test_the_margin_is_a_part_of_the_head():
    narrow, wide = (box_of(head(), PrepareConfig(margin=margin, min_crop=0.0)) for margin in (0.0, 0.1))
    assert (np.abs(wide - narrow) == 24).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.integers(8, 64),
    seed=st.integers(0, 9),
)
def test_any_shape_is_cropped_and_fits(shape, size, seed):
    picture = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    picture.flags.writeable = False
    before = picture.copy()
    crop = crop_to_head(picture, CONFIG)
    assert crop.size
    for part in (crop, picture):
        result = fit(part, size)
        assert (result.shape, result.dtype) == ((size, size), np.uint8)
    assert max(shrink(picture, size).shape) <= size
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("shape", [(224, 224), (100, 100), (448, 448), (300, 100), (100, 301), (1, 500), (900, 3)])
def test_fit_keeps_the_aspect_and_pads_with_black_on_both_sides(shape):
    result = fit(np.full(shape, 200, np.uint8), 224)
    rows, columns = np.flatnonzero(result.any(axis=1)), np.flatnonzero(result.any(axis=0))
    for found, side in ((rows, shape[0]), (columns, shape[1])):
        assert len(found) == max(1, round(side * 224 / max(shape)))
        assert abs(found[0] - (223 - found[-1])) <= 1
    assert set(np.unique(result)) <= {0, 200}


def test_a_picture_of_the_right_size_is_not_touched():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    np.testing.assert_array_equal(fit(picture, 224), picture)


def test_the_resize_averages_what_it_cannot_show():
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, ::2] = 200
    inside = fit(stripes, 224)[:, 4:-4].astype(int)
    assert np.abs(inside - 100).max() < 15


def test_fit_follows_a_shift_of_the_picture():
    picture = np.asarray(Image.fromarray(head()).resize((448, 448)))
    left, right = fit(picture[:, :-2], 223), fit(picture[:, 2:], 223)
    assert np.abs(left[:, 1:].astype(int) - right[:, :-1]).mean() < 1.5


@pytest.mark.parametrize(
    ("shape", "expected"), [((512, 512), (128, 128)), ((130, 60), (65, 30)), ((5000, 1), (125, 1))]
)
def test_shrink_takes_means_of_whole_blocks(shape, expected):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result = shrink(picture, 128)
    assert result.shape == expected
    block = (shape[0] // expected[0], shape[1] // expected[1])
    first = picture[: block[0], : block[1]].mean()
    assert abs(int(result[0, 0]) - first) <= 1


@pytest.mark.parametrize(
    ("spacing_mm", "shape"),
    [
        (None, (24, 60)),
        ((1.0, 1.0), (24, 60)),
        ((1.01, 1.0), (24, 60)),
        ((5.0, 1.0), (120, 60)),
        ((1.0, 2.5), (24, 150)),
        ((0.0, 1.0), (24, 60)),
        ((float("nan"), 1.0), (24, 60)),
        ((99.0, 1e-9), (24, 60)),
        ((1.0, 1e-310), (24, 60)),
        ((5e-324, 99.0), (24, 60)),
    ],
)
def test_pixels_become_as_high_as_wide(spacing_mm, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 60), np.uint8)
    before = pixels.copy()
    found = squared(pixels, spacing_mm)
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert np.array_equal(pixels, before)
    assert found.min() >= pixels.min()
    assert found.max() <= pixels.max()


def test_a_disc_sampled_coarsely_in_one_direction_is_a_disc_again():
    rows, columns = np.indices((40, 200))
    sliver = (((rows * 5 + 2 - 100) ** 2 + (columns - 100) ** 2) < 80**2).astype(np.uint8) * 200
    disc = squared(sliver, (5.0, 1.0)) > 100
    height, width = np.ptp(np.flatnonzero(disc.any(axis=1))), np.ptp(np.flatnonzero(disc.any(axis=0)))
    assert abs(height - width) <= 6
