"""The report of a run as one self-contained HTML page: facts in, text out; nothing on it is fetched."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mri_ray import metrics
from mri_ray.errors import Reason
from mri_ray.records import Decision
from mri_ray.report import audit, plots, search, sections
from mri_ray.report.answers import most_telling
from mri_ray.report.facts import Answers, AuditFacts, Facts, ScoringFacts, TrainingFacts
from mri_ray.report.figures import (
    FIGURES,
    Show,
    beside,
    by_level,
    by_side,
    cell,
    lesions,
    marks,
    operating,
    parts,
    predictive,
)
from mri_ray.report.sections import STATES, drawn
from mri_ray.report.text import count, duration, marked, number, percent, short

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


def training_page(facts: TrainingFacts) -> str:
    """The page of a training run."""
    values = _shared(facts)
    side = values["side"]
    rows, groups = (sum(held[key] for held in facts.split.values()) for key in ("rows", "groups"))
    values |= {
        "tiles": [(FIGURES[key][0], *cell(facts.metrics[side], key)) for key in TILES] if side else [],
        "operating": list(operating(facts)),
        "beside": list(beside(facts)),
        "marks": list(marks(facts.lesions)),
        "reliability": drawn(plots.reliability(_bins(facts, side), side)) if side else None,
        "curves": [drawn(svg) for svg in plots.learning_curves(facts.history, facts.best_epoch)],
        "lone_pictures": rows == groups,
        "no_patients": facts.no_patients,
        "shortcuts": list(audit.shortcuts(facts.audit)),
        "epoch_columns": [name for name, _ in EPOCH.values()],
        **search.values(facts),
        "epochs": [[show(line[key]) for key, (_, show) in EPOCH.items()] for line in facts.history],
    }
    return _environment().get_template("training.html").render(values)


def audit_page(facts: AuditFacts) -> str:
    """The page of an audit."""
    values = audit.values(facts) | {"settings": list(_flat(facts.settings))}
    return _environment().get_template("audit.html").render(values)


def scoring_page(facts: ScoringFacts) -> str:
    """The page of a scoring run."""
    values = _shared(facts)
    scores = facts.answers.probability
    reached = int((scores >= facts.threshold).sum())
    side = values["side"]
    decided = [(name, facts.decisions.get(name.value, 0)) for name in (Decision.POSITIVE, Decision.REFER)]
    values["warnings"] += sections.unaccounted(facts)
    values |= {
        "tiles": [
            ("objects in the archive", count(facts.counts["objects"]), []),
            ("slices with an answer", count(len(scores)), []),
            *(
                (f"slices: {name}", count(n), [percent(n / len(scores))] if len(scores) else [])
                for name, n in decided
                if n or name == Decision.POSITIVE
            ),
            ("quarantined objects", count(facts.counts["quarantined"]), []),
            *([(f"AUROC, {side} side", *cell(facts.metrics[side], "auroc"))] if side else []),
        ],
        "slices": len(scores),
        "reached": reached,
        "reached_share": percent(reached / len(scores)) if len(scores) else "",
        "all_scores": drawn(plots.score_histogram(scores, None, facts.threshold)) if len(scores) else None,
        **sections.scoring(facts),
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
    environment.filters |= {"count": count, "duration": duration, "marked": marked, "short": short}
    return environment


def _shared(facts: Facts) -> dict[str, Any]:
    """What the base template asks for."""
    side = most_telling(facts.metrics)
    return {
        "facts": facts,
        "warnings": [*facts.warnings, *_unaccounted(facts.counts)],
        "side": side,
        "sides": list(facts.metrics),
        "figures": list(by_side(facts.metrics)),
        "levels": list(by_level(facts.levels)),
        "predictive": list(predictive(facts.metrics[side])) if side else [],
        "parts": list(parts(facts.subgroups)),
        "lesions": list(lesions(facts.subgroups)),
        "lesion_plot": drawn(plots.lesions(facts.subgroups.lesions, facts.subgroups.unit))
        if facts.subgroups.lesions
        else None,
        "side_plots": list(_side_plots(facts, side)) if side else [],
        "both_classes": side is not None and facts.metrics[side]["auroc"] is not None,
        "states": list(_states(facts.counts)),
        "reasons": list(_reasons(facts.reasons)),
        "examples": sections.examples(facts.examples),
        "settings": list(_flat(facts.settings)),
    }


def _bins(facts: Facts, side: str) -> list[dict[str, Any]]:
    mine = _labelled(facts.answers, side)
    return metrics.reliability(facts.answers.label[mine], facts.answers.probability[mine])


def _side_plots(facts: Facts, side: str) -> Iterator[Markup]:
    answers, figures = facts.answers, facts.metrics[side]
    mine = _labelled(answers, side)
    yield drawn(plots.confusion(figures["confusion"]))
    if figures["auroc"] is not None:
        at = (1 - figures["specificity"], figures["sensitivity"])
        label, scores = answers.label[mine], answers.logit[mine]
        yield drawn(plots.roc(label, scores, area=figures["auroc"], operating=at))
        called = figures["confusion"]["tp"] + figures["confusion"]["fp"]
        point = (at[1], figures["confusion"]["tp"] / called) if called else None
        yield drawn(plots.precision_recall(label, scores, area=figures["auprc"], operating=point))
    yield drawn(plots.score_histogram(answers.probability[mine], answers.label[mine], facts.threshold, facts.refer))


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


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with their values as JSON."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False, default=str)
