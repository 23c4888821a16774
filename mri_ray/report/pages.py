"""The report of a run as one self-contained HTML page: facts in, text out; nothing on it is fetched."""

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mri_ray.errors import Reason
from mri_ray.records import State
from mri_ray.report import plots
from mri_ray.report.facts import Answers, Example, Facts, ScoringFacts, TrainingFacts

UNDEFINED = "not estimable"

# The figures of a side: key in `metrics.evaluate`, name, whether it is a proportion shown in percent.
FIGURES = (
    ("accuracy", "Accuracy", True),
    ("auroc", "AUROC", False),
    ("sensitivity", "Sensitivity", True),
    ("specificity", "Specificity", True),
    ("loss", "Loss", False),
    ("brier", "Brier score", False),
    ("ece", "ECE", False),
)

# Sides whose figures are evidence, best first; then those that are not.
EVIDENCE = ("test", "unseen", "validation", "train")

STATES = {
    State.SCORED: "at least one slice has an answer",
    State.QUARANTINED: "no answer, for the reason given below",
    State.DUPLICATE: "the same pixels as an object earlier in the archive: the same answer",
    State.SKIPPED: "a valid object that is no MR image",
}


def training_page(facts: TrainingFacts) -> str:
    """The page of a training run."""
    curves = [Markup(svg) for svg in plots.learning_curves(facts.history, facts.best_epoch)]  # noqa: S704  # our own
    return _environment().get_template("training.html").render(_shared(facts), curves=curves)


def scoring_page(facts: ScoringFacts) -> str:
    """The page of a scoring run."""
    return _environment().get_template("scoring.html").render(_shared(facts), all_scores=_all_scores(facts))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mri_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "count": count}
    return environment


def number(value: float | None, digits: int = 4) -> str:
    return UNDEFINED if _undefined(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return UNDEFINED if _undefined(value) else f"{value:.1%}".replace("%", " %")


def count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the units that people read."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _shared(facts: Facts) -> dict[str, Any]:
    side = next((name for name in EVIDENCE if name in facts.metrics), None)
    return {
        "facts": facts,
        "side": side,
        "figures": FIGURES,
        "rows": {name: _figures(found) for name, found in facts.metrics.items()},
        "side_plots": _side_plots(facts, side) if side else [],
        "states": _states(facts.counts),
        "reasons": _reasons(facts.reasons),
        "examples": _examples(facts.examples),
        "settings": list(_flat(facts.settings)),
    }


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each figure of a side as text, with its 95 % interval where there is one."""
    cells = []
    for key, _, proportion in FIGURES:
        show = percent if proportion else number
        interval = found.get(f"{key}_interval")
        spread = f"{show(interval[0])} to {show(interval[1])}" if interval else ""
        cells.append((show(found[key]), spread))
    return cells


def _side_plots(facts: Facts, side: str) -> list[Markup]:
    mine = _labelled(facts.answers, side)
    figures = facts.metrics[side]
    drawings = [plots.confusion(figures["confusion"])]
    if not _undefined(figures["auroc"]):
        drawings.append(
            plots.roc(
                facts.answers.label[mine],
                facts.answers.logit[mine],
                operating=(1 - figures["specificity"], figures["sensitivity"]),
            )
        )
    drawings.append(plots.score_histogram(facts.answers.probability[mine], facts.answers.label[mine], facts.threshold))
    return [Markup(svg) for svg in drawings]  # noqa: S704  # our own


def _all_scores(facts: Facts) -> Markup | None:
    if not len(facts.answers.probability):
        return None
    return Markup(plots.score_histogram(facts.answers.probability, None, facts.threshold))  # noqa: S704  # our own


def _labelled(answers: Answers, side: str) -> np.ndarray:
    return np.flatnonzero((answers.side == side) & (answers.label >= 0))


def _states(counts: Mapping[str, int]) -> list[tuple[str, int, str]]:
    return [(state.value, counts.get(state.value, 0), meaning) for state, meaning in STATES.items()]


def _reasons(reasons: Mapping[str, int]) -> list[tuple[str, int, str, str]]:
    """Code, rows, meaning, remedy; the most frequent first."""
    known = {reason.value: reason for reason in Reason}
    rows = []
    for code, rows_of in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        reason = known.get(code)
        rows.append((code, rows_of, reason.meaning if reason else "", reason.remedy if reason else ""))
    return rows


def _examples(examples: Iterable[Example]) -> dict[str, list[tuple[str, Example]]]:
    """By title, in the order given: the picture as a data URI, and the example."""
    shown: dict[str, list[tuple[str, Example]]] = {}
    for example in examples:
        shown.setdefault(example.title, []).append((plots.picture(example.picture), example))
    return shown


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names with their values as JSON."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False, default=str)
