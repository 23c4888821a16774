"""What of a head has no counterpart on its other side."""

import csv
import io

import cv2
import numpy as np
import pytest

from mri_ray.decode.read import read
from mri_ray.metrics import auroc
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.prepare.symmetry import asymmetry
from mri_ray.records import Slice

SIDE, REACH = 96, 0.04
LESION = (40, 62, 6)  # row, column, radius


def head(lesion: float = 0.0) -> np.ndarray:
    """uint8 (SIDE, SIDE): skull, brain and ventricles, alike on both sides; a disc by so much of white brighter."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    brain = np.hypot(rows / 42, columns / 34)
    grey = np.where(brain < 1, 0.45 + 0.1 * np.cos(brain * 9), 0)
    grey[(brain > 0.9) & (brain < 1)] = 0.8
    grey[np.hypot(rows / 14, (np.abs(columns) - 7) / 4) < 1] = 0.15
    top, left, radius = LESION
    grey[np.hypot(rows + (SIDE - 1) / 2 - top, columns + (SIDE - 1) / 2 - left) < radius] += lesion
    return np.rint(255 * grey).astype(np.uint8)


def moved(picture: np.ndarray, turn: float, shift: float) -> np.ndarray:
    affine = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), turn, 1)
    affine[0, 2] += shift
    return cv2.warpAffine(picture, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR)


@pytest.mark.parametrize(("turn", "shift"), [(0, 0), (0, 4.3), (8, 0), (-13, -3)])
def test_a_head_without_lesion_is_dark_and_one_with_it_bright_where_it_lies_however_it_is_held(turn, shift):
    healthy, ill = (asymmetry(moved(head(lesion), turn, shift), REACH) for lesion in (0, 0.3))
    at = moved((head(0.3) != head()).astype(np.uint8) * 255, turn, shift) > 200
    assert healthy.max() < 60
    assert ill[at].mean() > 150
    # Beside the lesion and its mirror image nothing else came.
    assert (ill > 100).sum() < 3 * at.sum()


def test_contrast_exposure_and_which_side_is_brighter_do_not_matter():
    shown = asymmetry(head(0.3), REACH).astype(int)
    darker = asymmetry((head(0.3) * 0.6).astype(np.uint8), REACH)
    mirrored = asymmetry(np.ascontiguousarray(head(0.3)[:, ::-1]), REACH)[:, ::-1]
    inverted = np.where(head(0.3) > 0, 255 - head(0.3), 0).astype(np.uint8)
    for other in (darker, mirrored, asymmetry(inverted, REACH)):
        assert np.abs(shown - other).mean() < 3
    assert shown.mean() > 3


@pytest.mark.parametrize("level", [0, 7, 130, 255])
def test_a_picture_of_one_grey_shows_nothing(level):
    assert not asymmetry(np.full((SIDE, SIDE), level, np.uint8), REACH).any()


@pytest.mark.parametrize("side", [8, 33, 400])
def test_small_pictures_and_noise_give_pictures_too(side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    for reach in (0.01, 0.1):
        found = asymmetry(noise, reach)
        assert (found.shape, found.dtype) == ((side, side), np.uint8)


def test_the_model_sees_the_difference_and_a_person_the_head():
    item = Slice(pixels=head(0.3), bits=8)
    plain = prepare(item, PrepareConfig(size=SIDE, median=0.4))
    compared = prepare(item, PrepareConfig(size=SIDE, median=0.4, asymmetry=REACH))
    np.testing.assert_array_equal(plain.head, plain.pixels[0])
    np.testing.assert_array_equal(compared.head, plain.head)
    np.testing.assert_array_equal(compared.pixels[0], asymmetry(plain.head, REACH))
    blank = prepare(Slice(pixels=np.full((SIDE, SIDE), 200, np.uint8), bits=8), PrepareConfig(asymmetry=REACH))
    assert not blank.pixels.any()


def test_on_real_slices_it_tells_tumors_before_anything_is_learned(mri_data):
    """A fifth of the LGG set, of all patients: how bright the picture is ranks slices (0.93 on all of them)."""
    config = PrepareConfig(size=SIDE, median=0.4, asymmetry=0.05)
    tumor, bright = [], []
    for row in list(csv.DictReader((mri_data / "lgg.csv").read_text().splitlines()))[::5]:
        (item,) = read(io.BytesIO((mri_data / "lgg" / row["path"]).read_bytes()), row["path"])
        tumor.append(row["label"] == "tumor")
        bright.append(prepare(item, config).pixels.mean())
    assert auroc(np.array(tumor), np.array(bright)) > 0.9
