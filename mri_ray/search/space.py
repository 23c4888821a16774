"""What a search may set: paths of the training's config, each with a range of the field's type; pure.

`{optimiser.learning_rate: {loguniform: [1e-4, 1e-2]}, model.width: {choice: [16, 24], when: {model.name: cnn}}}`
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mri_ray.errors import ConfigError

Values = dict[str, Any]  # one setting of each path that applies
SECTIONS = ("prepare", "augment", "model", "optimiser", "train")
KINDS = ("choice", "uniform", "loguniform", "steps", "integer", "log_integer")
_CHECKED = 256  # points that are tried on the config before Ray starts
_GRID_MOST = 100_000


class Chooser(Protocol):
    """Who picks a value: an Optuna trial, or a generator of random numbers (`Dice`)."""

    def suggest_categorical(self, name: str, choices: Sequence[str], /) -> Any: ...
    def suggest_float(
        self, name: str, low: float, high: float, /, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Range:
    """One path: of a choice its values, else low and high (both included), of `steps` also the step.

    when: it applies only where each of these paths has one of its values.
    """

    path: str
    kind: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def log(self) -> bool:
        return self.kind.startswith("log")

    @property
    def whole(self) -> bool:
        return self.kind.endswith("integer")

    @property
    def labels(self) -> tuple[str, ...]:
        """The values of a choice as text, since a list cannot be chosen by Optuna."""
        return tuple(json.dumps(value) for value in self.values)

    def pick(self, chooser: Chooser) -> Any:
        if self.kind == "choice":
            return self.values[self.labels.index(chooser.suggest_categorical(self.path, self.labels))]
        if self.whole:
            return chooser.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
        return chooser.suggest_float(self.path, self.low, self.high, step=self.step, log=self.log)

    def all(self) -> tuple[Any, ...] | None:
        """Every value; None where there is no end of them."""
        if self.kind == "choice":
            return self.values
        if self.whole:
            return tuple(range(int(self.low), int(self.high) + 1))
        if self.step:
            number = math.floor((self.high - self.low) / self.step + 1e-9)
            return tuple(self.low + k * self.step for k in range(number + 1))
        return None

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return json.dumps(value) in self.labels
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.step or any(math.isclose(value, one) for one in self.all() or ())

    def perturbed(self, value: Any, rng: np.random.Generator) -> Any:
        """A neighbour of a value: a fifth more or less, or the next of a choice; one in four times any value."""
        every = self.all()
        if rng.random() < 0.25:
            return self.pick(Dice(rng))
        if every is not None:
            at = min(range(len(every)), key=lambda k: (every[k] != value, k))
            return every[min(max(at + int(rng.choice([-1, 1])), 0), len(every) - 1)]
        return float(min(max(value * rng.choice([0.8, 1.2]), self.low), self.high))


@dataclass(frozen=True)
class Dice:
    """Picks at random, each value of a range as likely (of a log range: of its logarithm)."""

    rng: np.random.Generator

    def suggest_categorical(self, name: str, choices: Sequence[str], /) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_float(
        self, name: str, low: float, high: float, /, *, step: float | None = None, log: bool = False
    ) -> float:
        if step:
            return low + step * int(self.rng.integers(math.floor((high - low) / step + 1e-9) + 1))
        value = math.exp(self.rng.uniform(math.log(low), math.log(high))) if log else self.rng.uniform(low, high)
        return float(min(max(value, low), high))

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int:
        if log:
            return min(high, math.floor(math.exp(self.rng.uniform(math.log(low), math.log(high + 1)))))
        return int(self.rng.integers(low, high + 1))


@dataclass(frozen=True)
class Space:
    """Ranges in an order in which each stands after those that its `when` names."""

    ranges: tuple[Range, ...]

    def pick(self, chooser: Chooser) -> Values:
        values: Values = {}
        for one in self.ranges:
            if self._applies(one, values):
                values[one.path] = one.pick(chooser)
        return values

    def draw(self, rng: np.random.Generator) -> Values:
        return self.pick(Dice(rng))

    def grid(self) -> Iterator[Values]:
        """Every combination that the conditions leave, each once."""
        yield from self._grid(0, {})

    def _grid(self, number: int, values: Values) -> Iterator[Values]:
        if number == len(self.ranges):
            yield values
            return
        one = self.ranges[number]
        if not self._applies(one, values):
            yield from self._grid(number + 1, values)
            return
        for value in one.all() or ():
            yield from self._grid(number + 1, values | {one.path: value})

    def perturbed(self, values: Values, rng: np.random.Generator) -> Values:
        """What may change in flight (not the network, nor what it is shown), changed."""
        moving = [one for one in self.ranges if one.path in values and in_flight(one.path)]
        return values | {one.path: one.perturbed(values[one.path], rng) for one in moving}

    def by_path(self) -> dict[str, Range]:
        return {one.path: one for one in self.ranges}

    @staticmethod
    def _applies(one: Range, values: Values) -> bool:
        return all(path in values and values[path] in allowed for path, allowed in one.when)


def in_flight(path: str) -> bool:
    """Whether a training may go on from another's checkpoint with another value of it."""
    return path.startswith(("optimiser.", "augment."))


