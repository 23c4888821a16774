"""The whole archive: what is bad, what is stray, what is good, in the numbers asked for."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np

from hospital.bad import BAD, OVERRIDES
from hospital.context import Context, Item, Pack
from hospital.good import GOOD
from hospital.planted import planted
from hospital.source import Supply, studies
from hospital.strays import STRAYS
from hospital.truth import Expected, Frame, Hospital, Origin
from mri_ray.records import State

_STRAY = 0.04  # of all objects, but each kind once where there is room
_SLICES_AN_OBJECT = 1.7
_COPIES = 3  # rounds that a large archive makes through its source
_LEVELS = {
    "path": ("path",),
    "frame": ("path", "frame"),
    "study": ("study_uid",),
    "series": ("series_uid",),
    "instance": ("sop_uid",),
}

Name = tuple[str | int, ...]


def build(root: Path, *, objects: int, bad: float, seed: int, source: str | Path = "phantom") -> Hospital:
    """Writes exactly `objects` files and members below a new folder, the labels beside it.

    bad: the part of them that must be quarantined; 24 show every reason that a file can cause, `len(BAD)` every way
    to be bad, where there is room for the good members beside them. source: `phantom`, or the folder of a real set
    (see `source.studies`). The same arguments write the same bytes.
    """
    context = _context(objects, seed, source)
    root.mkdir(parents=True)
    expected: dict[str, Expected] = {}
    packs = inner = made = 0
    for one in _all(context, objects, bad):
        path = root / one.key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(one.data)
        if isinstance(one, Pack):
            packs, inner = packs + 1, inner + one.inner
        for item in _expected(one, context):
            assert item.key not in expected, "two objects of one name"
            expected[item.key] = item
            made += 1
    assert made == objects, (made, objects)
    expected = _with_duplicates(expected)
    states = [item.state for item in expected.values()]
    counts = {"objects": objects} | {str(state): states.count(state) for state in State}
    return Hospital(
        root=root,
        expected=expected,
        counts=counts | {"packs": packs, "inner_packs": inner},
        labels_csv=_labels(root, expected, context),
        series=dict(context.series_made),
        overrides=OVERRIDES,
        planted=planted(),
        pictures=dict(context.supply.given),
    )


def _context(objects: int, seed: int, source: str | Path) -> Context:
    length = int(np.clip(objects // 60, 3, 10))
    rounds = _COPIES if objects >= 1000 else 1
    wanted = int(objects * _SLICES_AN_OBJECT / rounds) + 40 * length
    pictures = studies(source, seed=seed, wanted=wanted, length=max(length, 10))
    return Context(seed=seed, length=length, supply=Supply(pictures), rng=np.random.default_rng([seed, objects]))


def _all(context: Context, objects: int, bad: float) -> Iterator[Item | Pack]:
    left = objects
    for one in _bad(context, round(objects * bad), left):
        left -= 1 if isinstance(one, Item) else one.objects
        yield one
    strays = max(round(objects * _STRAY), min(len(STRAYS), objects // 5))
    for stray in islice(cycle(STRAYS), min(left, strays)):
        left -= 1
        yield stray(context)
    for good in cycle(GOOD):
        if not left:
            return
        made = good(context, left)
        left -= sum(1 if isinstance(one, Item) else one.objects for one in made)
        yield from made


def _bad(context: Context, wanted: int, room: int) -> Iterator[Item | Pack]:
    used: set[int] = set()
    for number, kind in cycle(enumerate(BAD)):
        if not wanted:
            return
        if kind.objects > room - wanted + 1 or (kind.once and number in used):
            continue
        used.add(number)
        made = kind.make(context)
        assert (1 if isinstance(made, Item) else made.objects) == kind.objects, made.kind
        wanted, room = wanted - 1, room - kind.objects
        yield made


def _expected(one: Item | Pack, context: Context) -> Iterator[Expected]:
    if isinstance(one, Item):
        yield _truth(one, one.key, context)
        return
    for member in one.members:
        yield _truth(member, f"{one.key}!/{member.key}", context)
    if one.failure is not None:
        yield Expected(key=one.key, kind=one.kind, state=State.QUARANTINED, reason=one.failure)


def _truth(item: Item, key: str, context: Context) -> Expected:
    state = State.SCORED
    if item.reason is not None:
        state = State.SKIPPED if item.reason.skips else State.QUARANTINED
    assert (state is State.SCORED) == bool(item.frames), item.kind
    return Expected(
        key=key,
        kind=item.kind,
        state=state,
        reason=item.reason,
        frames=item.frames,
        failed=item.failed,
        bits=item.bits,
        exact=item.exact,
        flags=item.flags,
        named_path=_is_named(key, item, context),
    )


def _is_named(key: str, item: Item, context: Context) -> bool:
    """Whether a path holds the id or a name of its own header, letter for letter."""
    patients = {frame.header.patient for frame in item.frames}
    people = [who for who in context.people.values() if who.patient_id in patients]
    return any(text in key for who in people for text in (who.patient_id, *who.names))


def _with_duplicates(expected: Mapping[str, Expected]) -> dict[str, Expected]:
    """The same objects, ascending by key; of those with equal pixels all but the first are duplicates."""
    first: dict[tuple, str] = {}
    result = {}
    for key in sorted(expected):
        item = expected[key]
        if item.state is State.SCORED and not item.failed:
            exact = "" if item.exact else item.kind
            pixels = (item.bits > 8, exact, tuple(frame.origin for frame in item.frames))
            kept = first.setdefault(pixels, key)
            if kept != key:
                item = replace(item, state=State.DUPLICATE, duplicate_of=kept)
        result[key] = item
    return result


def _labels(root: Path, expected: Mapping[str, Expected], context: Context) -> dict[str, Path]:
    """Labels files beside the archive, one a level, as CSV."""
    folder = root.with_name(f"{root.name}-labels")
    folder.mkdir()
    names: dict[str, list[Name | None]] = {level: [] for level in _LEVELS}
    origins = []
    for item, number, frame in _numbered(expected):
        header = frame.header
        origins.append(frame.origin)
        names["path"].append((item.key,))
        names["frame"].append((item.key, number))
        for level, uid in (("study", header.study_uid), ("series", header.series_uid), ("instance", header.sop_uid)):
            names[level].append((uid,) if uid else None)
    people = {patient: who.patient_id for patient, who in context.people.items()}
    return {
        level: _write_labels(folder / f"{level}.csv", _LEVELS[level], names[level], origins, people)
        for level in _LEVELS
    }


def _numbered(expected: Mapping[str, Expected]) -> Iterator[tuple[Expected, int, Frame]]:
    """Frames with their numbers in the object, failed ones counted."""
    for item in expected.values():
        numbers = (number for number in count() if number not in item.failed)
        for frame, number in zip(item.frames, numbers, strict=False):
            yield item, number, frame


def _write_labels(
    path: Path, head: Sequence[str], names: Sequence[Name | None], origins: Sequence[Origin], people: Mapping[str, str]
) -> Path:
    """One row a name. Slices without a name on this level are left out."""
    named: dict[Name, list[Origin]] = {}
    for name, origin in zip(names, origins, strict=True):
        if name is not None:
            named.setdefault(name, []).append(origin)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*head, "label", "slices", "tumor_slices", "patient_id", "study_date"])
        for name, slices in sorted(named.items()):
            tumors = sum(origin.label == "tumor" for origin in slices)
            label = "tumor" if tumors else "normal"
            table.writerow([*name, label, len(slices), tumors, people[slices[0].patient], slices[0].study])
    return path
