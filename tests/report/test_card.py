"""The card and the checklist: every figure of the run, no name of a patient, and text from outside that stays text."""

import re
from dataclasses import replace

import numpy as np
import pytest
from report import test_pages as given

from mri_ray import metrics
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.operate import settled
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig, ModelConfig
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report import answers as bringing
from mri_ray.report import card, figures, pages
from mri_ray.report.facts import TrainingFacts
from mri_ray.report.subgroups import Subgroups
from mri_ray.report.text import UNDEFINED

EVALUATION = EvaluationConfig(rounds=100)
MODEL = ModelConfig(input_size=32, width=4, blocks=2, dense=8)

LESIONS = {
    "slices": 580,
    "slices_with_lesion": 204,
    "groups": 14,
    "dice": 0.7312,
    "dice_bootstrap": [0.66, 0.79],
    "dice_lowest": 0.41,
    "dice_slices": 0.69,
    "extent": 0.9412,
    "pointing": 0.913,
    "pointing_bootstrap": [0.84, 0.97],
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    found = given.answers(3000)
    made = Bundle(
        model=MODEL,
        prepare=PrepareConfig(size=32),
        weights=build(MODEL, seed=3).state_dict(),
        training={"fingerprint": "f00d", "split": {"seed": 7}},
    )
    mine = found.side == "validation"
    config = CalibrationConfig(refer=0.1)
    return settled(made, found.label[mine], found.logit[mine], found.group[mine], config, EVALUATION)[0]


def facts(bundle: Bundle, **changes) -> TrainingFacts:
    found = given.answers(3000)
    told = bringing.by_side(found, bundle, EVALUATION)
    part = {"kind": "source", "name": "north|wing", "n": 40, "groups": 9, "positives": 12, "small": None}
    held_out = {
        "kind": "folds",
        "parts": [
            {"name": "fold 1 of 2", "fault": None, "test": told["test"]},
            {"name": "fold 2 of 2", "fault": "its test side would be empty", "test": None},
        ],
        "pooled": None,
    }
    values = {
        "answers": found,
        "metrics": told,
        "threshold": bundle.threshold,
        "refer": bundle.refer,
        "operating": bundle.operating | {"studies": None},
        "subgroups": Subgroups(side="test", parts=[part | {"figures": told["test"]}], untold=["plane"]),
        "worst_groups": [{"n": 10, "positives": 3, "missed": 3, "alarms": 2, "row_id": "cafe0123"}],
        "held_out": [held_out],
        "audit": {
            "size": {
                "auroc": 0.9123,
                "auroc_interval": [0.9, 0.92],
                "known": 1.0,
                "removed": "yes",
                "suspect": True,
            }
        },
        "lesions": {"test": LESIONS},
        "settings": {"labels": "labels.csv", "identifiers": "pseudonym", "uris": "keep"},
    }
    return given.training(**values | changes)


def test_the_card_holds_every_figure_with_its_intervals(bundle: Bundle) -> None:
    text = card.papers(bundle, facts(bundle))["model_card.md"]
    made = facts(bundle)
    for found in made.metrics.values():
        for key in ("auroc", "auprc", "loss", "ece", "sensitivity"):
            value, spread = figures.cell(found, key)
            assert f"{value} ({'; '.join(spread)})" in text
        for entry in found["at_prevalence"][:1] if found is made.metrics["test"] else []:
            assert figures.cell(entry, "ppv", figures.percent)[0] in text
    for words in (
        bundle.digest,
        "No diagnosis without review",
        "f00d",
        "lower Wilson bound of sensitivity on validation is at least 95.0",
        "are referred",
        "| 2,001 | 701 | 51 |",
        "cafe0123",
        "| size | 0.9123 | 0.9000 to 0.9200 |",
        "not trained: its test side would be empty",
        "12 slices have no label",
        "by plane",
    ):
        assert words in text
    assert "Wilson" in text


def test_how_well_heat_maps_agree_with_masks_stands_in_papers_and_page(bundle: Bundle) -> None:
    made = facts(bundle)
    for text in (card.papers(bundle, made)["model_card.md"], pages.training_page(made)):
        for figure in ("0.7312", "0.6600 to 0.7900", "0.9412", "91.3", "84.0 to 97.0"):
            assert figure in text
    without = replace(made, lesions={})
    for text in (card.papers(bundle, without)["model_card.md"], pages.training_page(without)):
        assert "Where it sees the lesion" not in text


def test_tables_of_the_papers_are_whole(bundle: Bundle) -> None:
    for text in card.papers(bundle, facts(bundle)).values():
        lines = text.splitlines()
        tables = [i for i, line in enumerate(lines) if re.fullmatch(r"\|(:?-+:?\|)+", line)]
        assert tables
        for start in tables:
            width = lines[start].count("|")
            end = next(i for i in range(start, len(lines) + 1) if i == len(lines) or not lines[i].startswith("|"))
            assert [line.count("|") for line in lines[start - 1 : end]] == [width] * (end - start + 1)


def test_names_from_an_archive_stay_text(bundle: Bundle) -> None:
    made = facts(bundle)
    part = made.subgroups.parts[0] | {"name": given.HOSTILE + "|[x](y)\n# z"}
    text = card.papers(bundle, replace(made, subgroups=Subgroups(side="test", parts=[part])))["model_card.md"]
    assert "<script>" not in text
    assert "\n# z" not in text
    assert "[x](y)" not in text


def test_the_checklist_says_what_was_done_and_what_is_left(bundle: Bundle) -> None:
    text = card.papers(bundle, facts(bundle))["checklist.md"]
    assert "by group, seed 7: train 2,001 slices of 51 groups" in text
    assert "identifiers=pseudonym" in text
    assert text.count("*site*") > 5
    without = card.papers(bundle, facts(bundle, held_out=[], audit={}))["checklist.md"]
    assert "not looked for in this run" in without
    assert "not done in this run" in without


def test_a_bundle_without_an_operating_point_says_why(bundle: Bundle) -> None:
    one_class = {"calibration": {"method": "none", "rows": 3, "groups": 1, "held_out_loss": {}}}
    one_class |= {"slices": {"of": "slices", "side": "validation", "target": None, "bound": None}, "studies": None}
    text = card.papers(bundle, facts(bundle, operating=one_class))["model_card.md"]
    assert "Validation holds one class only" in text


def test_the_page_shows_parts_operating_point_and_other_trainings(bundle: Bundle) -> None:
    lesion = {"name": "up to 50 px", "n": 31, "groups": 8, "found": 17, "sensitivity": 17 / 31}
    lesion |= {"sensitivity_interval": [0.38, 0.71], "sensitivity_bootstrap": [0.31, 0.79]}
    made = facts(bundle)
    parts = replace(made.subgroups, lesions=[lesion])
    page = given.Page(pages.training_page(replace(made, subgroups=parts)))
    for words in (
        "Calibration and operating point",
        "Trainings beside this one",
        "this bundle, split by group",
        "north|wing",
        "31.0 to 79.0 %",
        "Wilson 38.0 to 71.0 %",
        "Nothing tells parts apart by plane",
        "cafe0123",
        "Precision and recall",
        "Reliability, test side",
        "Sensitivity by size of the lesion",
        "Predictive values by prevalence",
    ):
        assert words in page.text, words


def test_a_cell_of_an_undefined_figure_has_no_interval() -> None:
    lone = metrics.evaluate(np.ones(30, int), np.zeros(30), groups=np.arange(30), rounds=100)
    assert figures.cell(lone, "auroc") == (UNDEFINED, [])
    assert figures.cell(lone, "sensitivity")[0] == "100.0\N{NO-BREAK SPACE}%"