def space_of(search: Mapping[str, Any], base: Any) -> Space:
    """A space from a config's `search`; base: the training it searches around, a tree of dataclasses.

    Raises ConfigError for a path that is no field of it, a value of another type, an empty range, and a condition that
    cannot be met.
    """
    ranges = [_range(path, told, base) for path, told in _flat(search)]
    if not ranges:
        raise ConfigError("search: must name at least one field and its range, got none")
    return Space(tuple(_ordered(ranges, base)))


def with_values(base: Any, values: Mapping[str, Any]) -> Any:
    """The training with these values in it. Raises ConfigError, naming the field, where it refuses them."""
    changed: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        changed.setdefault(section, {})[name] = value
    sections = {}
    for section, change in changed.items():
        try:
            sections[section] = replace(getattr(base, section), **change)
        except ConfigError as exc:
            raise ConfigError(f"{section}.{exc}") from exc
    return replace(base, **sections)


def checked(space: Space, build: Any, *, grid: bool = False, seed: int = 0) -> None:
    """Try points of the space, the ends of each range among them, on the config.

    build: from values to a run, raising ConfigError. Raises ConfigError with the values that do not go together.
    """
    if grid:
        endless = [one.path for one in space.ranges if one.all() is None]
        if endless:
            raise ConfigError(f"search.{endless[0]}: must be a choice, integer or steps with algorithm grid")
    rng = np.random.default_rng(seed)
    points = [space.pick(_Ends(rng, one.path, end)) for one in space.ranges for end in _ends(one)]
    points += [space.draw(rng) for _ in range(_CHECKED)]
    for values in points:
        try:
            build(values)
        except ConfigError as exc:
            told = ", ".join(f"{path}={json.dumps(value)}" for path, value in values.items())
            raise ConfigError(
                f"search: every point must be a config that a training accepts, got {told}: {exc}; a `when` beside a "
                "range says where it applies"
            ) from exc


def _ends(one: Range) -> range:
    return range(len(one.values)) if one.kind == "choice" else range(2)


@dataclass(frozen=True)
class _Ends:
    """Picks at random, but of one path an end (of a choice the value with that number)."""

    rng: np.random.Generator
    path: str
    end: int

    def suggest_categorical(self, name: str, choices: Sequence[str], /) -> str:
        return choices[self.end] if name == self.path else Dice(self.rng).suggest_categorical(name, choices)

    def suggest_float(
        self, name: str, low: float, high: float, /, *, step: float | None = None, log: bool = False
    ) -> float:
        if name == self.path:
            return (low, high)[self.end]
        return Dice(self.rng).suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int:
        return (low, high)[self.end] if name == self.path else Dice(self.rng).suggest_int(name, low, high, log=log)


