"""The one path from a slice to the model's input."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mri_ray.decode.read import read
from mri_ray.prepare.geometry import crop_to_head
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Flag, Slice

CONFIG = PrepareConfig(size=64)
PINNED = {
    8: [[0, 33, 12, 0], [29, 137, 79, 0], [43, 141, 97, 0], [9, 76, 49, 0]],
    16: [[0, 47, 17, 0], [40, 191, 110, 0], [61, 197, 135, 0], [13, 106, 69, 0]],
}  # by bits


def ellipse(shape=(300, 240), inside=900.0):
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot((y - shape[0] / 2) / (0.35 * shape[0]), (x - shape[1] / 2) / (0.35 * shape[1]))
    return np.where(distance < 1, inside * (1.2 - distance), 0).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(
    pixels=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.floats(width=32)),
    bits=st.sampled_from([8, 12, 16]),
    size=st.sampled_from([8, 33, 64]),
)
def test_any_slice_gives_the_models_input_and_is_left_alone(pixels, bits, size):
    before = pixels.copy()
    pixels.flags.writeable = False
    item = Slice(pixels=pixels, bits=bits)
    first, second = (prepare(item, PrepareConfig(size=size)) for _ in range(2))
    assert (first.pixels.shape, first.pixels.dtype) == ((1, size, size), np.uint8)
    assert first.pixels.flags.writeable
    assert first.pixels.flags.c_contiguous
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.flags == second.flags
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_head_fills_the_input(bits):
    scale = 255 / 1200 if bits == 8 else 1
    result = prepare(Slice(pixels=ellipse() * np.float32(scale), bits=bits), CONFIG).pixels[0]
    rows = np.flatnonzero((result > 20).any(axis=1))
    assert rows[0] <= 5
    assert rows[-1] >= 58


def test_flags_of_the_slice_are_carried_on():
    item = Slice(pixels=ellipse(), bits=16, flags=frozenset({Flag.COLOUR}))
    assert prepare(item, CONFIG).flags == {Flag.COLOUR}


@pytest.mark.parametrize(("size", "flags"), [(64, set()), (512, {Flag.UPSCALED})])
def test_a_head_smaller_than_the_input_is_flagged(size, flags):
    assert prepare(Slice(pixels=ellipse(), bits=16), PrepareConfig(size=size)).flags == flags


@pytest.mark.parametrize("bits", [8, 16])
def test_a_black_slice_is_flagged_blank_and_stays_black(bits):
    result = prepare(Slice(pixels=np.zeros((256, 256), np.float32), bits=bits), CONFIG)
    assert Flag.BLANK in result.flags
    assert not result.pixels.any()


def test_noise_is_flagged_blank_and_stays_dark():
    noise = np.abs(np.random.default_rng(0).normal(0, 9, (256, 256))).astype(np.float32)
    result = prepare(Slice(pixels=np.rint(noise), bits=12), CONFIG)
    assert result.flags == {Flag.BLANK, Flag.LOW_CONTRAST}
    assert result.pixels.max() < 64


@pytest.mark.parametrize("bits", [8, 16])
def test_the_pixels_are_those_of_earlier_versions(bits):
    """A bundle's model goes on seeing what it was trained on. If this must change, raise `settings._METHOD`."""
    pixels = np.rint(ellipse(inside=150.0))
    pixels[100:140, 90:130] += 40
    result = prepare(Slice(pixels=pixels, bits=bits), PrepareConfig(size=8)).pixels[0]
    assert np.abs(result[::2, 1::2].astype(int) - PINNED[bits]).max() <= 1


def test_the_answer_does_not_depend_on_what_was_prepared_before():
    items = [Slice(pixels=ellipse((200 + 40 * n, 300 - 20 * n)), bits=16) for n in range(4)]
    forwards = [prepare(item, CONFIG).pixels for item in items]
    backwards = [prepare(item, CONFIG).pixels for item in reversed(items)]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, other)


def public(mri_data: Path, table: str, step: int) -> list[dict[str, str]]:
    with (mri_data / table).open(newline="") as lines:
        return list(csv.DictReader(lines))[::step]


def decoded(path: Path) -> Slice:
    (item,) = read(io.BytesIO(path.read_bytes()), os.fspath(path))
    assert isinstance(item, Slice)
    return item


def test_public_slices_are_blank_when_there_is_no_head(mri_data):
    prepared = 0
    for row in public(mri_data, "lgg.csv", 13):
        item = decoded(mri_data / "lgg" / row["path"])
        blank = Flag.BLANK in prepare(item, CONFIG).flags
        if item.pixels.max() < 10:
            assert blank, row["path"]
        if row["label"] == "tumor" or np.mean(item.pixels > 60) > 0.01:
            assert not blank, row["path"]
        prepared += 1
    assert prepared > 150


def test_no_tumour_of_a_public_slice_is_cut_off(mri_data):
    checked = 0
    for row in public(mri_data, "lgg.csv", 7):
        if row["label"] == "tumor":
            grey = decoded(mri_data / "lgg" / row["path"]).pixels.astype(np.uint8)
            crop = crop_to_head(grey, CONFIG)
            start = crop.__array_interface__["data"][0] - grey.__array_interface__["data"][0]
            top, left = divmod(start, grey.strides[0])
            x0, y0, x1, y1 = (int(edge) for edge in row["mask_box"].split())
            assert left <= x0 <= x1 <= left + crop.shape[1], row["path"]
            assert top <= y0 <= y1 <= top + crop.shape[0], row["path"]
            checked += 1
    assert checked > 50


def test_two_exposures_of_a_head_look_alike_once_their_medians_are_one():
    item = Slice(pixels=(ellipse() / 5).astype(np.uint8), bits=8)
    dark = Slice(pixels=(255 * (item.pixels / 255.0) ** 1.4).astype(np.uint8), bits=8)
    plain, alike = (
        [prepare(one, PrepareConfig(size=64, median=median)).pixels.astype(int) for one in (item, dark)]
        for median in (None, 0.4)
    )
    assert np.abs(plain[0] - plain[1]).mean() > 3 * np.abs(alike[0] - alike[1]).mean()
