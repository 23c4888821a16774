"""Training and evaluation steps on a problem that takes seconds: is there a bright square in the noise?"""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mri_ray.errors import ConfigError, TrainingFailed
from mri_ray.learn.checkpoint import load_checkpoint, restore, save_checkpoint, state
from mri_ray.learn.device import Precision
from mri_ray.learn.loop import Sums, evaluate_batches, to_input, train_steps
from mri_ray.learn.losses import Batch, Objective
from mri_ray.learn.model import build
from mri_ray.learn.optimiser import Optimiser, Schedule, unwrap
from mri_ray.learn.settings import ModelConfig, OptimiserConfig

CPU = torch.device("cpu")
SIDE = 32


def squares(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (N, 1, 32, 32) of noise, with a bright square at any place where the label is 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.integers(0, 120, (n, 1, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(0, SIDE - 6, 2)
        image[0, y : y + 6, x : x + 6] += np.uint8(100 * label)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def batches(n: int = 64, size: int = 16, seed: int = 0) -> list[Batch]:
    images, labels = squares(n, seed)
    rows = torch.arange(n)
    return [
        Batch(images=images[i : i + size], labels=labels[i : i + size], rows=rows[i : i + size])
        for i in range(0, n, size)
    ]


def network(seed: int = 0, dropout: float = 0.2) -> nn.Module:
    return build(
        ModelConfig(input_size=SIDE, width=4, blocks=3, dense=8, dropout=dropout),
        seed=seed,
    ).to(memory_format=torch.channels_last)


def optimiser_of(
    model: nn.Module, precision: Precision = Precision.FP32, *, epochs: int = 4, **settings: object
) -> Optimiser:
    config = OptimiserConfig(**{"learning_rate": 1e-2, **settings})
    return Optimiser(model, config, Schedule.of(config, steps_per_epoch=4, epochs=epochs), precision)


def trained(seed: int, epochs: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = network(seed)
    optimiser = optimiser_of(model)
    for epoch in range(epochs):
        train_steps(model, optimiser, batches(), device=CPU, epoch=epoch)
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_a_small_network_learns_the_squares(precision: Precision) -> None:
    torch.manual_seed(0)
    model = network()
    optimiser = optimiser_of(model, precision, epochs=8)
    history = [
        train_steps(model, optimiser, batches(seed=epoch), device=CPU, precision=precision, epoch=epoch)
        for epoch in range(8)
    ]
    assert history[-1].n == 64
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].accuracy > 0.9
    found = evaluate_batches(model, batches(seed=99), device=CPU, precision=precision)
    assert ((found.logits > 0) == found.labels).mean() > 0.95


def test_the_seed_decides_the_trained_weights() -> None:
    first, again, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_resumed_run_ends_where_the_undisturbed_one_does(tmp_path: Path) -> None:
    def run(model: nn.Module, optimiser: Optimiser, epochs: range) -> None:
        for epoch in epochs:
            torch.manual_seed(epoch)
            train_steps(model, optimiser, batches(), device=CPU, epoch=epoch)

    straight = network()
    run(straight, optimiser_of(straight), range(4))
    first = network()
    optimiser = optimiser_of(first)
    run(first, optimiser, range(2))
    save_checkpoint(tmp_path, first, optimiser, {"epoch": 2, "best": 0.25})
    second = network(seed=7)
    optimiser = optimiser_of(second)
    assert load_checkpoint(tmp_path, second, optimiser) == {"epoch": 2, "best": 0.25}
    assert optimiser.step == 8
    run(second, optimiser, range(2, 4))
    expected = straight.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.state_dict().items())


def test_the_scale_of_fp16_is_resumed() -> None:
    model = network()
    optimiser = optimiser_of(model, Precision.FP16)
    train_steps(model, optimiser, batches(), device=CPU, precision=Precision.FP16)
    tensors = state(model, optimiser)
    tensors["optimiser.scale"] = torch.tensor(256.0)
    again = optimiser_of(model, Precision.FP16)
    restore(model, again, tensors)
    assert float(state(model, again)["optimiser.scale"]) == 256


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    model = network()
    save_checkpoint(tmp_path, model, optimiser_of(model), {})
    other = build(ModelConfig(input_size=SIDE, width=5, blocks=3))
    with pytest.raises(ConfigError, match=r"model: must be the one the checkpoint was taken from.*features"):
        load_checkpoint(tmp_path, other, optimiser_of(other))


def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path: Path) -> None:
    saved, own = (
        ModelConfig(input_size=SIDE, width=4, blocks=3),
        ModelConfig(input_size=SIDE, width=4, blocks=3, dropout=0.1),
    )
    model = build(saved)
    save_checkpoint(tmp_path, model, optimiser_of(model), {"model": saved.decisive()})
    assert load_checkpoint(tmp_path, model, optimiser_of(model), model=saved)["model"]["width"] == 4
    with pytest.raises(
        ConfigError, match=r"model: must be the one the checkpoint was taken from, .* dropout 0\.3 for 0\.1"
    ):
        load_checkpoint(tmp_path, build(own), optimiser_of(model), model=own)


class Broken(nn.Module):
    """Gives NaN from the given call on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.calls, self.first = 0, first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        factor = math.nan if self.calls > self.first else 1.0
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight * factor


@pytest.mark.parametrize("first", [0, 3, 17, 30])
def test_a_loss_that_is_not_finite_names_epoch_and_step(first: int) -> None:
    model = Broken(first)
    optimiser = optimiser_of(model)
    with pytest.raises(TrainingFailed, match=f"got nan in epoch 5, step {first};"):
        train_steps(model, optimiser, batches(64, 2), device=CPU, epoch=5)


def test_no_batches_change_nothing() -> None:
    model = network()
    assert train_steps(model, optimiser_of(model), [], device=CPU) == Sums()
    found = evaluate_batches(model, [], device=CPU)
    assert (found.labels.shape, found.logits.shape, found.rows.shape) == ((0,), (0,), (0,))
    assert found.logits.dtype == np.float32


def test_sums_add_up_to_the_loss_of_all_rows() -> None:
    model = network(dropout=0.0)
    optimiser = optimiser_of(model, learning_rate=1e-12, clip_norm=0.0)
    model.train()
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(to_input(b.images, CPU)), b.labels, reduction="sum") for b in batches()
        ]
    sums = train_steps(model, optimiser, batches(), device=CPU)
    assert sums.loss_sum == pytest.approx(float(sum(losses)), rel=1e-5)
    assert sums + Sums() == sums
    assert (sums + sums).n == 128
    assert (sums + sums).loss == sums.loss
    assert (sums + sums).accuracy == sums.accuracy
    assert (Sums().loss, Sums().accuracy) == (None, None)


def test_evaluation_keeps_order_mode_and_weights() -> None:
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = evaluate_batches(model, reversed(batches(40, 16)), device=CPU)
    labels, logits, rows = found.labels, found.logits, found.rows
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert rows.tolist() == [*range(32, 40), *range(16, 32), *range(16)]
    assert labels.tolist() == [row % 2 for row in rows]
    with torch.inference_mode():
        z = model.eval()(to_input(squares(40)[0], CPU))
    np.testing.assert_allclose(logits, (z[:, 1] - z[:, 0]).numpy()[rows], atol=1e-5)


def test_on_step_is_given_the_steps_taken() -> None:
    seen: list[int] = []
    model = network()
    optimiser = optimiser_of(model)
    for _ in range(2):
        train_steps(model, optimiser, batches(), device=CPU, on_step=seen.append)
    assert seen == list(range(1, 9))


def test_input_is_the_grey_value_over_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 1, 1, 1)
    kept = images.clone()
    given = to_input(images, CPU)
    assert given.dtype == torch.float32
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(given, kept.float() / 255)
    assert torch.equal(images, kept)


def test_schedule_rises_by_the_step_then_falls_as_a_cosine() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_epochs=0.5)
    schedule = Schedule.of(config, steps_per_epoch=10, epochs=11)
    rates = [schedule.rate(step) for step in range(110)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[57] == pytest.approx((1.0 + 0.01) / 2)  # half way from step 5 to step 109
    assert rates[109] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[5:]))
    assert schedule.rate(500) == rates[109]


def test_constant_schedule_and_runs_shorter_than_the_warm_up() -> None:
    constant = OptimiserConfig(learning_rate=0.5, schedule="constant", warmup_epochs=0.0)
    assert {Schedule.of(constant, steps_per_epoch=3, epochs=2).rate(step) for step in range(9)} == {0.5}
    short = Schedule.of(OptimiserConfig(warmup_epochs=5.0), steps_per_epoch=4, epochs=1)
    assert short.warmup_steps == 2
    assert Schedule.of(OptimiserConfig(), steps_per_epoch=1, epochs=1).rate(0) == 2e-3


def test_the_rate_of_the_schedule_is_the_one_used() -> None:
    model = nn.Linear(2, 1)
    optimiser = optimiser_of(model, warmup_epochs=1.0, clip_norm=0.0, weight_decay=0.0)
    for step in range(3):
        before = model.weight.detach().clone()
        optimiser.update(model.weight.sum())
        # The gradient is 1 at every step, so Adam moves each weight by the rate itself.
        moved = (before - model.weight.detach()).mean()
        assert float(moved) == pytest.approx(optimiser.schedule.rate(step), rel=1e-4)


def test_the_gradient_is_clipped_as_a_whole() -> None:
    model = nn.Linear(3, 2)
    optimiser_of(model, clip_norm=0.5).update(1000 * (model.weight.sum() + model.bias.sum()))
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_weight_decay_spares_biases() -> None:
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimiser = optimiser_of(model, weight_decay=0.1, warmup_epochs=0.0)
    optimiser.update(0 * (model.weight.sum() + model.bias.sum()))
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 1e-2 * 0.1))
    assert torch.equal(model.bias.detach(), bias)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: must be above 0 and finite, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: .*got nan"),
        ({"weight_decay": -1.0}, "weight_decay: .*got -1.0"),
        ({"warmup_epochs": math.inf}, "warmup_epochs: .*got inf"),
        ({"clip_norm": -0.5}, "clip_norm: .*got -0.5"),
        ({"label_smoothing": 1.0}, "label_smoothing: .*got 1.0"),
        ({"schedule": "linear"}, "schedule: must be one of cosine, one-cycle, constant, got 'linear'"),
    ],
)
def test_wrong_settings_name_field_rule_and_value(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimiserConfig(**settings)


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_a_distributed_network_trains_to_the_same_weights_and_state() -> None:
    plain, inner = network(dropout=0.0), network(dropout=0.0)
    wrapped = nn.parallel.DistributedDataParallel(inner)
    assert unwrap(wrapped) is inner
    assert unwrap(plain) is plain
    first, second = optimiser_of(plain), optimiser_of(wrapped)
    assert train_steps(plain, first, batches(), device=CPU).n == train_steps(wrapped, second, batches(), device=CPU).n
    expected, found = state(plain, first), state(wrapped, second)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)
    restore(plain, first, found)
    np.testing.assert_array_equal(
        evaluate_batches(wrapped, batches(), device=CPU).logits, evaluate_batches(plain, batches(), device=CPU).logits
    )


def masked(n: int = 64, size: int = 16, seed: int = 0) -> list[Batch]:
    """The squares with masks of them; those of every fourth row are not known, and wrong."""
    images, labels = squares(n, seed)
    inner = nn.functional.avg_pool2d(images.float(), 3, 1, padding=1) > 120  # noise has a mean of 60
    masks = inner.to(torch.uint8) * 255 * labels[:, None, None, None].to(torch.uint8)
    known = torch.arange(n) % 4 != 3
    masks[~known] = 255 - masks[~known]
    given = {"images": images, "labels": labels, "rows": torch.arange(n), "masks": masks, "known": known}
    return [Batch(**{name: value[i : i + size] for name, value in given.items()}) for i in range(0, n, size)]


def network_with_masks(seed: int = 0) -> nn.Module:
    config = ModelConfig(input_size=SIDE, width=4, blocks=3, dense=8, dropout=0.0, masks=True)
    return build(config, seed=seed).to(memory_format=torch.channels_last)


def test_a_mask_head_learns_where_the_squares_are_from_known_masks_alone() -> None:
    torch.manual_seed(0)
    model = network_with_masks()
    optimiser = optimiser_of(model, epochs=20, average=0.9)
    history = [train_steps(model, optimiser, masked(seed=epoch), device=CPU) for epoch in range(20)]
    assert history[-1].mask_loss < 0.75 * history[0].mask_loss
    assert optimiser.average is not None
    found = evaluate_batches(optimiser.average, masked(seed=99), device=CPU)
    both, marked, truth = found.overlap
    assert 2 * both / (marked + truth) > 0.6
    assert ((found.logits > 0) == found.labels).mean() > 0.9


def test_masks_that_are_not_known_are_not_learned_from() -> None:
    def weights(change: bool) -> dict[str, torch.Tensor]:
        model = network_with_masks()
        given = masked()
        for batch in given:
            if change:
                batch.masks[~batch.known] = 0
        train_steps(model, optimiser_of(model), given, device=CPU)
        return model.state_dict()

    one, other = weights(False), weights(True)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("weights", [None, (0.2, 3.0)])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(weights: tuple[float, float] | None) -> None:
    def still(norm: nn.Module, _: object) -> None:
        norm.eval()  # its statistics are those of a part

    def gradient(accumulate: int) -> torch.Tensor:
        model = network(dropout=0.0)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(still)
        how = Objective(class_weights=weights)
        optimiser = optimiser_of(model, clip_norm=0.0)
        train_steps(model, optimiser, batches(16, 16), device=CPU, accumulate=accumulate, objective=how)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    for accumulate in (3, 16):
        torch.testing.assert_close(gradient(accumulate), gradient(1), rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_weights_and_is_resumed(tmp_path: Path) -> None:
    model = network()
    optimiser = optimiser_of(model, average=0.8)
    train_steps(model, optimiser, batches(), device=CPU)
    save_checkpoint(tmp_path, model, optimiser, {})
    kept = {key: value.clone() for key, value in optimiser.average.state_dict().items()}
    assert any(not torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    second = network(seed=7)
    again = optimiser_of(second, average=0.8)
    load_checkpoint(tmp_path, second, again)
    for one, other in ((model, optimiser), (second, again)):
        torch.manual_seed(3)
        train_steps(one, other, batches(seed=5), device=CPU)
    found = again.average.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in optimiser.average.state_dict().items())


def test_what_is_mixed_is_held_against_both_labels() -> None:
    def sums(mixup: float) -> Sums:
        torch.manual_seed(0)
        model = network(dropout=0.0)
        optimiser = optimiser_of(model, learning_rate=1e-12)
        return train_steps(model, optimiser, batches(), device=CPU, objective=Objective(mixup=mixup))

    assert sums(0.0) == sums(0.0)
    assert sums(0.4) == sums(0.4)
    assert sums(0.4).loss != sums(0.0).loss


def test_class_weights_pull_towards_their_class() -> None:
    def positives(weights: tuple[float, float]) -> float:
        torch.manual_seed(0)
        model = network()
        optimiser = optimiser_of(model)
        train_steps(model, optimiser, batches(), device=CPU, objective=Objective(class_weights=weights))
        return float(evaluate_batches(model, batches(seed=9), device=CPU).logits.mean())

    assert positives((0.1, 1.9)) > positives((1.9, 0.1))


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    model = Broken(1)
    named = [f"row-{number}" for number in range(8)]
    with pytest.raises(TrainingFailed, match=r"its batch of 4 rows: row-4, row-5, row-6, row-7$"):
        train_steps(model, optimiser_of(model), batches(8, 4), device=CPU, row_ids=named)


class Greedy(nn.Module):
    """Asks for more memory than any machine has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**55) + self.weight.sum()


def test_memory_that_does_not_suffice_says_what_to_lower() -> None:
    model = Greedy()
    with pytest.raises(TrainingFailed, match=r"memory: must do for 4 pictures of 32 .* lower train\.batch_size"):
        train_steps(model, optimiser_of(model), batches(8, 8), device=CPU, accumulate=2)


def test_one_cycle_rises_and_falls_along_cosines() -> None:
    config = OptimiserConfig(learning_rate=1.0, schedule="one-cycle")
    schedule = Schedule.of(config, steps_per_epoch=10, epochs=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] < 0.05
    assert max(rates) == rates[29] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(rates[:30]))
    assert all(a > b for a, b in pairwise(rates[30:]))
    assert rates[99] == pytest.approx(1e-4)
