"""Parameters follow from seed, epoch and row id; applying them is pure and does what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.errors import ConfigError
from mri_ray.prepare.augment import IDENTITY, AugmentConfig, apply, draw, moved

STRONG = {
    "rotation_deg": 30.0,
    "flip": 1.0,
    "zoom": 0.3,
    "shift": 0.2,
    "stretch": 0.2,
    "crop": 0.4,
    "brightness": 0.4,
    "contrast": 0.6,
    "gamma": 1.0,
    "invert": 1.0,
    "background": 0.3,
    "bias": 0.9,
    "blur": 0.04,
    "noise": 0.1,
}
OFF = dict.fromkeys(STRONG, 0.0)
SELDOM = ("background", "bias", "blur", "noise")  # change every second picture
IDS = [f"row-{number}" for number in range(2000)]


def images(count=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, size, size), np.uint8)


def disc(x, y, size=101, radius=8):
    """A disc at (x, y) in units of half the side from the middle."""
    rows, columns = np.ogrid[:size, :size]
    middle = (size - 1) / 2
    near = np.hypot(columns - middle - x * size / 2, rows - middle - y * size / 2) < radius
    return (near * 100).astype(np.uint8)[None, None]


def centre(image):
    """Centre of mass (x, y) in the same units."""
    size = image.shape[-1]
    weights = image[0, 0] / image.sum()
    steps = (np.arange(size) - (size - 1) / 2) * 2 / size
    return float(weights.sum(axis=0) @ steps), float(weights.sum(axis=1) @ steps)


def only(**setting):
    return AugmentConfig(**{**OFF, **setting})


@pytest.mark.parametrize("name", [None, *STRONG])
@pytest.mark.parametrize("size", [1, 8, 33, 224])
def test_every_change_keeps_shape_type_and_input(name, size):
    config = AugmentConfig(**STRONG) if name is None else only(**{name: STRONG[name]})
    given_images = images(8, size)
    before = given_images.copy()
    parameters = draw(config, seed=1, epoch=2, row_ids=IDS[:8])
    given_images.flags.writeable = parameters.flags.writeable = False
    result = apply(given_images, parameters)
    assert (result.shape, result.dtype) == (given_images.shape, np.uint8)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, given_images)
    np.testing.assert_array_equal(given_images, before)
    np.testing.assert_array_equal(apply(given_images, parameters), result)
    masks = moved(given_images, parameters)
    assert (masks.shape, masks.dtype) == (given_images.shape, np.uint8)
    np.testing.assert_array_equal(given_images, before)
    if size > 8:
        changed = (result != given_images).any(axis=(1, 2, 3))
        assert changed.any() if name in SELDOM else changed.all()


@pytest.mark.parametrize("size", [1, 2, 31, 32, 224])
def test_identity_leaves_every_pixel(size):
    given_images = images(2, size)
    np.testing.assert_array_equal(apply(given_images, np.tile(IDENTITY, (2, 1))), given_images)
    np.testing.assert_array_equal(draw(AugmentConfig(**OFF), seed=0, epoch=0, row_ids=["a"]), IDENTITY[None])


def test_no_rows_are_fine():
    parameters = draw(AugmentConfig(), seed=0, epoch=0, row_ids=[])
    assert parameters.shape == (0, len(IDENTITY))
    assert apply(images(0), parameters).shape == (0, 1, 32, 32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64),
    epoch=st.integers(0, 10**6),
    row_ids=st.lists(st.text(max_size=8), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_a_row_is_changed_the_same_whatever_its_company(seed, epoch, row_ids, data):
    config = AugmentConfig(**STRONG)
    together = draw(config, seed=seed, epoch=epoch, row_ids=row_ids)
    assert together.shape == (len(row_ids), len(IDENTITY))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    order = data.draw(st.permutations(range(len(row_ids))))
    shuffled = draw(config, seed=seed, epoch=epoch, row_ids=[row_ids[place] for place in order])
    np.testing.assert_array_equal(shuffled, together[order])
    pictures = images(len(row_ids), 16)
    changed = apply(pictures, together)
    for place, row_id in enumerate(row_ids):
        alone = draw(config, seed=seed, epoch=epoch, row_ids=[row_id])
        np.testing.assert_array_equal(alone[0], together[place])
        np.testing.assert_array_equal(apply(pictures[place : place + 1], alone)[0], changed[place])


def test_seed_epoch_and_row_each_give_other_parameters():
    drawn = [
        draw(AugmentConfig(), seed=seed, epoch=epoch, row_ids=[row_id])[0].tobytes()
        for seed in range(5)
        for epoch in range(5)
        for row_id in IDS[:40]
    ]
    assert len(set(drawn)) == len(drawn)


def test_the_numbers_are_those_of_earlier_versions():
    """A run that is continued with a newer version goes on as it began."""
    found = draw(AugmentConfig(), seed=7, epoch=3, row_ids=["0123456789abcdef"])
    np.testing.assert_allclose(
        found[:, :7], [[0.996481, -0.231161, 0.020071, 0.231161, 0.996481, 0.012391, 1.091393]], atol=1e-6
    )


def test_what_is_drawn_fills_the_ranges_evenly():
    config = AugmentConfig()
    found = draw(config, seed=0, epoch=0, row_ids=IDS).astype(np.float64)
    turn = found[:, [0, 1, 3, 4]].reshape(-1, 2, 2)
    zoom = 1 / np.sqrt(np.abs(np.linalg.det(turn))) - 1
    angle = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 1, 1]))
    shift = -np.linalg.solve(turn, found[:, [2, 5], None])[..., 0] / 2
    for values, limit in (
        (angle, config.rotation_deg),
        (zoom, config.zoom),
        (shift[:, 0], config.shift),
        (shift[:, 1], config.shift),
        (found[:, 6] - 1, config.brightness),
    ):
        assert np.abs(values).max() <= limit * (1 + 1e-5)
        counts, _ = np.histogram(values, bins=4, range=(-limit, limit))
        assert counts.min() > 400  # 500 expected, standard deviation 19
    flipped = np.linalg.det(turn) < 0
    assert abs(flipped.mean() - config.flip) < 0.05
    assert abs(np.corrcoef(angle, zoom)[0, 1]) < 0.1
    assert abs(np.corrcoef(angle, flipped)[0, 1]) < 0.1


def test_flip_exchanges_left_and_right_exactly():
    parameters = draw(only(flip=1.0), seed=0, epoch=0, row_ids=IDS[:3])
    np.testing.assert_array_equal(apply(images(), parameters), images()[..., ::-1])


def test_brightness_scales_and_does_not_wrap():
    parameters = np.tile(IDENTITY, (2, 1))
    parameters[:, 6] = 0.5, 1.5
    result = apply(images(2), parameters)
    exact = images(2) * np.array([0.5, 1.5]).reshape(2, 1, 1, 1)
    assert np.abs(result - exact.clip(0, 255)).max() <= 0.5


@pytest.mark.parametrize("row_id", IDS[:6])
def test_a_place_goes_where_the_matrix_says(row_id):
    places = ("rotation_deg", "flip", "zoom", "shift", "stretch")
    parameters = draw(only(**{name: STRONG[name] for name in places}), seed=3, epoch=0, row_ids=[row_id])
    before = (0.2, -0.25)
    after = centre(apply(disc(*before), parameters))
    matrix = parameters[0, :6].reshape(2, 3)
    np.testing.assert_allclose(matrix @ [*after, 1], before, atol=0.01)


def test_the_size_in_pixels_does_not_matter():
    parameters = draw(AugmentConfig(), seed=3, epoch=0, row_ids=IDS[:1])
    small, large = (apply(disc(0.3, 0.1, size, size / 12), parameters) for size in (101, 303))
    np.testing.assert_allclose(centre(small), centre(large), atol=0.005)


def test_what_comes_in_from_outside_is_black():
    white = np.full((1, 1, 64, 64), 255, np.uint8)
    parameters = IDENTITY[None].copy()
    parameters[0, 2] = 0.5  # the new picture's middle is the old one's right half
    result = apply(white, parameters)[0, 0]
    assert (result[:, :47] == 255).all()
    assert (result[:, 49:] == 0).all()


@pytest.mark.parametrize("field", STRONG)
@pytest.mark.parametrize("value", [-0.1, 181.0, float("nan"), float("inf"), True, "0.1", None])
def test_a_mistake_names_the_field_the_rule_and_the_value(field, value):
    with pytest.raises(ConfigError, match=f"^{field}: must be a number from 0 to .*, got ") as caught:
        AugmentConfig(**{field: value})
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("row_id", IDS[:6])
def test_a_mask_moves_with_its_picture_and_keeps_its_values(row_id):
    parameters = draw(AugmentConfig(**{**STRONG, "crop": 0.1, "invert": 0.0}), seed=3, epoch=0, row_ids=[row_id])
    mask = disc(0.1, -0.15) // 100 * 255
    picture = apply(mask, parameters)[0, 0].astype(float)
    found = moved(mask, parameters)
    assert set(np.unique(found)) == {0, 255}
    inside = found[0, 0] > 0
    assert picture[inside].mean() > picture[~inside].mean() + 80
    places = draw(only(rotation_deg=30.0, flip=1.0, zoom=0.3, shift=0.2), seed=3, epoch=0, row_ids=[row_id])
    np.testing.assert_allclose(centre(moved(mask, places)), centre(apply(mask, places)), atol=0.01)


def test_a_crop_stays_within_the_picture():
    parameters = draw(only(crop=0.4), seed=0, epoch=0, row_ids=IDS)
    corners = np.array([[-1, -1, 1], [1, 1, 1]])
    reached = parameters[:, :6].reshape(-1, 2, 3) @ corners.T
    assert np.abs(reached).max() <= 1 + 1e-6
    side = (reached[:, 0, 1] - reached[:, 0, 0]) / 2
    assert side.min() < 0.62
    assert side.max() > 0.98
    white = np.full((20, 1, 32, 32), 255, np.uint8)
    assert apply(white, parameters[:20]).min() >= 127  # half a pixel of black at the edge


def test_each_change_of_looks_does_what_it_says():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))[None, None]
    parameters = np.tile(IDENTITY, (8, 1))
    parameters[0, 7] = 0.5  # contrast
    parameters[1, 8] = 2.0  # gamma
    parameters[2, 9] = 0.2  # background
    parameters[3, 10] = 1.0  # inverted
    parameters[4, 11] = 0.02  # blur
    parameters[5, 12] = 0.1  # noise
    parameters[6, 15:19] = np.log([0.5, 0.5, 1.5, 1.5])  # bias
    contrast, gamma, background, inverted, blurred, noisy, biased, same = (
        image[0].astype(float) for image in apply(np.tile(ramp, (8, 1, 1, 1)), parameters)
    )
    plain = ramp[0, 0].astype(float)
    np.testing.assert_array_equal(same, plain)
    np.testing.assert_allclose(np.diff(contrast[0]).mean(), 0.5, atol=0.01)
    np.testing.assert_allclose(gamma, plain**2 / 255, atol=0.51)
    assert background.min() == 51
    assert background.max() == 255
    np.testing.assert_array_equal(inverted, 255 - plain)
    np.testing.assert_allclose(blurred[:, 30:-30], plain[:, 30:-30], atol=1)
    assert 20 < (noisy - plain)[:, 80:170].std() < 30
    np.testing.assert_allclose(biased[0, :160], plain[0, :160] * 0.5, atol=0.51)
    np.testing.assert_allclose(biased[-1, :160], plain[-1, :160] * 1.5, atol=0.51)


def test_every_second_picture_is_left_alone():
    found = draw(AugmentConfig(**STRONG), seed=0, epoch=0, row_ids=IDS)
    for column, limit in ((9, 0.3), (11, 0.04), (12, 0.1)):
        values = found[:, column]
        assert 0.45 < (values == 0).mean() < 0.55
        assert 0.95 * limit < values.max() <= limit * (1 + 1e-6)
