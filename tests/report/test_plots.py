"""Plots are well-formed, small, free of the outside, and show what they were given."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mri_ray import metrics
from mri_ray.report import pictures, plots

RNG = np.random.default_rng(0)
LABELS = (RNG.random(5000) < 0.3).astype(np.int8)
LOGITS = RNG.normal(3 * LABELS - 1.5, 1.5)
PROBABILITIES = 1 / (1 + np.exp(-LOGITS))


LESIONS = [
    {
        "name": "up to 50 px",
        "n": 7,
        "sensitivity": 0.0,
        "sensitivity_interval": [0.0, 0.35],
        "sensitivity_bootstrap": None,
    },
    {
        "name": "51 to 150 px",
        "n": 1234,
        "sensitivity": 0.9,
        "sensitivity_interval": [0.88, 0.92],
        "sensitivity_bootstrap": [0.91, 0.97],
    },
]


def history(epochs: int) -> list[dict]:
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "validation_loss": 1.2 / epoch,
            "validation_accuracy": 1 - 0.6 / epoch,
            "validation_auroc": None if epoch == 2 else 1 - 0.4 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def every_plot() -> dict[str, str]:
    loss, accuracy, auroc = plots.learning_curves(history(5), 3)
    return {
        "loss": loss,
        "accuracy": accuracy,
        "auroc": auroc,
        "confusion": plots.confusion({"tp": 11, "fp": 222, "tn": 3333, "fn": 4}),
        "roc": plots.roc(LABELS, LOGITS, area=0.9123, operating=(0.1, 0.8)),
        "precision and recall": plots.precision_recall(LABELS, LOGITS, area=0.8765, operating=(0.8, 0.7)),
        "reliability": plots.reliability(metrics.reliability(LABELS, PROBABILITIES), "test"),
        "lesions": plots.lesions(LESIONS, "px"),
        "scores": plots.score_histogram(PROBABILITIES, None, 0.5),
        "class scores": plots.score_histogram(PROBABILITIES, LABELS, 0.5, (0.4, 0.6)),
        "throughput": plots.throughput(points(200)),
    }


def points(number: int, *, each: int = 500, every_s: float = 2.0, bad: int = 5) -> list[dict]:
    """The history of a run that does as much all the time."""
    counts = {"objects": each, "quarantined": bad, "bytes": each * 1000}
    return [{"seconds": every_s * i} | {name: n * i for name, n in counts.items()} for i in range(1, number + 1)]


PLOTS = every_plot()


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("svg", PLOTS.values(), ids=PLOTS)
def test_is_one_small_element_with_a_text_for_those_who_cannot_see_it(svg):
    assert len(svg) < 40_000
    element = ElementTree.fromstring(svg.replace("xlink:href", "href"))  # noqa: S314  # our own
    assert element.tag == "svg"
    assert element.get("role") == "img"
    assert element.get("aria-label")


@pytest.mark.parametrize("svg", PLOTS.values(), ids=PLOTS)
def test_holds_no_address_no_date_and_no_style_of_the_whole_page(svg):
    assert "http" not in svg
    assert "<metadata" not in svg
    assert "<style" not in svg


@pytest.mark.parametrize("svg", PLOTS.values(), ids=PLOTS)
def test_has_only_colours_of_the_page(svg):
    assert "var(--ink)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert not re.search(r"<text(?![^>]*fill: var)", svg), "text without a colour is black on a dark page"


def test_ids_differ_between_the_plots_of_a_page_and_every_reference_is_there():
    ids = [name for svg in PLOTS.values() for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in PLOTS.values():
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {a or b for a, b in used} <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_same_numbers_give_the_same_bytes_and_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    assert every_plot() == PLOTS
    assert dict(matplotlib.rcParams) == before


def test_learning_curves_mark_the_best_epoch_and_pass_over_undefined_values():
    curves = plots.learning_curves(history(6), 4)
    assert ["best epoch: 4" in texts(svg) for svg in curves] == [True] * 3
    assert "nan" not in "".join(curves)


def test_learning_curves_of_one_epoch_without_auroc():
    (line,) = history(1)
    assert len(plots.learning_curves([line | {"validation_auroc": None}], 1)) == 2


def test_learning_curves_without_epochs():
    assert plots.learning_curves([], 0) == []


def test_confusion_shows_its_counts_in_the_right_cells():
    shown = texts(PLOTS["confusion"])
    cells = [text for text in shown if text in ("11", "222", "3,333", "4")]
    assert cells == ["3,333", "222", "4", "11"]  # rows normal, tumor; columns negative, positive
    assert "73.3 % of tumor" in shown
    assert "tp 11, fp 222, tn 3333, fn 4" in PLOTS["confusion"]


def test_confusion_of_nothing():
    assert "0.0 % of tumor" in texts(plots.confusion({"tp": 0, "fp": 0, "tn": 0, "fn": 0}))


def test_roc_shows_its_area_and_refuses_one_class():
    assert "AUROC 0.9123" in texts(PLOTS["roc"])
    with pytest.raises(ValueError, match="both classes"):
        plots.roc(np.ones(5, np.int8), np.arange(5.0), area=1, operating=(0, 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3000), st.integers(2, 50), st.integers(0, 2**32 - 1), st.booleans())
def test_thinned_keeps_ends_order_and_area(length, points, seed, perfect):
    rng = np.random.default_rng(seed)
    false, true = (np.concatenate([[0.0], np.sort(rng.random(length)), [1.0]]) for _ in range(2))
    if perfect:
        true[1:] = 1.0
    x, y = plots.thinned(false, true, points)
    assert 2 <= len(x) == len(y) <= max(points, 2)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()


def test_thinned_curve_of_many_rows_has_the_same_area():
    rng = np.random.default_rng(1)
    labels = (rng.random(200_000) < 0.01).astype(np.int8)
    scores = rng.normal(2 * labels, 1)
    x, y = plots.thinned(*metrics.roc_curve(labels, scores)[:2])
    assert len(x) <= plots.ROC_POINTS
    assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(metrics.auroc(labels, scores), abs=2e-3)


def test_the_precision_recall_curve_goes_from_none_to_all_and_tells_the_share():
    shown = texts(PLOTS["precision and recall"])
    assert {"AUPRC 0.8765", "at the threshold", f"share with tumor {LABELS.mean():.3f}"} <= set(shown)
    never = plots.precision_recall(LABELS, LOGITS, area=0.5, operating=None)
    assert "at the threshold" not in texts(never)
    with pytest.raises(ValueError, match="both classes"):
        plots.precision_recall(np.ones(3), np.zeros(3), area=0.5, operating=None)


def test_lesions_are_drawn_with_their_numbers_even_where_an_interval_misses_its_figure():
    shown = texts(PLOTS["lesions"])
    assert {"7 slices", "1,234 slices", "up to 50", "51 to 150"} <= set(shown)
    assert "nan" not in PLOTS["lesions"]


def test_the_band_that_is_referred_is_shown_where_there_is_one():
    assert "referred" in texts(PLOTS["class scores"])
    assert "referred" not in texts(PLOTS["scores"])


def test_histogram_names_classes_with_their_numbers():
    shown = texts(PLOTS["class scores"])
    assert f"tumor ({LABELS.sum():,})" in shown
    assert f"normal ({(1 - LABELS).sum():,})" in shown
    assert "threshold 0.5" in shown


@pytest.mark.parametrize("labels", [None, np.zeros(3, np.int8)], ids=["unknown", "one class"])
def test_histogram_of_few_slices(labels):
    assert "<svg" in plots.score_histogram(np.array([0.0, 0.5, 1.0], np.float32), labels, 0.5)


def test_throughput_tells_its_mean_and_what_was_quarantined():
    assert {"mean 250", "all", "quarantined", "minutes since the start"} <= set(texts(PLOTS["throughput"]))
    assert "over 400 seconds, 250 on average" in PLOTS["throughput"]
    clean = texts(plots.throughput(points(5, bad=0)))
    assert "quarantined" not in clean
    assert "seconds since the start" in clean
    assert "hours since the start" in texts(plots.throughput(points(200, every_s=100)))


def test_throughput_of_a_steady_run_is_a_flat_line_from_its_start():
    steady = plots.throughput(points(10, bad=0))
    (steps,) = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--first\)', steady)[:1]
    heights = {y for _, y in re.findall(r"[ML] ?([\d.]+) ([\d.]+)", steps)}
    assert len(heights) == 2  # the axis and the rate


def test_a_run_too_short_for_a_line_has_no_throughput():
    assert plots.throughput([]) is None
    assert plots.throughput(points(2)) is None
    assert plots.throughput(points(3)) is not None
    assert plots.throughput(points(3, every_s=0.0)) is None  # nothing was done, at once


def test_throughput_of_points_at_one_time_takes_the_last():
    twice = [*points(4, bad=0), points(5, bad=0)[4] | {"seconds": 8.0}]
    assert "over 8 seconds, 312 on average" in plots.throughput(twice)
    assert "nan" not in plots.throughput(twice)


def test_a_large_picture_is_made_smaller_in_its_shape():
    body = pictures.picture(np.zeros((600, 300), np.uint8)).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (pictures.PICTURE // 2, pictures.PICTURE)


def test_picture_keeps_every_pixel():
    pixels = RNG.integers(0, 256, (32, 48), dtype=np.uint8)
    head, _, body = pictures.picture(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


def test_what_is_cold_stays_as_it_is():
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    heat = np.zeros((16, 16), np.float32)
    heat[:8] = 1
    found = pictures.overlaid(picture, heat)
    assert found.shape == (16, 16, 3)
    assert np.array_equal(found[8:], np.repeat(picture[8:, :, None], 3, axis=2))
    assert np.abs(found[:8].astype(int) - picture[:8, :, None]).mean() > 30
