"""The generations below an output of scorings: what is there, going back to one, and removing what may go.

A generation is all that one bundle has answered for an archive in one way: `results/<generation>/`, the snapshots made
of it, and the runs that published those. Nothing here is removed but by the setting `keep`.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import pyarrow.compute as pc

from mri_ray.archive import runs
from mri_ray.archive.runs import Run
from mri_ray.archive.settings import KeepConfig
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError, ArchiveNotFound, ConfigError
from mri_ray.predict import snapshot
from mri_ray.records import State

log = logging.getLogger(__name__)

RESULTS, SNAPSHOTS = "results", "snapshots"
_NAME = re.compile(r"[0-9a-f]{32}")
_SHOWN = 12  # digits of a digest, for people


@dataclass(frozen=True, kw_only=True)
class Generation:
    """runs: those that finished, the last first; none while it is incomplete. size: bytes of all that belongs to it."""

    name: str
    runs: tuple[Run, ...]
    size: int
    current: bool
    in_work: bool  # as far as can be known


def found(output: Location) -> list[Generation]:
    """All generations that runs have begun below an output, the one that was worked on last first."""
    every = runs.read(output)
    now = runs.current(output, every)
    sizes = {folder: _sizes(output / folder) for folder in (RESULTS, SNAPSHOTS, runs.FOLDER)}
    return [
        Generation(
            name=name,
            runs=tuple(run for run in own if run.finished),
            size=sizes[RESULTS][name]
            + sum(sizes[SNAPSHOTS][each] for each in {_snapshot_of(run) for run in own} if each)
            + sum(sizes[runs.FOLDER][run.run_id] for run in own),
            current=now is not None and now.generation == name,
            in_work=any(run.may_work for run in own),
        )
        for name, own in _by_generation(every).items()
    ]


def table(generations: Iterable[Generation]) -> str:
    """For people: a line a generation, the current one marked."""
    lines: list[tuple[str, ...]] = [
        ("", "generation", "bundle", "scored", "objects", *(state.value for state in State), "MB", "runs", "")
    ]
    for each in generations:
        record = (each.runs[0].record or {}) if each.runs else {}
        counts = record.get("counts", {})
        lines.append(
            (
                "*" if each.current else "",
                each.name[:_SHOWN],
                record.get("bundle_digest", "-")[:_SHOWN],
                record.get("started", "-")[:16],
                *(f"{counts[name]:,}" if counts else "-" for name in ("objects", *State)),
                f"{each.size / 1e6:,.1f}",
                str(len(each.runs)),
                "at work" if each.in_work else "" if each.runs else "incomplete",
            )
        )
    if len(lines) == 1:
        return "no generation is there"
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def use(output: Location, name: str) -> None:
    """Make a generation the current one again, as its last run left it. Raises ConfigError when there is no such one.

    name: as much of it as no other begins with.
    """
    known = {each: own for each, own in _by_generation(runs.read(output)).items() if any(run.finished for run in own)}
    fitting = [each for each in known if each.startswith(name)]
    if len(fitting) != 1:
        names = ", ".join(each[:_SHOWN] for each in known) or "none"
        raise ConfigError(f"use: must name one complete generation, got {name!r}; known are {names}: {output.uri}")
    run = next(run for run in known[fitting[0]] if run.finished)
    if snapshot.finished(output / SNAPSHOTS / str(_snapshot_of(run))) is None:
        raise ArchiveError(f"use: the snapshot of {fitting[0]} must be whole, got parts of it only: {run.results}")
    runs.point(output, run.run_id)
    log.info("%s is current again, as %s left it; a scoring publishes the one of its settings", fitting[0], run.run_id)


def retire(output: Location, keep: KeepConfig, links: Location | None = None) -> None:
    """Remove what `keep` lets go, and say what it was; never what is current or may be worked on.

    links: where what leads back to the paths of each generation is kept. What cannot be removed is warned about.
    """
    every = runs.read(output)
    now = runs.current(output, every)
    if now is None:
        return
    staying = {now.run_id}
    complete = 0
    leaving: list[tuple[str, list[Run]]] = []
    for name, own in sorted(_by_generation(every).items(), key=lambda item: item[0] != now.generation):
        done = [run for run in own if run.finished]
        complete += bool(done)
        if any(run.may_work for run in own):
            continue
        if done and keep.generations is not None and complete > keep.generations:
            leaving.append((name, own))
        elif done and keep.runs is not None:  # what is incomplete is never removed
            staying |= {run.run_id for run in done[: keep.runs]}
            leaving.append(("", [run for run in own if run.run_id not in staying]))
    gone = {run.run_id for _, some in leaving for run in some}
    needed = {_snapshot_of(run) for run in every if run.run_id not in gone}
    for name, some in leaving:
        _remove(output, name, some, needed, links)


def _remove(output: Location, name: str, some: list[Run], needed: set[str | None], links: Location | None) -> None:
    """Remove runs, the snapshots that no other needs, and, by its name, a generation.

    Runs go last: what is left of a removal that was killed is removed by the next one.
    """
    places = [output / SNAPSHOTS / each for each in {_snapshot_of(run) for run in some} - needed if each]
    if name:
        places += [output / RESULTS / name, *([links / name] if links is not None else [])]
    places += [runs.place(output, run.run_id) for run in some]
    files, size = 0, 0
    try:
        for place in places:
            count, size_there = _extent(place)
            place.delete(snapshot.COUNTS)  # first: half a snapshot must not look like a whole one
            place.delete_all()
            files, size = files + count, size + size_there
    except ArchiveError as exc:
        log.warning("keep: not all that may go could be removed: %s", exc)
    if some:
        what = f"generation {name}, which ended with {some[0].run_id}" if name else f"{len(some)} superseded runs"
        log.info("keep: removed %s: %s files, %.1f MB", what, f"{files:,}", size / 1e6)


def _by_generation(every: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by generation; both the last first."""
    grouped: dict[str, list[Run]] = {}
    for run in every:
        if _NAME.fullmatch(run.generation):
            grouped.setdefault(run.generation, []).append(run)
    return grouped


def _snapshot_of(run: Run) -> str | None:
    """Its name; what is read from a file must not lead anywhere else."""
    name = (run.results or "").rpartition("/")[2]
    return name if _NAME.fullmatch(name) else None


def _sizes(location: Location) -> Counter[str]:
    """Bytes below each folder of a location."""
    found: Counter[str] = Counter()
    try:
        for page in location.list():
            folders = [key.partition("/")[0] for key in page.column("key").to_pylist()]
            sizes = page.column("size").to_pylist()
            for folder, pairs in groupby(zip(folders, sizes, strict=True), key=lambda pair: pair[0]):
                found[folder] += sum(size for _, size in pairs)
    except ArchiveNotFound:
        pass
    return found


def _extent(location: Location) -> tuple[int, int]:
    """How many files there are below a location, and their bytes."""
    try:
        pages = [(page.num_rows, pc.sum(page.column("size"), min_count=0).as_py()) for page in location.list()]
    except ArchiveNotFound:
        return 0, 0
    return sum(count for count, _ in pages), sum(size for _, size in pages)
