"""Which epoch of a training is kept: one rule for trainings, and for trials of a search; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Line = TypeVar("Line", bound=Mapping[str, Any])

_NOISE = 0.005  # of validation AUROCs that are no better or worse than each other


def best_line(history: Sequence[Line]) -> Line:
    """The line of the epoch that is kept: one replaces another by a validation AUROC higher by more than _NOISE.

    Within that of the best, by a lower loss, or with a mask head by more Dice and less loss: the AUROC of few groups is
    at its top, and noise from there on, long before the network has learned. One by one: what is kept is then told as
    it comes.
    """
    kept = history[0]
    top = _area(kept)
    for line in history[1:]:
        top = max(top, _area(line))
        if _area(line) > _area(kept) + _NOISE or (_area(line) >= top - _NOISE and _worth(line) > _worth(kept)):
            kept = line
    return kept


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The number of the epoch that is kept, from 1."""
    return int(best_line(history)["epoch"])


def _area(line: Mapping[str, Any]) -> float:
    return float(line.get("validation_auroc") or 0.0)


def _worth(line: Mapping[str, Any]) -> float:
    return float(line.get("validation_dice", 0.0) - line["validation_loss"])
