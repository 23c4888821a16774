"""8 bits are kept, deeper pictures windowed, and noise is never made to look like a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mri_ray.prepare.intensity import is_blank, levelled, to_uint8
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Flag

CONFIG = PrepareConfig()
ANY_PICTURE = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(width=32),
    fill=st.floats(width=32),
)


def disc(shape=(256, 256), radius=0.4, inside=1.0, outside=0.0):
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(y - shape[0] / 2, x - shape[1] / 2)
    return np.where(distance < radius * min(shape), inside, outside).astype(np.float32)


def magnitude_noise(sigma, shape=(256, 256), seed=0):
    parts = np.random.default_rng(seed).normal(0, sigma, (2, *shape))
    return np.hypot(*parts).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(pixels=ANY_PICTURE, bits=st.sampled_from([1, 8, 12, 16, 32]))
def test_any_numbers_become_a_picture_and_stay_as_they_were(pixels, bits):
    before = pixels.copy()
    pixels.flags.writeable = False
    result, flags = to_uint8(pixels, bits, CONFIG)
    assert result.dtype == np.uint8
    assert result.shape == pixels.shape
    assert flags <= {Flag.LOW_CONTRAST}
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(to_uint8(pixels, bits, CONFIG)[0], result)


@settings(max_examples=30, deadline=None)
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_eight_bits_are_kept_exactly(pixels):
    result, flags = to_uint8(pixels.astype(np.float32), 8, CONFIG)
    np.testing.assert_array_equal(result, pixels)
    assert not flags


def test_eight_bits_rescaled_beyond_a_byte_are_windowed():
    result, _ = to_uint8(disc(inside=2000.0, outside=-100.0), 8, CONFIG)
    assert (result.min(), result.max()) == (0, 255)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.3, 1e4])
@pytest.mark.parametrize("offset", [-1024.0, 0.0, 500.0])
def test_the_unit_and_the_zero_of_a_deep_picture_do_not_matter(scale, offset):
    picture = disc(inside=1000.0) + disc(radius=0.1, inside=500.0) + magnitude_noise(5.0)
    expected, _ = to_uint8(picture, 16, CONFIG)
    result, flags = to_uint8((picture + offset) * np.float32(scale), 16, CONFIG)
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert not flags


def test_a_few_hot_pixels_do_not_darken_the_rest():
    picture = disc(inside=800.0) + magnitude_noise(5.0)
    picture[:5, :5] = 60_000
    result, flags = to_uint8(picture, 16, CONFIG)
    assert np.median(result[disc() > 0]) > 200
    assert not flags


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
@pytest.mark.parametrize("whole_numbers", [True, False])
@pytest.mark.parametrize("side", [64, 256, 700])
def test_noise_alone_stays_dark_and_is_flagged(sigma, whole_numbers, side):
    noise = magnitude_noise(sigma, (side, side))
    result, flags = to_uint8(np.rint(noise) if whole_numbers else noise, 12, CONFIG)
    assert flags == {Flag.LOW_CONTRAST}
    assert np.percentile(result, 99) < 32
    assert is_blank(result) or side == 64  # a cell of the small copy is one pixel there


def test_without_a_floor_noise_would_fill_the_range():
    result, flags = to_uint8(magnitude_noise(3.0), 12, PrepareConfig(window_floor=0.0))
    assert np.percentile(result, 99) > 200
    assert not flags


def test_a_few_pixels_on_nothing_are_seen():
    picture = disc(radius=0.03, inside=900.0)  # fewer than the percentiles leave out
    result, flags = to_uint8(picture, 16, CONFIG)
    np.testing.assert_array_equal(result, np.where(picture > 0, 255, 0))
    assert not flags


@pytest.mark.parametrize("value", [-5.0, 0.0, 3.25, 70_000.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_constant_picture_has_nothing_to_see(value, bits):
    result, _ = to_uint8(np.full((30, 40), value, np.float32), bits, CONFIG)
    assert is_blank(result)


@pytest.mark.parametrize("bits", [8, 16])
def test_missing_numbers_are_dark_and_infinite_ones_bright(bits):
    picture = disc(inside=200.0)
    expected, _ = to_uint8(picture, bits, CONFIG)
    picture[0, :3] = np.nan, np.inf, -np.inf
    result, _ = to_uint8(picture, bits, CONFIG)
    assert result[0, :3].tolist() == [0, expected.max(), 0]
    np.testing.assert_array_equal(result[1:], expected[1:])


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda pixels: pixels[::-1, ::-1][::-1, ::-1]])
def test_the_order_in_memory_does_not_matter(layout):
    picture = disc(inside=900.0) + magnitude_noise(5.0)
    for bits in (8, 16):
        result, _ = to_uint8(layout(picture), bits, CONFIG)
        np.testing.assert_array_equal(result, to_uint8(picture, bits, CONFIG)[0])
        assert result.flags.c_contiguous


@pytest.mark.parametrize("grey", [0, 7, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (64, 3000), (512, 512)])
def test_a_constant_picture_is_blank(grey, shape):
    assert is_blank(np.full(shape, grey, np.uint8))


def test_noise_and_single_points_are_blank_and_a_small_cap_of_brain_is_not():
    noise = np.minimum(magnitude_noise(4.0), 30).astype(np.uint8)
    assert is_blank(noise)
    noise[100, 100:102] = 255
    assert is_blank(noise)
    assert not is_blank(np.maximum(noise, disc(radius=0.03, inside=80.0)).astype(np.uint8))
    assert not is_blank(255 - np.maximum(noise, disc(radius=0.03, inside=80.0)).astype(np.uint8))


@pytest.mark.parametrize("brightness", [0.3, 0.6, 0.68])
def test_the_heads_median_is_brought_where_it_is_wanted_and_black_and_white_stay(brightness):
    picture = np.zeros((64, 64), np.uint8)
    picture[16:48, 16:48] = np.random.default_rng(2).normal(255 * brightness, 20, (32, 32)).clip(40, 254)
    picture[20, 20] = 255
    levels = levelled(picture, 0.4)
    assert np.median(levels[levels > 15]) == pytest.approx(0.4 * 255, abs=3)
    assert (levels[picture == 0] == 0).all()
    assert levels[20, 20] == 255
    np.testing.assert_array_equal(np.argsort(picture[30], kind="stable"), np.argsort(levels[30], kind="stable"))


def test_what_has_no_head_to_speak_of_is_left_alone():
    for picture in (np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8), np.eye(64, dtype=np.uint8) * 9):
        np.testing.assert_array_equal(levelled(picture, 0.4), picture)


def test_a_nearly_black_picture_does_not_become_a_bright_one():
    dim = np.full((64, 64), 17, np.uint8)
    assert levelled(dim, 0.9).max() < 90  # the strongest gamma, not all the way
