"""Pages hold every figure they are given, nothing from outside, and stay whole whatever the names in an archive."""

import dataclasses
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from mri_ray import metrics
from mri_ray.errors import Reason
from mri_ray.records import Flag
from mri_ray.report import cases, examples, folders, pages, sections
from mri_ray.report.facts import Answers, Case, Example, ScoringFacts, TrainingFacts
from mri_ray.report.folders import Folders
from mri_ray.report.subgroups import Subgroups
from mri_ray.report.text import PERCENT

HOSTILE = """<script>alert("x")</script>' onerror=alert(1) " & {{ 7 * 7 }} {% raw %}"""
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page, checks that its elements nest, and keeps what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace(PERCENT, " %"))


def answers(n: int = 300, *, sides=("train", "validation", "test"), labelled: bool = True, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(np.int8)
    logit = rng.normal(2 * label - 1, 1.5).astype(np.float32)
    return Answers(
        row_id=np.array([f"row{i}" for i in range(n)], dtype=str),
        label=label if labelled else np.full(n, -1, np.int8),
        logit=logit,
        probability=1 / (1 + np.exp(-logit)),
        side=np.array(sides)[np.arange(n) % len(sides)],
        group=np.arange(n) // 6,
        source=np.full(n, ""),
        lesion_px=np.full(n, np.nan),
    )


def figures(found: Answers) -> dict:
    known = found.label >= 0
    return {
        str(side): metrics.evaluate(found.label[mine], found.logit[mine])
        for side in dict.fromkeys(found.side.tolist())
        if (mine := known & (found.side == side)).any()
    }


def example(**changes) -> Example:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    values = {"title": "missed tumor", "name": "slice_17.png", "decision": "negative", "label": "tumor"}
    return Example(**{"picture": picture, "probability": 0.1234, **values, **changes})


def shared(found: Answers) -> dict:
    return {
        "run_id": "run-4711",
        "archive": "s3://bucket/archive",
        "headline": "What the figures are about.",
        "counts": {"objects": 1234, "scored": 1200, "quarantined": 21, "duplicate": 12, "skipped": 1},
        "reasons": {Reason.DAMAGED.value: 14, Reason.EMPTY_OBJECT.value: 7},
        "answers": found,
        "packs": 3,
        "metrics": figures(found),
        "levels": {"study": {"test": figures(found)["test"]}} if "test" in figures(found) else {},
        "studies": {"studies": 17, "patients": 11, "series with missing.slices": 2},
        "threshold": 0.5,
        "refer": None,
        "study_threshold": 0.5,
        "subgroups": Subgroups(),
        "worst_groups": [],
        "bundle_digest": "0123456789abcdef",
        "examples": [example(), example(title="false alarm", label="normal", decision="positive", probability=0.98765)],
        "warnings": ["12 slices have no label and are left out"],
        "timings_s": {"listing": 1.25, "training": 754.0, "total": 8000.0},
        "versions": {"mri_ray": "0.1.0", "torch": "2.9.1"},
        "settings": {
            "archive": "s3://bucket/archive",
            "labels": "labels.csv",
            "train": {"epochs": 7, "patience": None},
        },
    }


def training(**changes) -> TrainingFacts:
    found = changes.pop("answers", None) or answers()
    line = {"train_loss": 0.6543, "train_accuracy": 0.7, "validation_loss": 0.5432, "validation_accuracy": 0.75}
    values = {
        "history": [
            {"epoch": 1, **line, "validation_auroc": None, "images_per_s": 1234.5, "waiting": 0.031, "seconds": 12.34},
            {"epoch": 2, **line, "validation_auroc": 0.87654, "images_per_s": 99.0, "waiting": 0.5, "seconds": 75.0},
        ],
        "best_epoch": 2,
        "split_by": "group",
        "split": {
            "train": {"rows": 2001, "tumor": 701, "groups": 51},
            "validation": {"rows": 402, "tumor": 142, "groups": 12},
            "test": {"rows": 403, "tumor": 143, "groups": 13},
        },
        "leakage": {"groups": 76, "crossing": 0, "test_rows": 403, "test_rows_with_copy_in_train": 0},
        "parameters": 401_234,
    }
    return TrainingFacts(**{**shared(found), **values, **changes})


def scoring(**changes) -> ScoringFacts:
    found = changes.pop("answers", None) or answers(sides=("train", "unseen", "unseen"))
    this_run = {
        "objects": 1111,
        "quarantined": 19,
        "shards": 17,
        "shards_there": 3,
        "new": 1115,
        "changed": 119,
        "deleted": 5,
        "objects_per_s": 367.25,
    }
    more = {
        "decisions": {"positive": 111, "negative": 150, "refer": 39},
        "folders": by_folder(),
        "flags": {"upscaled": 222, "burned.in": 7},
        "flagged": [example(title="upscaled", name="small.png")],
        "copies": [(example(title="copy", name="again.png"), example(title="original", name="before.png"))],
        "cases": [case(), case(frame=5, state="scored", beside=example(title="beside", frame=4))],
    }
    values = {"this_run": this_run, "results": "s3://bucket/out/results"}
    return ScoringFacts(**{**shared(found), **values, **more, **changes})


def by_folder(**changes) -> Folders:
    def row(folder, objects, scored, **more):
        zero = dict.fromkeys(("quarantined", "duplicate", "skipped"), 0) | {"slices": scored}
        share = (
            {"positive_share": 0.376, "mean_probability": 0.4567}
            if scored
            else dict.fromkeys(("positive_share", "mean_probability"))
        )
        return {"folder": folder, "objects": objects, "scored": scored} | zero | share | more

    values = {
        "common": "mri/2024/",
        "folders": [row("ward", 1100, 1100), row("bad", 21, 0, quarantined=21), row("", 9, 9)],
        "others": row("", 104, 91, duplicate=12, skipped=1),
        "whole": row("", 1234, 1200, quarantined=21, duplicate=12, skipped=1),
        "further": 47,
        "exact": True,
    }
    return Folders(**{**values, **changes})


def case(**changes) -> Case:
    values = {"state": "quarantined", "name": "ward/x.dcm", "frame": None, "detail": "it ends after 7 bytes"}
    return Case(**{"reason": Reason.DAMAGED.value, **values, **changes})


MAKERS = {"training": (pages.training_page, training), "scoring": (pages.scoring_page, scoring)}
both = pytest.mark.parametrize(("page", "facts"), MAKERS.values(), ids=MAKERS)


def shown(found: dict) -> list[str]:
    """The figures of one side as a reader would look for them."""
    numbers = [f"{found[key]:.4f}" for key in ("auroc", "loss", "brier", "ece")]
    for key in ("accuracy", "sensitivity", "specificity"):
        low, high = found[f"{key}_interval"]
        numbers += [f"{100 * found[key]:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"]
    return [*numbers, str(found["n"]), str(found["positives"]), *(str(n) for n in found["confusion"].values())]


@both
def test_every_shared_fact_is_on_the_page(page, facts):
    made = facts()
    read = Page(page(made)).text
    for found in made.metrics.values():
        for figure in shown(found):
            assert figure in read
    for wanted in (made.run_id, made.archive, made.headline, made.bundle_digest, *made.warnings):
        assert wanted in read
    for wanted in ("1,234", "1,200", "21", "12", "97.2 %", "1.2 s", "12 min 34 s", "2 h 13 min"):
        assert wanted in read
    for reason in (Reason.DAMAGED, Reason.EMPTY_OBJECT):
        assert all(text in read for text in (reason.value, reason.meaning, reason.remedy))
    for wanted in ("torch 2.9.1", "train.epochs", "7", "train.patience", "null", '"labels.csv"'):
        assert wanted in read
    for wanted in ("Not for diagnosis without review by a qualified reader", "0.1234", "0.9877", "slice_17.png"):
        assert wanted in read


def test_every_fact_of_a_training_is_on_the_page():
    read = Page(pages.training_page(training())).text
    for wanted in ("0.6543", "0.5432", "0.8765", "1,234", "99", "3.1 %", "50.0 %", "12.3 s", "1 min 15 s"):
        assert wanted in read
    for wanted in ("2,001", "701", "51", "402", "142", "403", "143", "76", "401,234 parameters", "epoch 2 of 2"):
        assert wanted in read
    assert "not estimable" in read  # the AUROC of the first epoch


def test_every_fact_of_a_scoring_is_on_the_page():
    made = scoring()
    read = Page(pages.scoring_page(made)).text
    for wanted in ("1,111", "19", "17", "1,115", "119", "367.25", "s3://bucket/out/results", "300"):
        assert wanted in read
    positive = int((made.answers.probability >= 0.5).sum())
    assert f"{positive} ({positive / 3:.1f} %) reach the threshold" in read
    for wanted in ("slices: positive 111 37.0 %", "slices: refer 39 13.0 %"):
        assert wanted in read


def test_folders_are_told_with_their_sum():
    read = Page(pages.scoring_page(scoring())).text
    assert "All objects lie below mri/2024/" in read
    assert "ward/ 1,100 1,100 0 0 0 1,100 37.6 % 0.4567" in read
    assert "bad/ 21 0 21 0 0 0 (no folder) 9" in read  # no share of nothing
    assert "47 other folders 104 91 0 12 1 91" in read
    assert "all 1,234 1,200 21 12 1 1,200" in read
    assert "too many folders" not in read
    assert "cannot be believed" not in read


def test_folders_that_are_not_known_or_not_all_or_do_not_add_up_are_called_so():
    read = Page(pages.scoring_page(scoring(folders=None))).text
    assert "Paths are not kept (uris=pseudonym), so there is nothing to tell by folder" in re.sub(
        r"\( ", "(", read
    ).replace(" )", ")")
    read = Page(pages.scoring_page(scoring(folders=by_folder(exact=False)))).text
    assert "47 or more other folders" in read
    assert "There are too many folders to count each apart" in read
    wrong = by_folder(whole=by_folder().whole | {"objects": 1233})
    read = Page(pages.scoring_page(scoring(folders=wrong))).text
    assert "the folders sum to 1,233 objects, against the counts" in read


def test_what_a_run_did_over_time_is_drawn_and_not_listed():
    history = [{"seconds": 2.0 * i, "objects": 500 * i, "quarantined": i, "bytes": 7_500_000 * i} for i in range(9)]
    made = scoring(this_run={"objects": 4000, "bytes": 60_000_000, "history": history, "stages": {"decode": 1.0}})
    text = pages.scoring_page(made)
    read = Page(text).text
    assert "Objects per second over 16 seconds, 250 on average" in text
    assert "bytes of these 60 MB" in read
    assert "history" not in read
    assert "stages" not in read
    without = pages.scoring_page(scoring(this_run={"objects": 4000, "bytes": 60_000_000, "history": history[:2]}))
    assert "Objects per second" not in without


def test_flags_copies_and_reasons_have_their_examples():
    read = Page(pages.scoring_page(scoring())).text
    assert f"222 slices: {sections.FLAGS[Flag.UPSCALED]}" in read
    assert f"7 slices: {sections.FLAGS[Flag.BURNED_IN]}" in read
    for name in ("small.png", "again.png", "before.png"):
        assert name in read
    reason = Reason.DAMAGED
    assert f"{reason.value} 14 rows: {reason.meaning}. What to do: {reason.remedy}." in read
    assert "ward/x.dcm it ends after 7 bytes" in read
    assert "frame 4 ward/x.dcm, frame 5 it ends after 7 bytes Other slices of it have answers." in read


def test_every_flag_has_its_meaning_and_code_in_a_meaning_is_set_as_code():
    assert set(sections.FLAGS) == set(Flag)
    text = pages.scoring_page(scoring(reasons={Reason.TOO_SMALL.value: 1}))
    assert "smaller than <code>decode.min_side</code> on a side" in text


def test_without_examples_of_any_kind_their_sections_are_left_out():
    tags = Page(pages.scoring_page(scoring(examples=[], flags={}, flagged=[], copies=[], cases=[]))).tags
    named = {attributes.get("id") for _, attributes in tags}
    assert not named & {"examples", "flags", "copies", "cases"}


def test_a_page_with_all_the_pictures_there_may_be_stays_below_five_megabytes():
    """Noise of which no picture can be made smaller, from a model with large inputs."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    titles = ("missed", "false", "positive", "negative", "refer", "nearest")
    one = example(picture=noise)
    failed = [case(reason=reason.value, frame=1) for reason in Reason for _ in range(cases.EACH)]
    text = pages.scoring_page(
        scoring(
            examples=[example(picture=noise, title=title) for title in titles for _ in range(examples.EACH)],
            flags=dict.fromkeys(Flag, 9),
            flagged=[example(picture=noise, title=flag) for flag in Flag for _ in range(examples.EACH_FLAG)],
            copies=[(one, one)] * cases.EACH,
            cases=failed + [case(beside=one)] * 12,
            reasons=dict.fromkeys(Reason, 9),
            folders=by_folder(folders=[by_folder().folders[0] | {"folder": 250 * "x"}] * folders.SHOWN),
        )
    )
    assert text.count("<img") == 36 + 39 + 6 + 12
    assert len(text) < 5_000_000


@both
def test_nothing_is_fetched_from_anywhere(page, facts):
    text = page(facts())
    read = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert not {tag for tag, _ in read.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert "@import" not in text
    for _, attributes in read.tags:
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


@both
def test_ids_are_unique_links_lead_somewhere_and_pictures_have_texts(page, facts):
    tags = Page(page(facts())).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in tags if tag == "a"} <= set(ids)
    assert all(a["alt"] for tag, a in tags if tag == "img")
    assert all(a["aria-label"] for tag, a in tags if tag == "svg")


@both
def test_same_facts_give_the_same_bytes(page, facts):
    assert page(facts()) == page(facts())


def hostile_scoring() -> dict:
    """The same number of elements as `scoring` makes."""
    made = by_folder()
    rows = [row | {"folder": HOSTILE} for row in made.folders]
    bad = case(name=HOSTILE, detail=HOSTILE)
    return {
        "folders": dataclasses.replace(made, common=HOSTILE, folders=rows),
        "flagged": [example(title="upscaled", name=HOSTILE)],
        "copies": [(example(title=HOSTILE, name=HOSTILE),) * 2],
        "cases": [bad, dataclasses.replace(bad, frame=5, state="scored", beside=example(name=HOSTILE, title=HOSTILE))],
    }


@both
def test_hostile_names_stay_text(page, facts):
    plain = [tag for tag, _ in Page(page(facts())).tags]
    hostile = facts(
        archive=f"s3://bucket/{HOSTILE}",
        run_id=HOSTILE,
        headline=HOSTILE,
        bundle_digest=HOSTILE,
        examples=[
            example(title=HOSTILE, name=HOSTILE),
            example(title="false alarm", name=HOSTILE, decision=HOSTILE, label=HOSTILE),
        ],
        reasons={HOSTILE: 3, Reason.DAMAGED.value: 1},
        warnings=[HOSTILE],
        timings_s={HOSTILE: 1.0, "b": 1.0, "c": 2.0},
        versions={HOSTILE: HOSTILE},
        settings={"labels": HOSTILE, "archive": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE], "x": 1}},
        **(hostile_scoring() if facts is scoring else {}),
    )
    read = Page(page(hostile))
    assert [tag for tag, _ in read.tags] == plain
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert unescape(read.text).count("alert(") > 10


@both
def test_no_labels(page, facts):
    read = Page(page(facts(answers=answers(labelled=False)))).text
    assert "Figures by side" not in read
    assert "nan" not in read.casefold()


@both
def test_one_class_only(page, facts):
    found = answers()
    found = dataclasses.replace(found, label=np.zeros_like(found.label))
    text = page(facts(answers=found))
    read = Page(text).text
    assert "not estimable" in read
    assert "its ROC curve is not estimable" in read
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", read)


@both
def test_empty_archive(page, facts):
    none = answers(0)
    counts = dict.fromkeys(("objects", "scored", "quarantined", "duplicate", "skipped"), 0)
    read = Page(page(facts(answers=none, counts=counts, reasons={}, examples=[], warnings=[]))).text
    assert "Every object could be read" in read
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", read)


@both
def test_nothing_quarantined_and_no_examples(page, facts):
    counts = {"objects": 10, "scored": 10, "quarantined": 0, "duplicate": 0, "skipped": 0}
    none = {"cases": []} if facts is scoring else {}
    read = Page(page(facts(counts=counts, reasons={}, examples=[], **none))).text
    assert "What to do" not in read
    assert "Missed tumor" not in read


@both
def test_counts_that_do_not_add_up_are_called_so(page, facts):
    counts = {"objects": 10, "scored": 8, "quarantined": 1, "duplicate": 0, "skipped": 0}
    assert "10 objects, but their states sum to 9" in Page(page(facts(counts=counts))).text


@both
def test_wrong_decisions_are_marked(page, facts):
    cases = [
        ("tumor", "negative"),
        ("tumor", "positive"),
        ("normal", "refer"),
        (None, "positive"),
        ("normal", "positive"),
    ]
    made = facts(examples=[example(label=label, decision=decision) for label, decision in cases])
    marked = [attributes.get("class") for tag, attributes in Page(page(made)).tags if tag == "figure"]
    assert marked[: len(cases)] == ["wrong", None, None, None, "wrong"]


def test_the_side_shown_is_the_larger_one_that_is_new_to_the_network():
    def side(*sides):
        return re.search(r"Answers on the (\w+) side", pages.scoring_page(scoring(answers=answers(sides=sides))))[1]

    assert side("train", "test", "unseen", "unseen") == "unseen"
    assert side("train", "test", "test", "unseen") == "test"
    assert side("train", "validation") == "validation"
    assert side("train") == "train"


def test_a_training_without_test_side_says_that_validation_flatters():
    read = Page(pages.training_page(training(answers=answers(sides=("train", "validation"))))).text
    assert "There is no test side" in read
    assert "Answers on the validation side" in read


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "Zero covers known patients and studies, and copies as far as they are found", "no patient is known"),
        ({"settings": {"labels": None}, "studies": {}}, "no patient is known", "every group is a single picture"),
        ({"settings": {"labels": None}, "studies": {"patients": 9}}, "Zero covers", "no patient is known"),
        ({"split": {"train": {"rows": 9, "tumor": 3, "groups": 9}}}, "every group is a single picture", "folder names"),
        ({"split_by": "image"}, "one by one", "Whole groups"),
        ({"split_by": "folder"}, "the folders of the archive decide", "Whole groups"),
        (
            {
                "split_by": "image",
                "leakage": {"groups": 76, "crossing": 31, "test_rows": 403, "test_rows_with_copy_in_train": 380},
            },
            "380 of 403 test slices have their patient or a copy in training",
            "Zero covers",
        ),
    ],
    ids=["group", "folder labels", "folder labels and headers", "lone pictures", "image", "folder", "leak"],
)
def test_the_split_is_explained_in_plain_words(changes, said, unsaid):
    read = Page(pages.training_page(training(**changes))).text
    assert said in read
    assert unsaid not in read


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (59.9, "59.9 s"),
        (59.97, "1 min 0 s"),
        (119.6, "2 min 0 s"),
        (3600, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_duration(seconds, text):
    assert pages.duration(seconds) == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_undefined_figures_are_not_estimable(value):
    assert pages.number(value) == pages.percent(value) == "not estimable"


def test_a_page_of_a_million_slices_is_no_larger():
    small, large = (len(pages.scoring_page(scoring(answers=answers(n, sides=("unseen",))))) for n in (3000, 1_000_000))
    assert large < small + 10_000
