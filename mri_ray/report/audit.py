"""What an audit found, as its page and that of a training show it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mri_ray.report import pictures
from mri_ray.report.facts import AuditFacts
from mri_ray.report.text import count, number, percent

SIDE = 140  # pixels of a picture's side

LEAKS = {
    "same_pixels": "have the very same pixels on another side",
    "copy": "have a copy there, exact or near",
    "owner": "have their patient or study there",
    "any": "have any of these, be it by way of others",
}
SPLITS = {
    "labels": "as the labels file tells it",
    "folder": "by folder, as the archive has it",
    "image": "slices dealt at random",
}


KINDS = {
    "slices": "Slices",
    "pixels": "With other pixels",
    "pictures": "Pictures without their copies",
    "groups": "Groups",
}
REMOVED = {
    "yes": "removed, as far as it is no part of the picture",
    "partly": "removed in part",
    "no": "not removed",
}


def values(facts: AuditFacts) -> dict[str, Any]:
    """What the template of the page asks for."""
    return {
        "facts": facts,
        "classes": [(name, [count(held[kind]) for kind in KINDS]) for name, held in facts.pictures.items()],
        "kinds": list(KINDS.values()),
        "leaks": list(_leaks(facts)),
        "shortcuts": list(shortcuts(facts.shortcuts)),
        "copies": _sets(facts.copies),
        "joined": _sets(facts.joined),
        "both": [[_picture(*item) for item in pair] for pair in facts.both],
    }


def text(found: Mapping[str, Any]) -> str:
    """For people: what `cohort.audit` gives, with the leaks of several splits."""
    lines = [
        f"{name}: {held['slices']:,} slices, {held['pixels']:,} with other pixels, {held['pictures']:,} pictures "
        f"without their copies, in {held['groups']:,} groups"
        for name, held in found["pictures"].items()
    ]
    for kind, leaks in found["leaks"].items():
        whole = max(leaks["test_slices"], 1)
        parts = ", ".join(f"{leaks[name]:,} ({leaks[name] / whole:.1%}) {what}" for name, what in LEAKS.items())
        lines.append(f"{SPLITS[kind]}: of {leaks['test_slices']:,} test slices {parts}")
    sizes = ", ".join(f"{group['slices']:,}" for group in found["groups"][:8])
    lines.append(f"largest groups: {sizes or 'none of more than one'} slices")
    lines.append(f"pictures called normal and tumor: {found['contradictions']['pictures']:,}")
    for row in shortcuts(found["shortcuts"]):
        spread = f" ({row['interval']})" if row["interval"] else ""
        mark = " - TELLS THE CLASS" if row["suspect"] else ""
        lines.append(f"{row['name']}: AUROC {row['auroc']}{spread} by itself{mark}")
    return "\n".join(lines)


def shortcuts(found: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each trait its name, figures as text, what preparation does to it, and whether it is suspect."""
    for name, facts in found.items():
        low, high = facts["auroc_interval"] or (None, None)
        yield {
            "name": name,
            "auroc": number(facts["auroc"]),
            "interval": "" if low is None else f"{number(low)} to {number(high)}",
            "known": percent(facts["known"]),
            "removed": REMOVED[facts["removed"]],
            "suspect": facts["suspect"],
        }


def _leaks(facts: AuditFacts) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for kind, leaks in facts.leaks.items():
        whole = leaks["test_slices"]
        rows = [
            (what, count(leaks[name]), percent(leaks[name] / whole if whole else None)) for name, what in LEAKS.items()
        ]
        yield SPLITS[kind], [("test slices", count(whole), ""), *rows]


def _sets(some: list[tuple[int, list[tuple[str, np.ndarray]]]]) -> list[tuple[str, list[dict[str, str]]]]:
    return [(count(rows), [_picture(*item) for item in shown]) for rows, shown in some if shown]


def _picture(name: str, pixels: np.ndarray) -> dict[str, str]:
    return {"name": name, "source": pictures.picture(pixels, SIDE)}
