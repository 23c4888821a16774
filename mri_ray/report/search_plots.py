"""Drawings of a search: how it went, what mattered, what quality costs. Numbers in, SVG out (see `plots`)."""

import json
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from mri_ray.report.plots import FAINT, FIRST, INK, SECOND, STYLE, axes_of, svg_of
from mri_ray.search.trials import State, Trial, best_so_far, front, usable

_AXES_MOST = 8  # of parallel coordinates: more cannot be read
_NAMED = 24  # characters of a setting's name or value


def history(trials: Sequence[Trial], winner: int) -> str:
    """Each trial's best validation AUROC in the order that they began, and the best until then."""
    lines = [(number, mine, best) for number, mine, best in best_so_far(trials) if mine is not None]
    numbers, mine, best = (np.array(values, float) for values in zip(*lines, strict=True))
    ended = {one.number: one.state for one in trials}
    done = np.array([ended[int(number)] == State.DONE for number in numbers])
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Validation AUROC by trial", "trial", "")
        axes.step(numbers, best, where="post", color=FIRST, linewidth=1.2, label="best so far")
        axes.plot(numbers[done], mine[done], "o", color=FIRST, markersize=4.5, label="ran to its end")
        if (~done).any():
            axes.plot(numbers[~done], mine[~done], "x", color=SECOND, markersize=5, label="stopped early")
        at = numbers == winner
        axes.plot(numbers[at], mine[at], "o", color=INK, markersize=10, fillstyle="none", label="the winner")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.45 * (high - low), high)  # room for the legend
        axes.legend(loc="lower right", ncols=2)
        return svg_of(
            figure, "search-history", f"Validation AUROC of {len(lines)} trials, the best is {mine.max():.4f}"
        )


def curves(trials: Sequence[Trial], winner: int, *, folds: bool) -> str:
    """Validation AUROC by epoch (or by folds so far) of every trial; where one was stopped, a cross."""
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of(
            "Learning curves of all trials", "folds so far" if folds else "epoch", "validation AUROC"
        )
        stopped = 0
        for one in sorted(usable(trials), key=lambda trial: trial.number == winner):
            told = [line for line in one.history if line.get("validation_auroc") is not None]
            epochs = [line["epoch"] for line in told]
            areas = [line["validation_auroc"] for line in told]
            best = one.number == winner
            label = f"trial {one.name}, the winner" if best else None
            axes.plot(epochs, areas, color=FIRST if best else FAINT, linewidth=2 if best else 0.9, label=label)
            early = one.state in (State.STOPPED, State.CUT)
            stopped += early
            if early:
                axes.plot(epochs[-1:], areas[-1:], "x", color=SECOND, markersize=6)
            elif len(epochs) == 1:
                axes.plot(epochs, areas, "o", color=FIRST if best else FAINT, markersize=3)
        if stopped:
            axes.plot([], [], "x", color=SECOND, label=f"stopped early: {stopped}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(loc="lower right")
        return svg_of(
            figure, "search-curves", f"Learning curves of {len(usable(trials))} trials, {stopped} stopped early"
        )


def importance(shares: Mapping[str, float]) -> str | None:
    """Bars, the most important above; None where nothing is known."""
    if not shares:
        return None
    paths = sorted(shares, key=lambda path: shares[path])[-12:]
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("What explains the differences", "share of the variance of AUROC", "")
        axes.set_position((0.42, 0.14, 0.54, 0.77))
        axes.barh(range(len(paths)), [shares[path] for path in paths], color=FIRST, height=0.6)
        axes.set_yticks(range(len(paths)), [_cut(path) for path in paths])
        axes.set_xlim(0, max(1e-9, max(shares.values())) * 1.15)
        for place, path in enumerate(paths):
            axes.text(shares[path], place, f" {shares[path]:.2f}", va="center", size=8)
        told = ", ".join(f"{path} {shares[path]:.2f}" for path in reversed(paths))
        return svg_of(figure, "search-importance", f"Importance of settings: {told}")


def pareto(trials: Sequence[Trial], winner: int) -> str | None:
    """AUROC against milliseconds an image; None where that is the same for all."""
    told = [one for one in usable(trials) if one.ms_per_image is not None]
    if len({one.ms_per_image for one in told}) < 2:
        return None
    best = front(told)
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Quality and cost", "milliseconds an image, one core", "validation AUROC")
        axes.plot(*_costs(told), "o", color=FAINT, markersize=4)
        axes.step(
            *_costs(best),
            where="post",
            color=FIRST,
            marker="o",
            markersize=5,
            label="no other is better in both",
        )
        chosen = _costs([one for one in told if one.number == winner])
        axes.plot(*chosen, "o", color=INK, markersize=10, fillstyle="none", label="the winner")
        axes.legend(loc="lower right")
        return svg_of(figure, "search-front", f"Front of {len(best)} among {len(told)} trials")


def _costs(told: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([one.ms_per_image for one in told], float), np.array([one.auroc for one in told], float)


def parallel(trials: Sequence[Trial], paths: Sequence[str], winner: int) -> str | None:
    """A line a trial over its settings and its AUROC, darker the better; None without two trials."""
    told = sorted(usable(trials), key=lambda one: one.auroc or 0.0)
    shown = [path for path in paths if len({json.dumps(one.settings.get(path)) for one in told}) > 1][:_AXES_MOST]
    if len(told) < 2 or not shown:
        return None
    columns = [[one.settings.get(path) for one in told] for path in shown] + [[one.auroc for one in told]]
    scaled = [_scaled(column) for column in columns]
    heights = np.array([column for column, _ in scaled]).T
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of("Settings of each trial, and what came of it", "", "", wide=True)
        x = np.arange(len(columns))
        for rank, (one, line) in enumerate(zip(told, heights, strict=True)):
            best = one.number == winner
            alpha = 1.0 if best else 0.15 + 0.6 * rank / len(told)
            axes.plot(x, line, color=SECOND if best else FIRST, alpha=alpha, linewidth=2.4 if best else 1.1)
        for place, (_, marks) in enumerate(scaled):
            axes.axvline(place, color=FAINT, linewidth=0.8)
            for height, text in marks:
                axes.annotate(text, (place, height), (3, 0), textcoords="offset points", size=7, va="center")
        axes.set(xticks=x, yticks=[], ylim=(-0.06, 1.06), xlim=(-0.2, len(columns) - 0.6))
        axes.set_xticklabels([*(_cut(path.partition(".")[2]) for path in shown), "AUROC"], size=8)
        axes.spines[:].set_visible(False)
        return svg_of(figure, "search-parallel", f"Parallel coordinates of {len(told)} trials over {', '.join(shown)}")


def _scaled(values: Sequence[object]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights from 0 to 1, and marks beside the axis. What a trial does not set lies at the foot."""
    told = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in told):
        numbers = np.array([np.nan if value is None else value for value in values], float)
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        if low > 0 and high / low >= 20:
            heights = np.log(numbers / low) / np.log(high / low)
        else:
            heights = (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
        marks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.5, f"{low:.3g}")]
        return np.nan_to_num(heights, nan=-0.05), marks
    known = sorted({json.dumps(value) for value in told})
    place = {text: k / max(1, len(known) - 1) for k, text in enumerate(known)}
    heights = np.array([-0.05 if value is None else place[json.dumps(value)] for value in values])
    return heights, [(height, _cut(text.strip('"'))) for text, height in place.items()]


def _cut(text: str) -> str:
    return text if len(text) <= _NAMED else f"{text[: _NAMED - 1]}\N{HORIZONTAL ELLIPSIS}"
