"""Plain values, as YAML has them -> frozen dataclasses that check themselves; mistakes are named by their path."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mri_ray.errors import ConfigError

Settings = TypeVar("Settings")


def build(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Raises ConfigError naming each field's path, what was expected and the value got; all faults of types at once."""
    _refuse_unknown(kind, values, "")  # plain dataclasses cannot forbid extra keys by themselves
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as exc:
        raise ConfigError("\n".join(_fault(fault) for fault in exc.errors())) from exc


def paths(kind: type, prefix: str = "") -> list[str]:
    """Of all fields, those of the dataclasses within as `outer.inner`."""
    hints = typing.get_type_hints(kind)
    found: list[str] = []
    for item in fields(kind):
        inner = _dataclass_in(hints[item.name])
        found += paths(inner, f"{prefix}{item.name}.") if inner else [f"{prefix}{item.name}"]
    return found


def _refuse_unknown(kind: type, values: Mapping[str, Any], path: str) -> None:
    known = {item.name: item for item in fields(kind)}
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{path}{name}: no such field; known here: {', '.join(sorted(known))}")
        inner = _dataclass_in(hints[name])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{path}{name}.")


def _dataclass_in(hint: Any) -> type | None:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((option for option in options if is_dataclass(option) and isinstance(option, type)), None)


def _fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # raised by a room's own check, which names its own field
        return f"{path}.{cause}" if path else str(cause)
    if fault["type"] == "missing":
        return f"{path}: is required, got nothing (give it in the config or as {path}=...)"
    return f"{path}: {fault['msg']}, got {fault['input']!r}"
