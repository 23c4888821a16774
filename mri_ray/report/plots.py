"""Plots as inline SVG: numbers in, text out, the same numbers giving the same bytes.

Colours are CSS variables of the page (`--ink`, `--faint`, `--first`, `--second`, `--paper`), so that one drawing suits
light and dark pages. Text stays text and takes the page's font. Matplotlib's settings are changed while drawing and put
back after it: draw from one thread at a time.
"""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from mri_ray import metrics

# Colours that stand for a variable of the page: drawn by matplotlib, then put in its place.
INK, FAINT, FIRST, SECOND, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", FAINT: "--faint", FIRST: "--first", SECOND: "--second", PAPER: "--paper"}

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # measured with the font that matplotlib brings, shown in the page's
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}

WIDTH_IN, HEIGHT_IN = 4.4, 3.1
ROC_POINTS = 300  # a curve of a page needs no more
BINS = 25
RATE_BINS = 40  # shards end in bursts; over so many parts of a run they even out


def learning_curves(history: Sequence[Mapping[str, Any]], best_epoch: int) -> list[str]:
    """Loss, accuracy, AUROC and Dice by epoch, one drawing each; history as in `facts.TrainingFacts`.

    A figure that is undefined in every epoch has no drawing.
    """
    panels = {
        "Loss": {"train": "train_loss", "validation": "validation_loss"},
        "Accuracy": {"train": "train_accuracy", "validation": "validation_accuracy"},
        "AUROC": {"validation": "validation_auroc"},
        "Dice of lesions": {"validation": "validation_dice"},
    }
    epochs = np.array([line["epoch"] for line in history])
    drawings = []
    for title, keys in panels.items():
        values = {side: np.array([line.get(key) for line in history], dtype=float) for side, key in keys.items()}
        if any(np.isfinite(line).any() for line in values.values()):
            drawings.append(_curve(title, epochs, values, best_epoch))
    return drawings


def _curve(title: str, epochs: np.ndarray, values: Mapping[str, np.ndarray], best_epoch: int) -> str:
    """values: (epochs,) by side, NaN where undefined."""
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of(title, "epoch", "")
        axes.axvline(best_epoch, color=FAINT, linewidth=1, linestyle=":", label=f"best epoch: {best_epoch}")
        for side, line in values.items():
            colour, style = (FIRST, "--") if side == "train" else (SECOND, "-")
            dots = 3 if len(epochs) < 40 else 0
            axes.plot(epochs, line, color=colour, linestyle=style, marker="o", markersize=dots, label=side)
        at = values["validation"][epochs == best_epoch]
        if len(at) and np.isfinite(at[0]):
            axes.plot(best_epoch, at[0], marker="o", markersize=8, color=SECOND, fillstyle="none")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend()
        return svg_of(figure, f"curve-{title}", f"{title} by epoch, {len(epochs)} epochs, the best is {best_epoch}")


