"""Heat maps find what decides, agree with masks as far as is said, and are drawn over their pictures."""

import numpy as np
import pytest
import torch

from mri_ray.learn.bundle import Bundle
from mri_ray.learn.loop import train_steps
from mri_ray.learn.losses import Batch
from mri_ray.learn.model import build
from mri_ray.learn.optimiser import Optimiser, Schedule
from mri_ray.learn.settings import NAMES, ModelConfig, OptimiserConfig
from mri_ray.predict.heatmap import Agreement, agreement, figures, heatmaps
from mri_ray.prepare.settings import PrepareConfig

SIZE = 64


def squares(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square, and masks of the squares; every second without one."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, 1, SIZE, SIZE), dtype=np.uint8)
    masks = np.zeros_like(images)
    for number in range(0, count, 2):
        y, x = rng.integers(4, SIZE - 20, 2)
        masks[number, 0, y : y + 14, x : x + 14] = 255
    return np.where(masks > 0, images + np.uint8(120), images), masks


def trained(*, masks: bool) -> Bundle:
    config = ModelConfig(input_size=SIZE, width=4, blocks=3, dense=8, dropout=0.0, masks=masks)
    torch.manual_seed(0)
    net = build(config)
    settings = OptimiserConfig(learning_rate=1e-2, warmup_epochs=0.0)
    optimiser = Optimiser(net, settings, Schedule.of(settings, steps_per_epoch=1, epochs=60))
    for step in range(60):
        images, truth = squares(16, seed=step)
        batch = Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy((truth.max(axis=(1, 2, 3)) > 0).astype(np.int64)),
            rows=torch.arange(16),
            masks=torch.from_numpy(truth),
            known=torch.ones(16, dtype=torch.bool),
        )
        train_steps(net, optimiser, [batch], device=torch.device("cpu"))
    return Bundle(model=config, prepare=PrepareConfig(size=SIZE), weights=net.state_dict())


@pytest.mark.parametrize("masks", [True, False])
def test_a_trained_networks_heat_lies_on_what_it_was_trained_to_find(masks):
    images, truth = squares(24, seed=999)
    images.flags.writeable = False
    heat = heatmaps(trained(masks=masks), images)
    assert heat.shape == (24, SIZE, SIZE)
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1
    found = figures(agreement(heat, truth), np.arange(24) // 4)
    assert found["slices_with_lesion"] == 12
    assert found["groups"] == 6
    assert found["pointing"] >= (0.9 if masks else 0.7)
    if masks:
        assert found["dice"] > 0.6
        assert heat[1::2].max(axis=(1, 2)).mean() < 0.5  # where there is nothing, nothing is marked


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_heat_maps(name):
    config = ModelConfig(name=name, input_size=SIZE, mirrors=True)
    bundle = Bundle(model=config, prepare=PrepareConfig(size=SIZE), weights=build(config, seed=1).state_dict())
    heat = heatmaps(bundle, squares(3)[0])
    assert heat.shape == (3, SIZE, SIZE)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heatmaps(bundle, squares(3)[0][:0]).shape == (0, SIZE, SIZE)


def test_agreement_counts_what_it_says():
    heat = np.zeros((3, 4, 4), np.float32)
    masks = np.zeros((3, 1, 4, 4), np.uint8)
    heat[0, 0, 0], heat[0, 1, 1], masks[0, 0, 1:3, 1:3] = 0.9, 0.6, 255
    heat[1, 2, 2] = 0.7
    masks[2, 0, 0, 0] = 255
    found = agreement(heat, masks)
    assert found.both.tolist() == [1, 0, 0]
    assert found.marked.tolist() == [2, 1, 0]
    assert found.truth.tolist() == [4, 0, 1]
    assert found.hit.tolist() == [False, False, True]


def test_figures_are_means_over_groups_and_count_false_marks_on_normal_slices():
    found = Agreement(
        both=np.array([4, 0, 2, 0]),
        marked=np.array([4, 4, 2, 9]),
        truth=np.array([4, 0, 6, 0]),
        hit=np.array([1, 0, 0, 0]),
    )
    told = figures(found, np.array(["a", "a", "b", "c"]))
    assert told["dice"] == pytest.approx((2 * 4 / (8 + 4) + 2 * 2 / (2 + 6)) / 2)
    assert told["dice_lowest"] == pytest.approx(0.5)
    assert told["dice_slices"] == pytest.approx((1.0 + 0.5) / 2)
    assert told["pointing"] == 0.5
    assert told["extent"] == pytest.approx((8 / 4 + 2 / 6) / 2)
    assert told["dice_bootstrap"] is told["pointing_bootstrap"] is None  # of two groups
    assert (told["groups"], told["slices"]) == (2, 4)
    many = Agreement(both=np.arange(40) % 8, marked=np.full(40, 8), truth=np.full(40, 8), hit=np.arange(40) % 2)
    told = figures(many, np.repeat(np.arange(10), 4))
    for key in ("dice", "pointing"):
        low, high = told[f"{key}_bootstrap"]
        assert low <= told[key] <= high
        assert high - low < 0.6
    nothing = np.zeros(0, np.int64)
    assert figures(Agreement(both=nothing, marked=nothing, truth=nothing, hit=nothing), nothing)["dice"] is None
