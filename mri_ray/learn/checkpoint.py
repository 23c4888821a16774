"""All that a resumed training needs, as a folder: safetensors and JSON."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from mri_ray.errors import ConfigError
from mri_ray.learn.model import misfit
from mri_ray.learn.optimiser import Optimiser, unwrap
from mri_ray.learn.settings import ModelConfig


def state(model: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    """All that a resumed run needs: `model.*` and `optimiser.*`."""
    weights = {f"model.{key}": value for key, value in unwrap(model).state_dict().items()}
    return weights | {f"optimiser.{key}": value for key, value in optimiser.tensors().items()}


def restore(model: nn.Module, optimiser: Optimiser, tensors: dict[str, Tensor]) -> None:
    """Put a `state` back. Raises ConfigError when it was taken from another network."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    fault = misfit(unwrap(model).state_dict(), parts["model"])
    if fault:
        raise ConfigError(f"model: must be the one the checkpoint was taken from, got weights {fault}")
    unwrap(model).load_state_dict(parts["model"])
    optimiser.restore(parts["optimiser"])


def save_checkpoint(folder: Path, model: nn.Module, optimiser: Optimiser, facts: dict[str, Any]) -> None:
    """`state.safetensors` and `facts.json` into a folder that exists; facts are the caller's, JSON-able."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state(model, optimiser).items()}
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def load_checkpoint(
    folder: Path, network: nn.Module, optimiser: Optimiser, *, model: ModelConfig | None = None
) -> dict[str, Any]:
    """Put a checkpoint back into a network and its optimiser, and return its facts.

    model: what the network was built from. Raises ConfigError when the facts name another as theirs (`model`, its
    `decisive` settings), or when the weights do not fit.
    """
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    if model is not None and "model" in facts:
        own, saved = json.loads(json.dumps(model.decisive())), facts["model"]
        if other := sorted(name for name in {*own, *saved} if own.get(name) != saved.get(name)):
            told = ", ".join(f"{name} {saved.get(name)!r} for {own.get(name)!r}" for name in other)
            raise ConfigError(f"model: must be the one the checkpoint was taken from, got one of {told}")
    restore(network, optimiser, safetensors.torch.load_file(folder / "state.safetensors"))
    return facts
