"""The part of a training's page that tells of the search it came out of: facts -> what to print."""

import json
from collections.abc import Iterator
from typing import Any

from mri_ray.report import search_plots as plots
from mri_ray.report.facts import SearchFacts, TrainingFacts
from mri_ray.report.figures import cell
from mri_ray.report.sections import drawn
from mri_ray.report.text import count, duration, number, percent
from mri_ray.search.trials import Change, State, Trial, cost

COLUMNS = ("Trial", "Ended", "Validation AUROC", "Best at", "Run", "Worker time", "ms an image", "Settings")


def values(facts: TrainingFacts) -> dict[str, Any]:
    """What the template asks for; `search` is None where there was none."""
    found = facts.search
    if found is None:
        return {"search": None}
    best = next(one for one in found.trials if one.number == found.winner)
    drawings = (
        plots.history(found.trials, found.winner),
        plots.curves(found.trials, found.winner, folds=bool(found.folds)),
        plots.importance(found.importance),
        plots.pareto(found.trials, found.winner),
    )
    wide = plots.parallel(found.trials, found.paths, found.winner)
    return {
        "search": {
            "facts": found,
            "winner": best.name,
            "chosen": list(_chosen(facts, found, best)),
            "settings": [(path, _plain(value)) for path, value in best.settings.items()],
            "plots": [drawn(svg) for svg in drawings if svg is not None],
            "parallel": None if wide is None else drawn(wide),
            "importance": sorted(found.importance.items(), key=lambda item: -item[1]),
            "left_out": [path for path in found.paths if path not in found.importance],
            "columns": COLUMNS,
            "narrow": range(2, len(COLUMNS) - 1),  # numbers, between texts
            "rows": [_row(one, found) for one in _ranked(found)],
            "changes": list(_changes(found)),
            "cost": list(_cost(found)),
        }
    }


def _chosen(facts: TrainingFacts, found: SearchFacts, best: Trial) -> Iterator[tuple[str, str, str]]:
    """The winner's figure that it was chosen by beside those that nothing was chosen by: name, value, what it is."""
    what = f"mean over folds of the best of {found.seen} trials" if found.folds else f"the best of {found.seen} trials"
    yield "Validation AUROC that it was chosen by", number(best.auroc), f"{what}: flattered by the choice"
    for side, told in (("validation", "of the bundle"), ("test", "seen once, after all choices")):
        if side in facts.metrics:
            value, intervals = cell(facts.metrics[side], "auroc")
            interval = f"{intervals[0]}; " if intervals else ""
            yield f"AUROC of the {side} side", value, f"{interval}{told}"
    test = facts.metrics.get("test", {}).get("auroc")
    if test is not None and best.auroc is not None:
        yield "Difference, test less validation", f"{test - best.auroc:+.4f}", "what the choice and the sample make up"


def _ranked(found: SearchFacts) -> list[Trial]:
    return sorted(found.trials, key=lambda one: (one.number != found.winner, -(one.auroc or -1.0), one.number))


def _row(one: Trial, found: SearchFacts) -> tuple[bool, list[str]]:
    ended = one.state.value if one.reason is None else f"{one.state.value}: {one.reason}"
    again = f", {one.resumed} times from a checkpoint" if one.resumed else ""
    best = one.best
    settings = ", ".join(f"{path} {_plain(value)}" for path, value in one.settings.items())
    return one.number == found.winner, [
        one.name,
        ended + again,
        "-" if one.auroc is None else number(one.auroc),
        "-" if best is None else str(best["epoch"]),
        f"{len(one.history)} of {one.planned}",
        duration(one.seconds * one.workers),
        "-" if one.ms_per_image is None else f"{one.ms_per_image:.2f}",
        settings or "the config as it stands",
    ]


def _changes(found: SearchFacts) -> Iterator[tuple[str, str, str, str]]:
    """What PBT has changed in flight: trial, after which epoch, whose checkpoint, settings before and after."""
    for one in found.trials:
        for change in one.changes:
            yield one.name, str(change.epoch), f"{change.source:04}", _changed(change)


def _changed(change: Change) -> str:
    paths = [path for path in change.after if change.before.get(path) != change.after[path]]
    told = [f"{path} {_plain(change.before.get(path))} to {_plain(change.after[path])}" for path in paths]
    return ", ".join(told) or "nothing"


def _cost(found: SearchFacts) -> Iterator[tuple[str, str]]:
    taken = cost(found.trials)
    share = found.share
    states = ", ".join(f"{number} {name}" for name, number in taken.by_state.items())
    yield "trials", f"{count(len(found.trials))}: {states}"
    yield "chosen by", f"{found.algorithm}, with scheduler {found.scheduler}"
    each = "a GPU" if share["gpus"] else f"{share['worker_cpus']:.3g} CPU"
    yield "at once", f"up to {share['concurrent']}, of up to {share['workers']} workers with {each} each"
    yield "worker-hours", f"{taken.worker_hours:.3g}"
    whole = taken.worker_hours + taken.saved
    part = f" ({percent(taken.saved / whole)} of what all would have taken)" if whole else ""
    yield "saved by stopping early", f"{taken.saved:.3g} worker-hours{part}, at each trial's own pace"
    failed = [one for one in found.trials if one.state == State.FAILED]
    if failed:
        yield "failed", ", ".join(one.name for one in failed)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value).strip('"')
