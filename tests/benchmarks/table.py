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
    """Medians over the repeats, and through those at two sizes a line: what a start costs, and what an object.

    Of one size there is no line, and of too few files one may fall: then there is no rate.
    """
    own = [run for run in runs if (run.variant, run.contestant) == (variant, contestant)]
    at = {size: [run.measured for run in own if run.size == size] for size in sorted({run.size for run in own})}
    wall, cpu, peak = (
        {size: median(getattr(one, name) for one in measured) for size, measured in at.items()}
        for name in ("wall_s", "cpu_s", "peak_mb")
    )
    (fixed, slope), (fixed_cpu, cpu_slope) = _line(wall), _line(cpu)
    rounds = [{size: one.wall_s for size, one in zip(at, pair, strict=True)} for pair in zip(*at.values(), strict=True)]
    rates = [1 / each for each in (_line(walls)[1] for walls in rounds) if each is not None and each > 0]
    return {
        "contestant": contestant,
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": peak,
        "rate": 1 / slope if slope is not None and slope > 0 else None,
        "rate_range": [min(rates), max(rates)] if len(rates) > 1 else None,
        "fixed_s": fixed,
        "cpu_s_per_1000": None if cpu_slope is None else 1000 * cpu_slope,
        "fixed_cpu_s": fixed_cpu,
        "other_cores": median(run.measured.other_cores for run in own),
        "difference": max((run.difference for run in own if run.difference is not None), default=None),
    }


def _line(values: dict[int, float]) -> tuple[float | None, float | None]:
    """Value at size 0 and rise an object, from values by size."""
    if len(values) < 2:
        return None, None
    (few, low), (many, high) = values.items()
    each = (high - low) / (many - few)
    return low - each * few, each


def page(facts: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> str:
    """The machine, the network alone, and a table a variant; repeats: the rounds done so far."""
    parts = ["; ".join(f"{name} {value}" for name, value in facts["machine"].items()), _alone(facts["forward"])]
    for variant, found in rows.items():
        parts.append(f"## {variant}, medians of {facts['repeats']}")
        if variant in facts["server"]:
            parts.append(f"The server alone, to one process of 16 threads: {facts['server'][variant]:,.0f} objects/s.")
        parts.append(markdown(found))
    return "\n\n".join(parts) + "\n"


def _alone(found: Sequence[dict[str, Any]]) -> str:
    first = found[0]
    lines = [
        f"The network alone, {first['gflop']:.3f} GFLOP an image, {first['precision']}:",
        "",
        "| processes x threads | engine | images/s | GFLOP/s of the fastest convolution | its share of that |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        lines += [
            f"| {one['processes']} x {one['threads']} | {engine} | {rate:,.0f} | {one['gflops_limit']:,.0f} "
            f"| {one['percent'][engine]:.0f} % |"
            for engine, rate in one["images_per_s"].items()
        ]
    return "\n".join(lines)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line a contestant; "(a) is" tells how many times as fast (a) is, by the rates without start-up."""
    sizes = list(rows[0]["wall_s"])
    names = ["contestant", "objects/s (lowest, highest)", "(a) is", "start s", "CPU-s per 1,000", "start CPU-s"]
    names += [f"{what}, {size:,}" for what in ("wall s", "peak MB") for size in sizes]
    names += ["largest difference of p", "cores others used"]
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
            *(_number(value, 1) for value in row["wall_s"].values()),
            *(_number(value, 0) for value in row["peak_mb"].values()),
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
