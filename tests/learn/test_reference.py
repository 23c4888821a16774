"""Distances from a reference, on distributions whose distance is known."""

import json

import numpy as np
import pytest
from scipy.stats import ks_2samp

from mri_ray.learn import reference
from mri_ray.learn.reference import OTHER, UNKNOWN, compared, psi, word


def made(rows: int = 5000, *, shift: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"probability": rng.beta(1, 3, rows), "level": rng.normal(60 + shift, 10, rows)}


def words(*names: str) -> dict[str, list[str]]:
    return {"sequence": list(names)}


def test_the_same_kind_is_near_and_another_is_far():
    told = reference.reference(made(), words(*["t1"] * 3000, *["flair"] * 2000))
    assert json.loads(json.dumps(told)) == told
    same = compared(told, made(1000, seed=1), words(*["t1"] * 590, *["flair"] * 410))
    assert all(each["psi"] < 0.05 for each in same.values())
    assert all(each["ks"] < 0.06 for name, each in same.items() if name != "sequence")
    other = compared(told, made(1000, shift=15, seed=1), words(*["t2"] * 1000))
    assert other["probability"]["psi"] < 0.05
    assert other["level"]["psi"] > 0.25
    assert other["sequence"]["psi"] > 0.25


@pytest.mark.parametrize("shift", [0, 3, 15])
def test_ks_is_that_of_the_rows_to_the_hundredth(shift):
    first, second = made(5000), made(900, shift=shift, seed=2)
    found = compared(reference.reference(first, {}), second, {})
    for name, each in found.items():
        assert each["ks"] == pytest.approx(ks_2samp(first[name], second[name]).statistic, abs=0.02)


def test_psi_by_hand():
    assert psi([50, 50], [50, 50]) == 0
    assert psi([50, 50], [80, 20]) == pytest.approx(0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5))
    assert np.isfinite(psi([10, 0], [0, 10]))


def test_values_that_are_all_the_same_are_compared_too():
    told = reference.reference({"level": np.full(100, 7.0)}, {})
    assert compared(told, {"level": np.full(50, 7.0)}, {})["level"] == {"psi": 0.0, "ks": 0.0}
    assert compared(told, {"level": np.full(50, 9.0)}, {})["level"]["ks"] == 1


def test_words_count_by_what_they_mean_and_rare_ones_are_not_told():
    assert [word(each) for each in ("SIEMENS Healthineers", " GE MEDICAL", "", None, float("nan"), 3.0, 1.494)] == [
        *("siemens", "ge", UNKNOWN, UNKNOWN, UNKNOWN, "3.0", "1.5"),
    ]
    told = reference.reference({"level": np.zeros(30)}, {"manufacturer": ["siemens"] * 20 + [None] * 9 + ["Mr Smith"]})
    assert told["words"]["manufacturer"] == {"siemens": 20, UNKNOWN: 9, OTHER: 1}


def test_nothing_gives_nothing():
    assert reference.reference({"level": np.zeros(0)}, {}) == {}
