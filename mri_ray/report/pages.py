"""The report of a run as one self-contained HTML page: facts in, text out; nothing on it is fetched."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mri_ray.errors import Reason
from mri_ray.records import Decision, State
from mri_ray.report import plots
from mri_ray.report.facts import Answers, Example, Facts, ScoringFacts, TrainingFacts

UNDEFINED = "not estimable"
PERCENT = "\N{NO-BREAK SPACE}%"
Show = Callable[[Any], str]


def number(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.4f}"


def percent(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{100 * value:.1f}{PERCENT}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the units that people read."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# The figures of a side: name by key of `metrics.evaluate`, and how each is shown.
FIGURES: dict[str, tuple[str, Show]] = {
    "accuracy": ("Accuracy", percent),
    "auroc": ("AUROC", number),
    "sensitivity": ("Sensitivity", percent),
    "specificity": ("Specificity", percent),
    "loss": ("Loss", number),
    "brier": ("Brier score", number),
    "ece": ("ECE", number),
}
CONFUSION = {"tp": "True positives", "fp": "False positives", "tn": "True negatives", "fn": "False negatives"}
TILES = ("auroc", "accuracy", "sensitivity", "specificity")

EPOCH: dict[str, tuple[str, Show]] = {
    "epoch": ("epoch", count),
    "train_loss": ("train loss", number),
    "train_accuracy": ("train accuracy", percent),
    "validation_loss": ("validation loss", number),
    "validation_accuracy": ("validation accuracy", percent),
    "validation_auroc": ("validation AUROC", number),
    "images_per_s": ("images/s", count),
    "waiting": ("waiting for data", percent),
    "seconds": ("time", duration),
}

THIS_RUN = {
    "objects": "objects scored",
    "quarantined": "objects quarantined among these",
    "objects_per_s": "objects per second",
    "listed": "objects listed among these: a pack is one",
    "bytes": "bytes of these",
    "fetch_s": "seconds that workers waited for storage",
    "decode_s": "seconds that workers decoded and prepared",
    "predict_s": "seconds that workers predicted",
    "write_s": "seconds that workers wrote results",
    "peak_mb": "most memory of a worker (MB)",
    "shards": "shards scored",
    "shards_there": "shards there already",
    "new": "objects new or changed since the last listing",
    "known": "objects listed before",
    "gone": "objects no longer in the archive",
}

STATES = {
    State.SCORED.value: "at least one slice has an answer",
    State.QUARANTINED.value: "no answer, for a reason given below",
    State.DUPLICATE.value: "the same pixels as an object earlier in the archive, and the same answer",
    State.SKIPPED.value: "a valid object that is no MR image",
}


def training_page(facts: TrainingFacts) -> str:
    """The page of a training run."""
    values = _shared(facts)
    side = values["side"]
    rows, groups = (sum(held[key] for held in facts.split.values()) for key in ("rows", "groups"))
    values |= {
        "tiles": [(FIGURES[key][0], *_cell(facts.metrics[side], key)) for key in TILES] if side else [],
        "curves": [_drawn(svg) for svg in plots.learning_curves(facts.history, facts.best_epoch)],
        "lone_pictures": rows == groups,
        "no_patients": facts.settings.get("labels") is None,
        "epoch_columns": [name for name, _ in EPOCH.values()],
        "epochs": [[show(line[key]) for key, (_, show) in EPOCH.items()] for line in facts.history],
    }
    return _environment().get_template("training.html").render(values)


def scoring_page(facts: ScoringFacts) -> str:
    """The page of a scoring run."""
    values = _shared(facts)
    scores = facts.answers.probability
    positive = int((scores >= facts.threshold).sum())
    share = percent(positive / len(scores)) if len(scores) else ""
    side = values["side"]
    values |= {
        "tiles": [
            ("objects in the archive", count(facts.counts["objects"]), ""),
            ("slices with an answer", count(len(scores)), ""),
            ("positive slices", count(positive), share),
            ("quarantined objects", count(facts.counts["quarantined"]), ""),
            *([(f"AUROC, {side} side", *_cell(facts.metrics[side], "auroc"))] if side else []),
        ],
        "slices": len(scores),
        "positive": positive,
        "positive_share": share,
        "all_scores": _drawn(plots.score_histogram(scores, None, facts.threshold)) if len(scores) else None,
        "this_run": [(THIS_RUN.get(key, key), f"{value:,}") for key, value in facts.this_run.items()],
    }
    return _environment().get_template("scoring.html").render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mri_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "duration": duration}
    return environment


def _shared(facts: Facts) -> dict[str, Any]:
    """What the base template asks for."""
    side = _most_telling(facts.metrics)
    return {
        "facts": facts,
        "warnings": [*facts.warnings, *_unaccounted(facts.counts)],
        "side": side,
        "sides": list(facts.metrics),
        "figures": list(_figures(facts.metrics)),
        "levels": list(_levels(facts.levels)),
        "side_plots": list(_side_plots(facts, side)) if side else [],
        "both_classes": side is not None and facts.metrics[side]["auroc"] is not None,
        "states": list(_states(facts.counts)),
        "reasons": list(_reasons(facts.reasons)),
        "examples": _examples(facts.examples),
        "settings": list(_flat(facts.settings)),
    }


def _most_telling(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The larger side that the network has not met; where there is none, validation, else training."""
    fresh = [name for name in ("test", "unseen") if name in metrics]
    if fresh:
        return max(fresh, key=lambda name: metrics[name]["n"])
    return next((name for name in ("validation", "train") if name in metrics), None)