def confusion(counts: Mapping[str, int]) -> str:
    """counts: tp, fp, tn, fn. Rows are the truth, columns the decision."""
    grid = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    truths = ["normal", "tumor"]
    share = grid / np.maximum(grid.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Confusion matrix", "decision", "truth")
        for row in range(2):
            for column in range(2):
                right = row == column
                axes.fill_between(
                    [column - 0.48, column + 0.48],
                    row - 0.48,
                    row + 0.48,
                    color=FIRST if right else SECOND,
                    alpha=0.08 + 0.5 * share[row, column],
                    linewidth=0,
                )
                axes.text(column, row - 0.08, f"{grid[row, column]:,}", ha="center", va="center", size=14)
                part = f"{100 * share[row, column]:.1f} % of {truths[row]}"
                axes.text(column, row + 0.22, part, ha="center", va="center", size=8)
        axes.set(xticks=[0, 1], yticks=[0, 1], xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
        axes.set_xticklabels(["negative", "positive"])
        axes.set_yticklabels(truths)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        alt = ", ".join(f"{name} {counts[name]}" for name in ("tp", "fp", "tn", "fn"))
        return svg_of(figure, "confusion", f"Confusion matrix: {alt}")


def roc(labels: ArrayLike, scores: ArrayLike, *, area: float, operating: tuple[float, float]) -> str:
    """area: below this curve. operating: false and true positive rate at the threshold in use.

    Raises ValueError with one class only.
    """
    false, true = thinned(*metrics.roc_curve(labels, scores)[:2])
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("ROC", "false positive rate (1 - specificity)", "sensitivity")
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        axes.plot(false, true, color=FIRST, label=f"AUROC {area:.4f}")
        axes.plot(*operating, marker="o", color=SECOND, linestyle="", label="at the threshold")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower right")
        return svg_of(figure, "roc", f"ROC curve with an area of {area:.4f}")


def precision_recall(
    labels: ArrayLike, scores: ArrayLike, *, area: float, operating: tuple[float, float] | None
) -> str:
    """area: average precision. operating: recall and precision at the threshold in use; None where none is positive.

    Raises ValueError with one class only.
    """
    precision, recall = (values[::-1] for values in metrics.precision_recall_curve(labels, scores))
    chosen = np.unique(np.searchsorted(recall, np.linspace(0, 1, ROC_POINTS)).clip(max=len(recall) - 1))
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Precision and recall", "sensitivity (recall)", "precision (PPV here)")
        share = float(np.mean(np.asarray(labels)))
        axes.axhline(share, color=FAINT, linewidth=1, linestyle=":", label=f"share with tumor {share:.3f}")
        axes.plot(recall[chosen], precision[chosen], color=FIRST, label=f"AUPRC {area:.4f}")
        if operating is not None:
            axes.plot(*operating, marker="o", color=SECOND, linestyle="", label="at the threshold")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower left")
        return svg_of(figure, "precision-recall", f"Precision-recall curve with an area of {area:.4f}")


def reliability(bins: Sequence[Mapping[str, Any]], side: str) -> str:
    """bins: of `metrics.reliability`. Dots grow with the number of slices; bars are Wilson's."""
    p, frequency, n = (np.array([entry[key] for entry in bins], float) for key in ("probability", "frequency", "n"))
    low, high = np.array([entry["frequency_interval"] for entry in bins]).T
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of(f"Reliability, {side} side", "mean probability in the bin", "share with tumor")
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        axes.errorbar(p, frequency, yerr=[frequency - low, high - frequency], fmt="none", ecolor=FIRST, elinewidth=1)
        axes.scatter(p, frequency, s=12 + 120 * n / n.max(), color=FIRST, alpha=0.7, linewidth=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        return svg_of(figure, "reliability", f"Share with tumor by mean probability in {len(p)} bins")


def lesions(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """rows: of `subgroups.Subgroups.lesions`. Bars over groups where there are enough, else Wilson's."""
    found = np.array([row["sensitivity"] for row in rows])
    low, high = np.array([row["sensitivity_bootstrap"] or row["sensitivity_interval"] for row in rows]).T
    places = np.arange(len(rows))
    with matplotlib.rc_context(STYLE):
        # The unit stands above: labels of two lines leave no room below.
        figure, axes = axes_of(f"Sensitivity by size of the lesion, {unit}", "", "")
        # A percentile interval need not hold the estimate itself.
        bars = [np.clip(found - low, 0, None), np.clip(high - found, 0, None)]
        axes.errorbar(places, found, yerr=bars, fmt="o", color=FIRST, ecolor=FIRST, elinewidth=1)
        axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(-0.02, 1.05), xticks=places)
        axes.set_xticklabels(
            [f"{row['name'].removesuffix(unit).strip()}\n{row['n']:,} slices" for row in rows], size=7.5
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        alt = ", ".join(f"{row['name']} {row['sensitivity']:.2f}" for row in rows)
        return svg_of(figure, "lesions", f"Sensitivity by size of the lesion: {alt}")


def thinned(false: np.ndarray, true: np.ndarray, points: int = ROC_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` of a ROC curve's K points, spread evenly along it, both ends kept."""
    if len(false) <= points:
        return false, true
    along = false + true  # never falls, from 0 to 2
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)).clip(max=len(along) - 1))
    chosen[0], chosen[-1] = 0, len(along) - 1
    return false[chosen], true[chosen]


def score_histogram(
    probabilities: ArrayLike,
    labels: ArrayLike | None,
    threshold: float,
    refer: tuple[float, float] | None = None,
) -> str:
    """With labels (1, 0) the share of each class by score, without them the number of slices on a log axis."""
    values = np.asarray(probabilities)
    edges = np.linspace(0, 1, BINS + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Scores", "probability of tumor", "slices" if labels is None else "share of its class")
        if labels is None:
            slices = np.histogram(values, edges)[0]
            axes.stairs(slices, edges, color=FIRST, fill=True, alpha=0.6)
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(0, 10 * max(slices.max(), 1))  # room for the legend
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        else:
            truth = np.asarray(labels)
            for label, name, colour in ((0, "normal", FIRST), (1, "tumor", SECOND)):
                mine = values[truth == label]
                if len(mine):
                    share = np.histogram(mine, edges)[0] / len(mine)
                    axes.stairs(share, edges, color=colour, fill=True, alpha=0.3)
                    axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{name} ({len(mine):,})")
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=":", label=f"threshold {threshold:.3g}")
        if refer is not None:
            axes.axvspan(*refer, color=FAINT, alpha=0.25, linewidth=0, label="referred")
        axes.set_xlim(0, 1)
        axes.legend(loc="upper center")
        return svg_of(
            figure,
            "scores" if labels is None else "class-scores",
            f"Distribution of the probability of tumor over {len(values):,} slices",
        )


def throughput(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Objects per second over a run, those quarantined apart; None for fewer than three points.

    history: as in `facts.ScoringFacts`.
    """
    if len(history) < 3:
        return None
    points = np.array([[line[name] for name in ("seconds", "objects", "quarantined")] for line in history], float)
    points = np.concatenate([np.zeros((1, 3)), points])
    points = points[np.diff(points[:, 0], append=np.inf) > 0]  # of several at one time the last
    end = points[-1, 0]
    if end <= 0:
        return None
    edges = np.linspace(0, end, min(RATE_BINS, len(history)) + 1)
    every, bad = (np.diff(np.interp(edges, points[:, 0], points[:, k])) / np.diff(edges) for k in (1, 2))
    unit, seconds = ("seconds", 1) if end < 180 else ("minutes", 60) if end < 180 * 60 else ("hours", 3600)
    mean = points[-1, 1] / end
    told = f"{mean:,.0f}" if mean >= 10 else f"{mean:.2g}"
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Throughput", f"{unit} since the start", "objects per second")
        axes.stairs(every, edges / seconds, color=FIRST, fill=True, alpha=0.6, label="all")
        if bad.any():
            axes.stairs(bad, edges / seconds, color=SECOND, fill=True, label="quarantined")
        axes.axhline(mean, color=INK, linewidth=1, linestyle=":", label=f"mean {told}")
        axes.set(xlim=(0, end / seconds), ylim=(0, 1.35 * max(every.max(), 1e-9)))  # room for the legend
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(loc="upper center", ncols=3)
        return svg_of(figure, "throughput", f"Objects per second over {end:,.0f} seconds, {told} on average")


def axes_of(title: str, x: str, y: str, *, wide: bool = False) -> tuple[Figure, Axes]:
    """An empty drawing; wide: as wide as the page."""
    figure = Figure(figsize=(2.4 * WIDTH_IN if wide else WIDTH_IN, HEIGHT_IN))
    axes = figure.add_axes(
        (0.02, 0.14, 0.96, 0.77) if wide else (0.17, 0.14, 0.81, 0.77)
    )  # fixed: fitting to the texts takes longer than drawing
    axes.set(title=title, xlabel=x, ylabel=y)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def svg_of(figure: Figure, name: str, alt: str) -> str:
    """The figure as an element of a page; `name` keeps its ids apart from those of other drawings there."""
    held = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(held, metadata={"Date": None})
    text = held.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>", "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # numbers that every drawing shares
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    body = text[text.index(">") + 1 :]
    return f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{box[1]}">{body}'.replace("\n", "")
