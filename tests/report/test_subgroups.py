"""Parts of a side, against counts made by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mri_ray import metrics
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import EvaluationConfig, ModelConfig
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report import answers as bringing
from mri_ray.report import subgroups
from mri_ray.report.facts import Answers

MODEL = ModelConfig(input_size=32, width=4, blocks=2, dense=8)
EVALUATION = EvaluationConfig(rounds=100)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    weights = build(MODEL, seed=3).state_dict()
    return Bundle(model=MODEL, prepare=PrepareConfig(size=32), weights=weights, threshold=0.4, temperature=2.0)


def made(n: int = 240, seed: int = 0) -> tuple[Answers, pa.Table]:
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 3 == 0).astype(np.int8)
    logit = rng.normal(2 * label - 1, 2).astype(np.float32)
    group = np.arange(n) // 4
    found = Answers(
        row_id=np.array([f"row{i}" for i in range(n)]),
        label=label,
        logit=logit,
        probability=metrics.sigmoid(logit / 2).astype(np.float32),
        side=np.array(["test", "train"])[(group % 2 == 1).astype(int)],
        group=group,
        source=np.array(["one", "other"])[(group >= n // 8).astype(int)],
        lesion_px=np.where(label == 1, 40.0 + 10 * group, 0.0),
    )
    details = pa.table(
        {
            "width": pa.array(np.where(group < 50, 240, 600), pa.int32()),
            "height": pa.array(np.full(n, 200), pa.int32()),
            "manufacturer": pa.array([["GE MEDICAL", "Ge Medical ", None][g % 3] for g in group]),
            "field_strength_t": pa.array([[1.494, 1.5, 3.0][g % 3] for g in group], pa.float32()),
            "normal": pa.array([[0.1, 0.0, 0.99]] * n, pa.list_(pa.float32())),
            "spacing_mm": pa.array([[0.5, 2.0]] * n, pa.list_(pa.float32())),
        }
    )
    return found, details


def test_weak_fields_are_kinds_of_their_own() -> None:
    _, details = made()
    tesla = [0.064, 0.2, 0.35, 0.55, 1.494, 2.8936, None]
    told = details.slice(0, len(tesla)).set_column(
        details.schema.get_field_index("field_strength_t"), "field_strength_t", pa.array(tesla, pa.float32())
    )
    found = subgroups.kinds(told, np.array(["one"] * len(tesla)))["field strength"]
    assert found.tolist() == ["0.06 T", "0.2 T", "0.35 T", "0.55 T", "1.5 T", "3 T", subgroups.UNKNOWN]


def test_each_part_has_the_figures_of_its_rows(bundle: Bundle) -> None:
    found, details = made()
    told = bringing.by_subgroup(found, details, "test", bundle, EVALUATION)
    test = found.side == "test"
    parts = {(part["kind"], part["name"]): part for part in told.parts}
    assert told.untold == ["plane"]
    assert set(parts) == {
        *(("source", name) for name in ("one", "other")),
        *(("manufacturer", name) for name in ("Ge Medical", subgroups.UNKNOWN)),
        *(("field strength", name) for name in ("1.5 T", "3 T")),
        *(("longer side of the slice", name) for name in ("up to 256 px", "over 512 px")),
    }
    for kind in {kind for kind, _ in parts}:
        assert sum(part["n"] for (of, _), part in parts.items() if of == kind) == test.sum()
    mine = test & (found.source == "one")
    part = parts["source", "one"]
    expected = metrics.evaluate(found.label[mine], found.logit[mine] / 2, threshold=0.4)
    assert (part["n"], part["positives"], part["groups"]) == (
        mine.sum(),
        found.label[mine].sum(),
        len(np.unique(found.group[mine])),
    )
    for name in ("auroc", "sensitivity", "specificity", "confusion"):
        assert part["figures"][name] == expected[name]
    assert part["figures"]["auroc_bootstrap"] is not None


def test_a_part_too_small_says_so_and_has_no_figures(bundle: Bundle) -> None:
    found, details = made(100)
    few = np.where(found.group < 4, "tiny", "large")
    told = bringing.by_subgroup(replace(found, source=few), details, "test", bundle, EVALUATION)
    tiny = next(part for part in told.parts if part["name"] == "tiny")
    assert tiny["figures"] is None
    assert tiny["small"] == "too small: 8 slices of 2 groups"
    assert "tiny" not in {part["name"] for part in told.worst}


def test_sensitivity_by_size_of_the_lesion_counts_tumor_slices_alone(bundle: Bundle) -> None:
    found, details = made()
    told = bringing.by_subgroup(found, details, "test", bundle, EVALUATION)
    assert told.unit == "mm2"  # a pixel is 1 mm2 here
    mine = (found.side == "test") & (found.label == 1)
    assert sum(row["n"] for row in told.lesions) == mine.sum()
    middle = next(row for row in told.lesions if row["name"] == "151 to 500 mm2")
    chosen = mine & (found.lesion_px > 150) & (found.lesion_px <= 500)
    said = found.probability[chosen] >= 0.4
    assert (middle["n"], middle["found"]) == (chosen.sum(), said.sum())
    assert middle["sensitivity"] == pytest.approx(said.mean())
    low, high = middle["sensitivity_interval"]
    assert low <= middle["sensitivity"] <= high
    plain = details.set_column(5, "spacing_mm", pa.nulls(240, pa.list_(pa.float32())))
    assert bringing.by_subgroup(found, plain, "test", bundle, EVALUATION).unit == "px"


def test_parts_beyond_the_largest_are_counted_together() -> None:
    names = np.array([f"maker{i:02d}" for i in range(15) for _ in range(20 - i)] + [subgroups.UNKNOWN] * 99)
    found = subgroups.in_order(names)
    assert [name for name, _ in found[:2]] == ["maker00", "maker01"]
    assert [name for name, _ in found[-2:]] == ["3 others", subgroups.UNKNOWN]
    assert sum(inside.sum() for _, inside in found) == len(names)


def test_a_tumor_slice_without_a_lesion_has_no_size() -> None:
    _, details = made(4)
    sizes, unit = subgroups.lesion_sizes(details, np.array([0.0, np.nan, 7.0, 70.0]))
    np.testing.assert_array_equal(sizes, [np.nan, np.nan, 7, 70])
    assert unit == "mm2"
    assert subgroups.lesion_classes(sizes, unit).tolist()[1:] == [subgroups.UNKNOWN, "up to 50 mm2", "51 to 150 mm2"]


def test_sizes_that_nobody_knows_are_no_classes(bundle: Bundle) -> None:
    found, details = made()
    told = bringing.by_subgroup(replace(found, lesion_px=np.full(240, np.nan)), details, "test", bundle, EVALUATION)
    assert told.lesions == []
    assert "size of the lesion" in told.untold


def test_the_worst_groups_are_those_with_the_most_wrong_decisions(bundle: Bundle) -> None:
    found, _ = made()
    told = bringing.worst_groups(found, "test", bundle)
    wrong = (found.probability >= 0.4) != (found.label == 1)
    by_group = np.bincount(found.group[found.side == "test"], wrong[found.side == "test"])
    assert [row["missed"] + row["alarms"] for row in told] == sorted(by_group, reverse=True)[: len(told)]
    first = int(told[0]["row_id"].removeprefix("row"))
    mine = found.group == found.group[first]
    assert np.abs(found.probability - found.label)[mine].argmax() == first - np.flatnonzero(mine)[0]
