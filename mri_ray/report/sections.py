"""Sections of a page about slices and objects one by one, and those that only a scoring has: facts -> what to print."""

from collections.abc import Iterable, Iterator
from typing import Any

from markupsafe import Markup

from mri_ray.errors import Reason
from mri_ray.records import Decision, Flag, State
from mri_ray.report import pictures, plots
from mri_ray.report.facts import Case, Example, ScoringFacts
from mri_ray.report.folders import Folders
from mri_ray.report.text import count, number, percent, size

SMALL = 160  # pixels a side of pictures that show what a slice is, and not what the model found

STATES = {
    State.SCORED.value: "at least one slice has an answer",
    State.QUARANTINED.value: "no answer, for a reason given below",
    State.DUPLICATE.value: "the same pixels as an object earlier in the archive, and the same answer",
    State.SKIPPED.value: "a valid object that is no MR image",
}

FLAGS = {
    Flag.BLANK: "constant or nearly so: there is nothing to see",
    Flag.COLOUR: "real colour was made grey",
    Flag.LOW_CONTRAST: "so little contrast that it was not stretched to the full range",
    Flag.UPSCALED: "the head is smaller than the model's input",
    Flag.SECONDARY: "a screen shot or scan of a picture, not what the scanner measured",
    Flag.BURNED_IN: "the file says that writing is part of the pixels",
    Flag.LOCALIZER: "a scout for planning",
    Flag.DERIVED: "computed from other images: a projection, a map, a subtraction",
    Flag.PHANTOM: "a test object, as far as the tags tell",
    Flag.MOSAIC: "cut out of a frame in which many slices are tiled",
    Flag.LOSSY: "it was once compressed with loss",
    Flag.MASKED: "padding, NaN or infinity was replaced by the darkest value",
    Flag.NAMED_PATH: "its path repeats the header's name or id; for that no picture is shown",
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
    "new": "objects new since the last results",
    "changed": "objects changed since then",
    "deleted": "objects deleted since then",
}


def scoring(facts: ScoringFacts) -> dict[str, Any]:
    """What the scoring page's template asks for beyond what all pages have."""
    history = facts.this_run.get("history") or []
    plot = plots.throughput(history)
    flagged = examples(facts.flagged, SMALL)
    return {
        "this_run": [
            (THIS_RUN.get(key, key), size(n) if key == "bytes" else f"{n:,}")
            for key, n in facts.this_run.items()
            if isinstance(n, int | float)
        ],
        "throughput": None if plot is None else drawn(plot),
        "folders": None if facts.folders is None else list(_folders(facts.folders)),
        "flags": [
            (flag.value, count(facts.flags[flag]), meaning, flagged.get(flag.value, []))
            for flag, meaning in FLAGS.items()
            if facts.flags.get(flag)
        ],
        "copies": [[_pictured(example, SMALL) for example in pair] for pair in facts.copies],
        "cases": list(_cases(facts.cases, facts.reasons)),
    }


def unaccounted(facts: ScoringFacts) -> Iterator[str]:
    """A sentence where the folders do not add up to what the archive holds."""
    if facts.folders is not None:
        differing = [name for name, n in facts.counts.items() if facts.folders.whole[name] != n]
        if differing:
            found = ", ".join(f"{facts.folders.whole[name]:,} {name}" for name in differing)
            yield f"the folders sum to {found}, against the counts: the table by folder cannot be believed"


def drawn(svg: str) -> Markup:
    """A drawing holds no text from outside, so it goes into the page as it is."""
    return Markup(svg)  # noqa: S704


def examples(found: Iterable[Example], side: int = pictures.PICTURE) -> dict[str, list[dict[str, Any]]]:
    """By title, in the order given."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for example in found:
        shown.setdefault(example.title, []).append(_pictured(example, side))
    return shown


def _pictured(example: Example, side: int) -> dict[str, Any]:
    truth, probability = example.label or "unknown", number(example.probability)
    right = {"tumor": Decision.POSITIVE, "normal": Decision.NEGATIVE}.get(truth)
    height, width = example.picture.shape
    name = example.name + _frame(example.frame or None)
    heat = None if example.heat is None else pictures.overlaid(example.picture, example.heat)
    return {
        "title": example.title,
        "source": pictures.picture(example.picture, side),
        "heat": None if heat is None else pictures.picture(heat, side),
        "width": width,
        "height": height,
        "name": name,
        "probability": probability,
        "decision": example.decision,
        "truth": truth,
        "alt": f"{example.title}: {name}, truth {truth}, probability {probability}, {example.decision}",
        "wrong": right is not None and example.decision not in (right, Decision.REFER),
    }


def _frame(number: int | None) -> str:
    return "" if number is None else f", frame {number}"


def _folders(found: Folders) -> Iterator[tuple[str, list[str]]]:
    """Each row's name and figures, the sum last."""
    for row in found.folders:
        yield f"{row['folder']}/" if row["folder"] else "(no folder)", _figures(row)
    if found.others is not None:
        least = "" if found.exact else " or more"
        yield f"{found.further:,}{least} other folders", _figures(found.others)
    yield "all", _figures(found.whole)


def _figures(row: dict[str, Any]) -> list[str]:
    counts = [count(row[name]) for name in ("objects", *STATES, "slices")]
    if not row["slices"]:
        return [*counts, "", ""]
    return [*counts, percent(row["positive_share"]), number(row["mean_probability"])]


def _cases(found: Iterable[Case], rows: dict[str, int]) -> Iterator[dict[str, Any]]:
    """By reason, the most frequent first, those that are no fault last."""
    by_reason: dict[str, list[Case]] = {}
    for case in found:
        by_reason.setdefault(case.reason, []).append(case)
    known = {reason.value: reason for reason in Reason}
    order = sorted(by_reason, key=lambda code: (code.startswith("skipped."), -rows.get(code, 0), code))
    for code in order:
        yield {
            "reason": code,
            "rows": count(rows.get(code, 0)),
            "meaning": known[code].meaning if code in known else "",
            "remedy": known[code].remedy if code in known else "",
            "objects": [
                {
                    "name": case.name + _frame(case.frame),
                    "detail": case.detail,
                    "partly": case.state not in (State.QUARANTINED, State.SKIPPED),
                    "beside": None if case.beside is None else _beside(case.beside),
                }
                for case in by_reason[code]
            ],
        }


def _beside(example: Example) -> dict[str, Any]:
    """It is of the object whose name stands beside it."""
    return _pictured(example, SMALL) | {"name": f"frame {example.frame or 0}"}