def _figures(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each figure's name, and for every side its value and interval as text."""
    found = metrics.values()
    yield "Slices", [(count(side["n"]), "") for side in found]
    yield "With tumor", [(count(side["positives"]), "") for side in found]
    for key, (name, _) in FIGURES.items():
        yield name, [_cell(side, key) for side in found]
    for key, name in CONFUSION.items():
        yield name, [(count(side["confusion"][key]), "") for side in found]


def _levels(levels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Level, side, and the figures as text: how many, with tumor, sensitivity, specificity, AUROC."""
    for level, sides in levels.items():
        for side, found in sides.items():
            counts = [(count(found["n"]), ""), (count(found["positives"]), "")]
            yield level, side, counts + [_cell(found, key) for key in ("sensitivity", "specificity", "auroc")]


def _cell(found: Mapping[str, Any], key: str) -> tuple[str, str]:
    show = FIGURES[key][1]
    interval = found.get(f"{key}_interval")
    spread = " to ".join(show(bound) for bound in interval).replace(PERCENT, "", 1) if interval else ""
    return show(found[key]), spread


def _side_plots(facts: Facts, side: str) -> Iterator[Markup]:
    answers, figures = facts.answers, facts.metrics[side]
    mine = _labelled(answers, side)
    yield _drawn(plots.confusion(figures["confusion"]))
    if figures["auroc"] is not None:
        at = (1 - figures["specificity"], figures["sensitivity"])
        yield _drawn(plots.roc(answers.label[mine], answers.logit[mine], area=figures["auroc"], operating=at))
    yield _drawn(plots.score_histogram(answers.probability[mine], answers.label[mine], facts.threshold))


def _drawn(svg: str) -> Markup:
    """A drawing holds no text from outside, so it goes into the page as it is."""
    return Markup(svg)  # noqa: S704


def _labelled(answers: Answers, side: str) -> np.ndarray:
    return np.flatnonzero((answers.side == side) & (answers.label >= 0))


def _unaccounted(counts: Mapping[str, int]) -> Iterator[str]:
    states = sum(counts.get(state, 0) for state in STATES)
    if states != counts["objects"]:
        yield f"{counts['objects']:,} objects, but their states sum to {states:,}: the counts cannot be believed"


def _states(counts: Mapping[str, int]) -> Iterator[tuple[str, str, str, str]]:
    whole = max(counts["objects"], 1)
    for state, meaning in STATES.items():
        yield state, count(counts.get(state, 0)), percent(counts.get(state, 0) / whole), meaning


def _reasons(reasons: Mapping[str, int]) -> Iterator[tuple[str, str, str, str]]:
    """Code, rows, meaning, remedy; the most frequent first."""
    known = {reason.value: reason for reason in Reason}
    for code, rows in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        reason = known.get(code)  # a table may be older than the list
        yield code, count(rows), reason.meaning if reason else "", reason.remedy if reason else ""


def _examples(examples: Iterable[Example]) -> dict[str, list[dict[str, Any]]]:
    """By title, in the order given."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        truth, probability = example.label or "unknown", number(example.probability)
        right = {"tumor": Decision.POSITIVE, "normal": Decision.NEGATIVE}.get(truth)
        height, width = example.picture.shape
        shown.setdefault(example.title, []).append(
            {
                "source": plots.picture(example.picture),
                "width": width,
                "height": height,
                "name": example.name,
                "probability": probability,
                "decision": example.decision,
                "truth": truth,
                "caption": f"{example.name}, truth {truth}, probability {probability}, {example.decision}",
                "wrong": right is not None and example.decision not in (right, Decision.REFER),
            }
        )
    return shown


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with their values as JSON."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False, default=str)
