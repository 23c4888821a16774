"""What lies beside a bundle for people: its model card, and a checklist of what was done and what is left."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.report import audit, figures
from mri_ray.report.answers import most_telling
from mri_ray.report.facts import TrainingFacts
from mri_ray.report.text import count, duration, short

CHECKLIST = "checklist.md"


def papers(bundle: Bundle, facts: TrainingFacts) -> dict[str, str]:
    """Markdown by file name; all of it from the facts of the run."""
    values = _values(bundle, facts)
    return {name: _environment().get_template(name).render(values) for name in (bundles.CARD, CHECKLIST)}


def _values(bundle: Bundle, facts: TrainingFacts) -> dict[str, Any]:
    side = most_telling(facts.metrics)
    return {
        "facts": facts,
        "bundle": bundle,
        "side": side,
        "told": facts.metrics[side] if side else None,
        "intended_use": bundles.intended_use(bundle),
        "answers": [*bundles.answers(bundle)[:2], *figures.operating(facts)],
        "figures": list(figures.by_side(facts.metrics)),
        "predictive": list(figures.predictive(facts.metrics[side])) if side else [],
        "levels": list(figures.by_level(facts.levels)),
        "parts": list(figures.parts(facts.subgroups)),
        "lesions": list(figures.lesions(facts.subgroups)),
        "marks": list(figures.marks(facts.lesions)),
        "beside": list(figures.beside(facts)),
        "audit": list(audit.shortcuts(facts.audit)),
        "proofs": bundles.table(bundle.proofs) if bundle.proofs else "",
        "versions": bundles.table(facts.versions),
        "no_patients": facts.no_patients,
        "from_folders": facts.from_folders,
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mri_ray.report"),
        autoescape=False,  # noqa: S701 - plain text; names from an archive are made harmless by `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": count, "duration": duration, "short": short, "cell": _cell, "name": _name}
    return environment


def _cell(given: figures.Cell) -> str:
    value, intervals = given
    return f"{value} ({'; '.join(intervals)})" if intervals else value


def _name(text: str) -> str:
    """A name from an archive, as it may stand in a table: it opens nothing and ends no cell."""
    return "".join(f"&#{ord(letter)};" if letter in "|<>`[]*_\\\n\r&" else letter for letter in str(text))
