"""Reading a run from YAML and `key=value` pairs, so that every mistake is found before Ray starts."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mri_ray import fields
from mri_ray.errors import ConfigError
from mri_ray.on_ray.settings import AuditRun, GenerationsRun, PrepareRun, ScoreRun, ServeRun, TrainRun, TuneRun

Run = TypeVar("Run", PrepareRun, TrainRun, TuneRun, AuditRun, ScoreRun, GenerationsRun, ServeRun)


def from_argv(kind: type[Run], argv: Sequence[str] | None = None, *, default: Path | None = None) -> Run:
    """The command line of every job: `--config FILE` (else `default`) and `key=value` pairs, nothing else."""
    parser = argparse.ArgumentParser(description=kind.__doc__, epilog="fields: " + ", ".join(fields.paths(kind)))
    parser.add_argument("--config", metavar="FILE", default=default, help="a YAML file with any of the fields")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields by their path, e.g. train.epochs=5")
    arguments = parser.parse_intermixed_args(argv)
    return load(kind, arguments.config, arguments.overrides)


def load(kind: type[Run], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Run:
    """Read a run from a YAML file and `key=value` pairs (values in YAML).

    Raises ConfigError naming the field's path, what was expected and the value got; all faults of types at once.
    """
    settings = _read(path) if path is not None else {}
    for pair in overrides:
        _override(settings, pair)
    return build(kind, settings)


def build(kind: type[Run], settings: Mapping[str, Any]) -> Run:
    """A run from plain values (as in YAML). Raises ConfigError like `load`."""
    return fields.build(kind, settings)


def _read(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--config: cannot read {path}: {exc}") from exc
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"--config: {path} is not valid YAML: {exc}") from exc
    if not isinstance(settings, dict):
        raise ConfigError(f"--config: {path} must hold fields and values, got {type(settings).__name__}")
    return settings


def _override(settings: dict[str, Any], pair: str) -> None:
    path, equals, text = pair.partition("=")
    if not equals or not path:
        raise ConfigError(f"{pair!r}: an override must look like key=value, for instance train.epochs=5")
    *parents, last = path.split(".")
    for name in parents:
        settings = settings.setdefault(name, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: {name} is a single value and has no fields")
    try:
        settings[last] = yaml.safe_load(text) if text else None
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: the value is not valid YAML: {text!r}") from exc
