"""How much memory a scoring takes, process by process, for archives of several sizes: it must not grow with them.

    python -m tests.benchmarks.memory sizes=10000,100000

in the project's folder, on Linux. The objects are PNG files of 64x64 pixels, no two alike, and the model is tiny, so
that there are many of them in a short time. Weighed every second: each process by its resident memory without what it
shares with others through Ray (its libraries count whole, whoever else has loaded them), all together by their
proportional set sizes.

Prints a Markdown table; writes it below `output`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError
from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.prepare.settings import PrepareConfig
from tests.benchmarks import table
from tests.benchmarks.measure import ROOT, descendants, pss_kb

_SIDE, _INPUT = 64, 32
_FOLDER = 1000  # files


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The scoring's memory for archives of several sizes, parted by commas, ascending."""

    sizes: int | str = "10000,100000"
    output: str = "out/benchmarks"

    def __post_init__(self) -> None:
        sizes = str(self.sizes).split(",")
        if not all(size.isdigit() for size in sizes) or any(int(a) >= int(b) for a, b in pairwise(sizes)):
            raise ConfigError(f"sizes: must be ascending whole numbers, parted by commas, got {self.sizes!r}")


def run(settings: Memory) -> str:
    """Score an archive of each size; raises RuntimeError when a scoring fails."""
    peaks: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mem-") as folder:
        root = Path(folder)
        model = ModelConfig(input_size=_INPUT, width=2, blocks=3, dense=4)
        made = Bundle(model=model, prepare=PrepareConfig(size=_INPUT), weights=build(model, seed=1).state_dict())
        bundles.save(made, Location.of(str(root / "bundle")))
        begin = 0
        for size in map(int, str(settings.sizes).split(",")):
            _add(root / "archive", begin, size)
            begin = size
            peaks[size] = _peaks(root, size)
            print(size, peaks[size], flush=True)
    text = _markdown(peaks)
    Path(settings.output).mkdir(parents=True, exist_ok=True)
    (Path(settings.output) / "memory.md").write_text(text)
    return text


def _add(archive: Path, begin: int, end: int) -> None:
    rng = np.random.default_rng(begin)
    y, x = np.indices((_SIDE, _SIDE))
    head = 150.0 * ((x - _SIDE / 2) ** 2 + (y - _SIDE / 2) ** 2 < (_SIDE / 3) ** 2)
    for number in range(begin, end):
        if number % _FOLDER == 0:
            (archive / f"{number // _FOLDER:05d}").mkdir(parents=True)
        pixels = head + rng.integers(0, 60, (_SIDE, _SIDE))
        buffer = BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG", compress_level=1)
        (archive / f"{number // _FOLDER:05d}" / f"{number:07d}.png").write_bytes(buffer.getvalue())


def _peaks(root: Path, size: int) -> dict[str, float]:
    """The job's seconds, and the most MB of each kind of process; of workers also all of them together."""
    pairs = {"archive": root / "archive", "bundle": root / "bundle", "output": root / f"output-{size}"}
    fields = [f"{name}={value}" for name, value in (pairs | {"ray.temp_dir": root / "ray"}).items()]
    command = [sys.executable, "-m", "jobs.score", "--config", "configs/score.yaml", *fields]
    found: dict[str, float] = {}
    began = time.monotonic()
    with open(root / f"log-{size}", "wb") as log:
        job = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ)
        while job.poll() is None:
            family = [("driver", job.pid), *_below(job.pid)]
            for kind, pid in family:
                found[kind] = max(found.get(kind, 0), _resident_mb(pid))
            found["all together"] = max(found.get("all together", 0), sum(pss_kb(pid) for _, pid in family) / 1024)
            time.sleep(1)
    if job.returncode:
        raise RuntimeError((root / f"log-{size}").read_text(errors="replace")[-3000:])
    return {"seconds": time.monotonic() - began} | found


def _below(driver: int) -> Iterator[tuple[str, int]]:
    """The kind and id of all processes that descend from the driver."""
    for pid, _ in descendants(driver):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            name = title.rpartition("/")[2]
            if title.startswith("ray::"):
                yield ("a worker" if title.startswith("ray::_done") else "another process of Ray's pool"), pid
            else:
                yield (name if name in ("raylet", "gcs_server") else "another process"), pid


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line[1]) for line in lines if line and line[0] in ("RssAnon:", "RssFile:")) / 1024
    return 0.0  # it has ended meanwhile


def _markdown(peaks: dict[int, dict[str, float]]) -> str:
    sizes = list(peaks)
    lines = [f"| most MB | {' | '.join(f'{size:,} objects' for size in sizes)} | the last to the first |"]
    lines.append(f"|---|{'---:|' * (len(sizes) + 1)}")
    for kind in dict.fromkeys(kind for found in peaks.values() for kind in found):
        values = [peaks[size].get(kind, 0.0) for size in sizes]
        ratio = f"{values[-1] / values[0]:.3f}" if kind != "seconds" and values[0] else "-"
        lines.append(f"| {kind} | {' | '.join(f'{value:,.0f}' for value in values)} | {ratio} |")
    machine = "; ".join(f"{name} {value}" for name, value in table.machine().items())
    return f"{machine}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parse: Callable[..., Memory] = config.from_argv
    try:
        settings = parse(Memory)
    except ConfigError as exc:
        raise SystemExit(str(exc)) from exc
    print(run(settings))


if __name__ == "__main__":
    main()
