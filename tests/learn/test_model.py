"""Every network of the list: shapes, gradients, seeds; pretrained weights from files written here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from mri_ray.errors import ConfigError
from mri_ray.learn.cnn import answer
from mri_ray.learn.model import build, count_parameters, load_pretrained
from mri_ray.learn.settings import NAMES, ModelConfig

BACKBONES = [name for name in NAMES if name != "cnn"]


def config(name: str, **changes: object) -> ModelConfig:
    """Small and quick: 64 pixels, a narrow CNN."""
    return ModelConfig(**{"name": name, "input_size": 64, "width": 4, "blocks": 3, "dense": 8, **changes})


def images(n: int = 3, size: int = 64) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_grey_pictures_give_two_logits_and_gradients_reach_every_weight(name: str) -> None:
    model = build(config(name)).train()
    logits = model(images())
    assert logits.shape == (3, 2)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build(config(name), seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_of_a_picture_does_not_depend_on_its_neighbours(name: str) -> None:
    model = build(config(name)).eval()
    with torch.inference_mode():
        together, alone = model(images(5)), torch.cat([model(x[None]) for x in images(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_default_cnn() -> None:
    model = build(ModelConfig())
    assert 200_000 < count_parameters(model) < 600_000
    assert model(images(2, 224)).shape == (2, 2)
    found = {type(m) for m in model.modules()}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Linear} <= found
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions} == {(3, 3)}
    assert [m.out_channels for m in convolutions] == [16, 32, 64, 128, 128]
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 5


def test_sizes_of_the_cnn_follow_its_config() -> None:
    model = build(ModelConfig(input_size=48, width=3, blocks=4, convolutions=2, dense=7, dropout=0.1))
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [3, 3, 6, 6, 12, 12, 24, 24]
    assert [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)] == [(48, 7), (7, 2)]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1]


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_take_the_dropout_of_the_config(name: str) -> None:
    assert [m.p for m in build(config(name, dropout=0.45)).modules() if isinstance(m, nn.Dropout)] == [0.45]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vgg"}, "name: must be one of cnn, .*got 'vgg'"),
        ({"input_size": 16}, "input_size: must be a whole number from 32"),
        ({"width": 0}, "width: .*got 0"),
        ({"blocks": 2.0}, "blocks: .*got 2.0"),
        ({"blocks": 7, "input_size": 64}, "blocks: each halves the picture"),
        ({"convolutions": 0}, "convolutions: .*got 0"),
        ({"dense": True}, "dense: .*got True"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        ({"pretrained": "weights.pkl"}, r"pretrained: must be the URI of a \.safetensors"),
    ],
)
def test_wrong_settings_name_field_rule_and_value(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


def write(weights: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return str(path)


def torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    """As the published files hold them: three input channels, a thousand classes; here with random numbers."""
    torch.manual_seed(3)
    return getattr(models, name)(weights=None).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", BACKBONES)
def test_torchvision_weights_fill_all_but_the_last_layer(name: str, suffix: str, tmp_path: Path) -> None:
    given = torchvision_weights(name)
    wanted = config(name, pretrained=write(given, tmp_path / f"weights{suffix}"))
    model, fresh = build(wanted), build(wanted)
    load_pretrained(model, wanted)
    reference = getattr(models, name)(weights=None)
    reference.load_state_dict(given)
    # Three equal channels, standardised: all before the last layers must be what the published network computes.
    x = (images(2) - 0.449) / 0.226
    own, theirs = (nn.Sequential(*list(net.children())[:-1]).eval() for net in (model.net, reference))
    torch.testing.assert_close(own(x), theirs(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    last, untouched = ([m for m in net.modules() if isinstance(m, nn.Linear)][-1] for net in (model, fresh))
    assert torch.equal(last.weight, untouched.weight)


@pytest.mark.parametrize("name", NAMES)
def test_own_weights_fill_every_layer(name: str, tmp_path: Path) -> None:
    trained = build(config(name), seed=9).state_dict()
    wanted = config(name, pretrained=write(trained, tmp_path / "weights.safetensors"))
    model = build(wanted, seed=0)
    load_pretrained(model, wanted)
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())


def test_a_nested_state_dict_of_a_wrapped_network_is_found(tmp_path: Path) -> None:
    trained = build(config("cnn"), seed=9).state_dict()
    nested = {"state_dict": {f"module.{key}": value for key, value in trained.items()}, "epoch": 3}
    wanted = config("cnn", pretrained=write(nested, tmp_path / "checkpoint.pth"))
    model = build(wanted)
    load_pretrained(model, wanted)
    assert torch.equal(model.head.output.weight, trained["head.output.weight"])


def test_no_pretrained_weights_change_nothing() -> None:
    model = build(config("cnn"))
    load_pretrained(model, config("cnn"))
    assert torch.equal(model.head.output.weight, build(config("cnn")).head.output.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.dense.weight"), "missing: head.dense.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "unknown: extra"),
        (lambda w: w.update({"head.dense.bias": torch.zeros(3)}), r"another shape: head.dense.bias \(3,\) for \(8,\)"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("features")], r"missing: features.* and \d+ more"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message: str, tmp_path: Path) -> None:
    weights = build(config("cnn")).state_dict()
    change(weights)
    wanted = config("cnn", pretrained=write(weights, tmp_path / "weights.safetensors"))
    model = build(wanted)
    with pytest.raises(ConfigError, match=message) as caught:
        load_pretrained(model, wanted)
    assert wanted.pretrained in str(caught.value)
    fresh = build(wanted).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in model.state_dict().items())


class _Code:
    """What a hostile file holds: an object whose unpickling runs a function."""

    def __reduce__(self) -> tuple:
        return print, ("code in a weights file was run",)


@pytest.mark.parametrize("kind", ["absent", "noise", "code", "no tensors"])
def test_files_that_are_no_weights_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "weights.pth"
    if kind == "noise":
        path.write_bytes(b"no state dict at all")
    elif kind == "code":
        torch.save({"head.output.weight": _Code()}, path)
    elif kind == "no tensors":
        torch.save({"epoch": 3}, path)
    wanted = config("cnn", pretrained=str(path))
    with pytest.raises(ConfigError, match=r"pretrained: .*weights\.pth"):
        load_pretrained(build(wanted), wanted)
    assert capsys.readouterr().out == ""


def test_a_mask_head_marks_at_half_the_side_and_leaves_the_plain_network_as_it_was() -> None:
    settings = ModelConfig(input_size=50, width=3, blocks=4, convolutions=(1, 2, 1, 1), dense=7, masks=True)
    model = build(settings).eval()
    found = answer(model(images(2, 50)))
    assert found.logits.shape == (2, 2)
    assert found.mask.shape == (2, 1, 25, 25)
    assert torch.sigmoid(found.mask).mean() < 0.3  # lesion is rare, before anything is learned too
    plain = build(replace(settings, masks=False))
    assert answer(plain.eval()(images(2, 50))).mask is None
    assert not set(plain.state_dict()) - set(model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_mirrors_make_an_answer_the_same_for_a_picture_and_its_mirror(name: str) -> None:
    model = build(config(name, mirrors=True)).eval()
    x = images(2)
    torch.testing.assert_close(model(x), model(x.flip(3)), rtol=1e-4, atol=1e-5)
    single = build(config(name)).eval()
    torch.testing.assert_close(model(x), (single(x) + single(x.flip(3))) / 2, rtol=1e-4, atol=1e-5)


def test_mirrors_turn_masks_back() -> None:
    settings = ModelConfig(input_size=32, width=3, blocks=3, masks=True, mirrors=True)
    model, x = build(settings).eval(), images(2, 32)
    torch.testing.assert_close(model(x).mask, model(x.flip(3)).mask.flip(3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convolutions": (1, 2)}, r"convolutions: .*one for each of 5 blocks, got \(1, 2\)"),
        ({"convolutions": (1, 1, 5, 1, 1)}, "convolutions: "),
        ({"masks": True, "name": "resnet18"}, "masks: need the cnn with at least 2 blocks, got 'resnet18'"),
        ({"masks": True, "blocks": 1}, "masks: need the cnn .* with 1"),
    ],
)
def test_settings_of_masks_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


def test_settings_that_came_later_name_a_network_only_where_they_are_set() -> None:
    assert "masks" not in ModelConfig().decisive()
    assert ModelConfig(masks=True).decisive()["masks"] is True
    assert ModelConfig(width=8).decisive()["width"] == 8
