"""Measured runs -> medians, the line through them, ratios against (a); as Markdown."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.measure import Measured

_LIBRARIES = ("ray", "torch", "torchvision", "pyarrow", "pillow", "opencv-python-headless", "numpy")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One contestant's run over one archive. difference: of its answers, against those it should be like."""

    variant: str
    contestant: str
    size: int
    repeat: int
    measured: Measured
    difference: float | None


def summary(runs: Sequence[Run], variant: str, contestant: str) -> dict[str, Any]:
    """Medians over the repeats, and through those at both sizes a line: what a start costs, and what an object."""
    own = [run for run in runs if (run.variant, run.contestant) == (variant, contestant)]
    few, many = sorted({run.size for run in own})
    at = {size: [run.measured for run in own if run.size == size] for size in (few, many)}
    wall, cpu = ({size: median(getattr(m, name) for m in at[size]) for size in at} for name in ("wall_s", "cpu_s"))
    slope, cpu_slope = ((line[many] - line[few]) / (many - few) for line in (wall, cpu))
    rates = [
        (many - few) / (m.wall_s - f.wall_s) for f, m in zip(at[few], at[many], strict=True) if m.wall_s > f.wall_s
    ]
    return {
        "contestant": contestant,
        "wall_s": wall,
        "rate": 1 / slope if slope > 0 else None,  # of too few files a line says nothing
        "rate_range": [min(rates), max(rates)] if rates else None,
        "fixed_s": wall[few] - slope * few,
        "cpu_s_per_1000": 1000 * cpu_slope,
        "fixed_cpu_s": cpu[few] - cpu_slope * few,
        "peak_mb": median(m.peak_mb for m in at[many]),
        "other_cores": median(m.other_cores for m in (*at[few], *at[many])),
        "difference": max((run.difference for run in own if run.difference is not None), default=None),
    }


def page(facts: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> str:
    """The machine, the network alone, and a table a variant."""
    alone = facts["forward"]
    parts = [
        "; ".join(f"{name} {value}" for name, value in facts["machine"].items()),
        (
            f"Network alone, {alone['processes']} processes, {alone['precision']}: {alone['images_per_s']:,.0f} "
            f"images/s of {alone['gflop']:.3f} GFLOP, {alone['percent']:.0f} % of the {alone['gflops_limit']:,.0f} "
            "GFLOP/s of the fastest convolution."
        ),
    ]
    for variant, found in rows.items():
        repeats = facts["settings"]["repeats"]
        parts += [f"## {variant}, medians of {repeats}", markdown(found)]
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line a contestant; "of (a)" is (a)'s marginal rate as a multiple of this one's."""
    few, many = rows[0]["wall_s"]
    names = ["contestant", "objects/s (lowest, highest)", "(a) is", "start s", "CPU-s per 1,000", "start CPU-s"]
    names += ["peak MB", f"wall s, {few:,}", f"wall s, {many:,}", "largest difference of p", "cores others used"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    ours = next((row["rate"] for row in rows if row["contestant"] == "a"), None)
    for row in rows:
        contestant = CONTESTANTS[row["contestant"]]
        spread = row["rate_range"]
        cells = [
            f"({row['contestant']}) {contestant.title}",
            _number(row["rate"], 0) + (f" ({spread[0]:.0f}, {spread[1]:.0f})" if spread else ""),
            f"{ours / row['rate']:.2f} x" if ours and row["rate"] else "-",
            *(_number(row[name], 1) for name in ("fixed_s", "cpu_s_per_1000", "fixed_cpu_s")),
            _number(row["peak_mb"], 0),
            *(_number(wall, 1) for wall in row["wall_s"].values()),
            "-" if row["difference"] is None else f"{row['difference']:.1e} to ({contestant.like})",
            _number(row["other_cores"], 2),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    fast = sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16"} & set(facts.get("flags", "").split()))
    return {
        "processor": facts.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "instructions": fast,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }
