"""Figures as people read them, for pages and papers alike: facts in, rows of text out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mri_ray.report.facts import TrainingFacts
from mri_ray.report.subgroups import Subgroups
from mri_ray.report.text import PERCENT, UNDEFINED, count, number, percent

Show = Callable[[Any], str]
Cell = tuple[str, list[str]]  # a value, and its intervals

# The figures of a side: name by key of `metrics.evaluate`, and how each is shown.
FIGURES: dict[str, tuple[str, Show]] = {
    "accuracy": ("Accuracy", percent),
    "accuracy_at_half": ("Accuracy at 0.5", percent),
    "auroc": ("AUROC", number),
    "auprc": ("AUPRC", number),
    "sensitivity": ("Sensitivity", percent),
    "specificity": ("Specificity", percent),
    "loss": ("Loss", number),
    "brier": ("Brier score", number),
    "ece": ("ECE", number),
}
_RATES = ("sensitivity", "specificity", "auroc")  # of levels and parts
_BESIDE = ("accuracy_at_half", "loss", "auroc", "sensitivity", "ece")  # of other trainings
CONFUSION = {"tp": "True positives", "fp": "False positives", "tn": "True negatives", "fn": "False negatives"}


def cell(found: Mapping[str, Any], key: str, show: Show | None = None) -> Cell:
    """A figure with its intervals: that over groups first, and Wilson's, which is named where both stand."""
    show = show or FIGURES[key][1]
    groups, rows = found.get(f"{key}_bootstrap"), found.get(f"{key}_interval")
    spread = [_interval(groups, show)] if groups else []
    if rows:
        spread.append(f"{'Wilson ' if groups else ''}{_interval(rows, show)}")
    return show(found[key]), spread


def _interval(bounds: list[float], show: Show) -> str:
    return " to ".join(show(bound) for bound in bounds).replace(PERCENT, "", 1)


def by_side(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[Cell]]]:
    """Each figure's name, and for every side its value and intervals."""
    found = metrics.values()
    yield "Slices", [(count(side["n"]), []) for side in found]
    yield "With tumor", [(count(side["positives"]), []) for side in found]
    if all("groups" in side for side in found):
        yield "Groups", [(count(side["groups"]), []) for side in found]
    for key, (name, _) in FIGURES.items():
        yield name, [cell(side, key) for side in found]
    if all("uncalibrated" in side for side in found):
        yield "ECE before calibration", [(number(side["uncalibrated"]["ece"]), []) for side in found]
    for key, name in CONFUSION.items():
        yield name, [(count(side["confusion"][key]), []) for side in found]
    if any(side.get("referred") for side in found):
        for key, name in {
            "share": "Referred",
            "error_inside": "Wrong among those referred",
            "error_outside": "Wrong among the others",
        }.items():
            yield name, [(percent((side.get("referred") or {}).get(key)), []) for side in found]


def by_level(levels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Level, side, and the figures: how many, with tumor, sensitivity, specificity, AUROC."""
    for level, sides in levels.items():
        for side, found in sides.items():
            counts: list[Cell] = [(count(found["n"]), []), (count(found["positives"]), [])]
            yield level, side, counts + [cell(found, key) for key in _RATES]


def predictive(found: Mapping[str, Any]) -> Iterator[tuple[str, list[Cell]]]:
    """Prevalence, and the predictive values there."""
    for entry in found.get("at_prevalence") or []:
        yield percent(entry["prevalence"]), [cell(entry, key, percent) for key in ("ppv", "npv")]


def parts(found: Subgroups) -> Iterator[tuple[str, str, list[Cell]]]:
    """Kind, name, and: slices, groups, with tumor, sensitivity, specificity, AUROC; or why there are no figures."""
    for part in found.parts:
        counts: list[Cell] = [(count(part[key]), []) for key in ("n", "groups", "positives")]
        figures = part["figures"]
        if figures is None:
            yield part["kind"], part["name"], [*counts, ("too small", []), ("", []), ("", [])]
        else:
            yield part["kind"], part["name"], counts + [cell(figures, key) for key in _RATES]


def lesions(found: Subgroups) -> Iterator[tuple[str, list[Cell]]]:
    """Class of size, and: tumor slices, groups, how many are found, sensitivity."""
    for row in found.lesions:
        counts: list[Cell] = [(count(row[key]), []) for key in ("n", "groups", "found")]
        yield row["name"], [*counts, cell(row, "sensitivity")]


MARKED: dict[str, tuple[str, Show]] = {
    "slices": ("Slices with a known mask", count),
    "slices_with_lesion": ("With a lesion", count),
    "groups": ("Groups with a lesion", count),
    "dice": ("Dice, mean over groups", number),
    "dice_lowest": ("Dice of the group that agrees least", number),
    "dice_slices": ("Dice, mean over slices with a lesion", number),
    "extent": ("Extent: what is marked / the lesion, in pixels, median over groups", number),
    "pointing": ("Hottest pixel lies in the lesion", percent),
}


def marks(lesions: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[Cell]]]:
    """Each figure's name, and for every side how well heat maps agree with masks there."""
    if lesions:
        for key, (name, show) in MARKED.items():
            yield name, [cell(found, key, show) for found in lesions.values()]


def beside(facts: TrainingFacts) -> Iterator[tuple[str, list[tuple[str, str, list[Cell]]]]]:
    """Kind, and of each training of it, last of the delivered one: name, side, and cells.

    Those are slices, groups, loss before calibration, and the figures _BESIDE.
    """
    for kind in facts.held_out:
        rows = []
        for part in kind["parts"]:
            sides = {side: part[side] for side in ("validation", "test") if part.get(side)}
            rows += [(part["name"], side, _told(found)) for side, found in sides.items()]
            if part["fault"]:
                why: Cell = (f"not trained: {part['fault']}", [])
                rows.append((part["name"], "", [why, *[("", [])] * (2 + len(_BESIDE))]))
        if kind["pooled"]:
            rows.append(("all together, each by the network that had not seen it", "test", _told(kind["pooled"])))
        delivered = f"this bundle, split by {facts.split_by}"
        shown = {side for _, side, _ in rows} & facts.metrics.keys()
        yield (
            kind["kind"],
            rows + [(delivered, side, _told(facts.metrics[side])) for side in sorted(shown, reverse=True)],
        )


def _told(found: Mapping[str, Any]) -> list[Cell]:
    counts: list[Cell] = [(count(found[key]), []) for key in ("n", "groups")]
    plain: Cell = (number(found["uncalibrated"]["loss"]), [])
    return [*counts, plain, *(cell(found, key) for key in _BESIDE)]


def operating(facts: TrainingFacts) -> Iterator[str]:
    """Sentences on calibration and operating point."""
    told = facts.operating
    if not told:
        return
    calibration, slices, studies = told["calibration"], told["slices"], told.get("studies")
    yield _calibrated(calibration)
    if slices.get("validation") is None:
        yield "Validation holds one class only: no operating point could be chosen, and the threshold is 0.5."
        return
    yield f"Positive from {facts.threshold:.4g} on{_promise(slices)}."
    if facts.refer is not None and slices["referred"]:
        low, high = facts.refer
        inside, outside = (percent(slices["referred"][f"error_{where}"]) for where in ("inside", "outside"))
        yield (
            f"Probabilities from {low:.4g} to below {high:.4g} are referred: {percent(slices['referred']['share'])} of "
            f"validation's slices, of which {inside} would be decided wrongly, against {outside} of the others."
        )
    if studies is None:
        yield "Studies and patients are decided at the threshold of slices, as validation has too few of both classes."
    else:
        yield f"Studies and patients are positive from {facts.study_threshold:.4g} on{_promise(studies)}."


def _calibrated(found: Mapping[str, Any]) -> str:
    how = {
        "none": "Probabilities are as the network gives them",
        "temperature": "Logits are divided by a temperature",
        "platt": "Logits are scaled and shifted",
        "isotonic": "Logits are mapped by a rising line of several pieces",
    }[found["method"]]
    if "ece_before" not in found:
        return f"{how}."
    losses = found["held_out_loss"]
    compared = ", ".join(f"{name} {number(loss)}" for name, loss in losses.items())
    chosen = f" Chosen by log loss on groups left out of the fit: {compared}." if losses else ""
    return (
        f"{how}, fitted to {count(found['rows'])} slices of {count(found['groups'])} groups of validation: there the "
        f"ECE went from {number(found['ece_before'])} to {number(found['ece_after'])}, which flatters it; the test "
        f"side tells.{chosen}"
    )


def _promise(found: Mapping[str, Any]) -> str:
    if found["target"] is None:
        return ", as the settings say"
    rate, figures = found["target"]["rate"], found["validation"]
    which = {"lower": "lower Wilson bound", "estimate": "estimate"}[found["bound"]]
    value, spread = cell(figures, rate)
    end = "highest" if rate == "sensitivity" else "lowest"
    return (
        f", the {end} threshold whose {which} of {rate} on validation is at least "
        f"{percent(found['target']['at_least'])}; there it is {value} ({'; '.join(spread) or UNDEFINED})"
    )