def _flat(search: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Paths with what is told of them, whether written with dots or nested."""
    for name, told in search.items():
        path = f"{above}{name}"
        if not isinstance(told, Mapping):
            raise ConfigError(f"search.{path}: must be a range, such as {{choice: [1, 2]}}, got {told!r}")
        if any(kind in told for kind in (*KINDS, "when")) or not any(isinstance(v, Mapping) for v in told.values()):
            yield path, told
        else:
            yield from _flat(told, f"{path}.")


def _range(path: str, told: Mapping[str, Any], base: Any) -> Range:
    where = f"search.{path}"
    kinds = [name for name in told if name != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        raise ConfigError(f"{where}: must have one of {', '.join(KINDS)}, got {', '.join(map(str, kinds)) or 'none'}")
    kind, given = kinds[0], told[kinds[0]]
    adapter = _adapter(path, base)
    when = _when(where, told.get("when", {}))
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{where}.{kind}: must be a list, got {given!r}")
    if path.startswith("prepare.") and kind != "choice":
        raise ConfigError(f"{where}: must be a choice, since each value is a preparation of the whole archive")
    if kind == "choice":
        values = tuple(_typed(adapter, f"{where}.choice", value) for value in given)
        if not values or len({json.dumps(value) for value in values}) < len(values):
            raise ConfigError(f"{where}.choice: must be values that differ, at least one, got {list(given)!r}")
        return Range(path=path, kind=kind, values=values, when=when)
    wanted = 3 if kind == "steps" else 2
    if len(given) != wanted or not all(_is_number(value) for value in given):
        what = "low, high and step" if wanted == 3 else "low and high"
        raise ConfigError(f"{where}.{kind}: must be {what}, finite numbers, got {list(given)!r}")
    low, high, step = (*given, None)[:3]
    if kind.endswith("integer") and not all(isinstance(value, int) for value in (low, high)):
        raise ConfigError(f"{where}.{kind}: must be whole numbers, got {list(given)!r}")
    for value in (low, high):
        _typed(adapter, f"{where}.{kind}", value if kind.endswith("integer") else float(value))
    if not low < high or (step is not None and not 0 < step <= high - low):
        raise ConfigError(f"{where}.{kind}: must be a range that is not empty, got {list(given)!r}")
    if kind.startswith("log") and low <= 0:
        raise ConfigError(f"{where}.{kind}: must begin above 0, got {low}")
    if step is not None:
        high = low + math.floor((high - low) / step + 1e-9) * step
    return Range(path=path, kind=kind, low=low, high=high, step=step, when=when)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _adapter(path: str, base: Any) -> TypeAdapter:
    """Checks values of a field, by its path."""
    section, _, name = path.partition(".")
    if section not in SECTIONS or not name:
        known = {item.name for item in fields(base)}
        why = "changes what trials are measured by, or where" if section in known else "no such field"
        raise ConfigError(f"search.{path}: {why}; what can be searched: fields of {', '.join(SECTIONS)}")
    kind = type(getattr(base, section))
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    if name not in {item.name for item in fields(kind)}:
        raise ConfigError(f"search.{path}: no such field; known here: {', '.join(sorted(hints))}")
    return TypeAdapter(hints[name])


def _typed(adapter: TypeAdapter, where: str, value: Any) -> Any:
    try:
        return adapter.validate_python(value, strict=isinstance(value, bool | int | float))
    except ValidationError as exc:
        raise ConfigError(f"{where}: {exc.errors()[0]['msg']}, got {value!r}") from exc


def _when(where: str, told: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(told, Mapping):
        raise ConfigError(f"{where}.when: must be fields and their values, got {told!r}")
    return tuple((path, tuple(value) if isinstance(value, list | tuple) else (value,)) for path, value in told.items())


def _ordered(ranges: list[Range], base: Any) -> Iterator[Range]:
    """Each after those that its conditions name; conditions on what is not searched are settled here."""
    by_path = {one.path: one for one in ranges}
    if len(by_path) < len(ranges):
        raise ConfigError("search: must name each field once, got one twice")
    left, done = [_settled(one, by_path, base) for one in ranges], set[str]()
    while left:
        ready = [one for one in left if all(path in done for path, _ in one.when)]
        if not ready:
            raise ConfigError(f"search.{left[0].path}.when: must not depend on itself")
        for one in ready:
            left.remove(one)
            done.add(one.path)
            yield one


def _settled(one: Range, by_path: Mapping[str, Range], base: Any) -> Range:
    kept = []
    for path, allowed in one.when:
        where = f"search.{one.path}.when.{path}"
        other = by_path.get(path)
        if other is None:
            _adapter(path, base)
            section, _, name = path.partition(".")
            value = getattr(getattr(base, section), name)
            if value not in allowed:
                raise ConfigError(f"{where}: is never met: it is {value!r} and not searched")
            continue
        if not any(other.holds(value) for value in allowed):
            raise ConfigError(f"{where}: is never met: none of {list(allowed)!r} lies in its range")
        kept.append((path, allowed))
    return replace(one, when=tuple(kept))
