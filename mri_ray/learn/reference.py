"""What a bundle saw when it was made: how answers and pictures spread, to tell later whether what comes differs.

Population stability index (PSI): sum of (p - q) ln(p / q) over bins, deciles of the reference; below 0.1 nobody acts on
it by habit, from 0.25 on everybody does. KS: the largest distance of the distribution functions, at the percentiles.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NUMBERS, WORDS = ("probability", "level"), ("manufacturer", "sequence", "field_strength_t")
OTHER, UNKNOWN = "other", "unknown"
_MOST_WORDS, _LEAST_ROWS = 12, 5  # rarer values may tell of one patient
_FLOOR = 0.5  # rows that an empty bin counts as: PSI knows no zero


def reference(numbers: Mapping[str, np.ndarray], words: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Plain JSON values: of NUMBERS (float (N,)) their percentiles, of WORDS how often each is; rows: how many."""
    rows = len(next(iter(numbers.values())))
    if not rows:
        return {}
    spread = {name: np.quantile(values, np.linspace(0, 1, 101)) for name, values in numbers.items()}
    found: dict[str, Any] = {"rows": rows}
    found["numbers"] = {name: [round(float(v), 6) for v in values] for name, values in spread.items()}
    found["words"] = {name: _counted(values) for name, values in words.items()}
    return found


def word(value: Any) -> str:
    """How a value of a header counts: makers' names by their first word, field strengths to the tenth."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return UNKNOWN
    if isinstance(value, int | float):
        return f"{value:.1f}"
    return (str(value).casefold().split() or [UNKNOWN])[0][:32]


def compared(
    told: Mapping[str, Any], numbers: Mapping[str, np.ndarray], words: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """By name, `psi` and for numbers `ks`, of rows against a reference. words: as `word` makes them."""
    found = {}
    for name, percentiles in told["numbers"].items():
        edges, values = np.array(percentiles), np.sort(numbers[name])
        # From either side: where many values are equal, as at 0 or 1, the distribution jumps.
        below, upto = (np.searchsorted(values, edges, side) / len(values) for side in ("left", "right"))
        own_below, own_upto = (np.searchsorted(edges, edges, side) / len(edges) for side in ("left", "right"))
        ks = max(np.abs(own_below - below).max(), np.abs(own_upto - upto).max())
        found[name] = {"psi": _psi_of_numbers(edges, values, told["rows"]), "ks": float(ks)}
    for name, counts in told["words"].items():
        seen = Counter(each if each in counts else OTHER for each in words[name])
        names = sorted(counts.keys() | seen.keys())
        found[name] = {"psi": psi([counts.get(each, 0) for each in names], [seen[each] for each in names])}
    return found


def psi(expected: ArrayLike, seen: ArrayLike) -> float:
    """Of counts in the same bins."""
    counts = np.array([expected, seen], float)
    p, q = np.maximum(counts[:, counts.any(axis=0)], _FLOOR)
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def _psi_of_numbers(edges: np.ndarray, values: np.ndarray, rows: int) -> float:
    inner = np.unique(edges[10:-10:10])
    expected = np.bincount(np.searchsorted(inner, edges, "right"), minlength=len(inner) + 1) * rows / len(edges)
    return psi(expected, np.bincount(np.searchsorted(inner, values, "right"), minlength=len(inner) + 1))


def _counted(values: Sequence[Any]) -> dict[str, int]:
    counts = Counter(word(value) for value in values)
    kept = {name: n for name, n in counts.most_common(_MOST_WORDS) if n >= _LEAST_ROWS}
    rest = sum(counts.values()) - sum(kept.values())
    return kept | ({OTHER: kept.get(OTHER, 0) + rest} if rest else {})
