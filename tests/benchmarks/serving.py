"""The endpoint beside a plain FastAPI server around the same network, on one machine.

    python -m tests.benchmarks.serving bundle=URI data=FOLDER [seconds=20 repeats=3]

In turns: the endpoint (`jobs.serve`), a server as users write it (fp32, eager, no batching), one with torch at our
precision, and one with our decoding and network; each asked by 1, 8 and 64 clients of a process apart, one picture a
request. Then the endpoint at three times what it answered to 64, and again at half of it: what it sheds, how fast, and
whether it recovers. At last an app that answers at once, alone and behind Serve, asked by one client: the difference is
what Serve itself costs. Prints Markdown.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mri_ray import fields
from tests.benchmarks.table import machine

_CLIENTS = (1, 8, 64)
_START_S = 120
_OVERLOAD = 3
_HOP = {"nothing, alone": "plain", "nothing, behind Serve": "serve"}
_WARM_S = {"endpoint": 30.0, "fp32": 5.0, "torch": 5.0, "ours": 5.0}  # the endpoint's replicas come with it


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """replicas: of the endpoint, None: as many as its load brings. data: a folder whose pictures are sent."""

    bundle: str
    data: str
    seconds: float = 20
    repeats: int = 3
    replicas: int | None = None
    files: int = 200


def command(server: str, settings: Benchmark, port: int, temp: str) -> list[str]:
    if server == "endpoint":
        given = [f"bundle={settings.bundle}", f"port={port}", f"ray.temp_dir={temp}"]
        given += [f"replicas={settings.replicas}"] if settings.replicas else []
        return [sys.executable, "-m", "jobs.serve", *given]
    if server in _HOP:
        return [sys.executable, "-m", "tests.benchmarks.serving_hop", str(port), _HOP[server], temp]
    return [sys.executable, "-m", "tests.benchmarks.serving_peer", settings.bundle, str(port), server]


@contextmanager
def running(server: str, settings: Benchmark) -> Iterator[tuple[int, float]]:
    """Its port, and after how many seconds it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    temp = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: a path of sockets
    began = time.monotonic()
    process = subprocess.Popen(
        command(server, settings, port, temp), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > began + _START_S:
                raise RuntimeError(f"{server}: must be ready within {_START_S} s, got exit code {process.returncode}")
            time.sleep(0.1)
        yield port, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=_START_S)
        shutil.rmtree(temp, ignore_errors=True)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False


def ask(port: int, folder: Path, seconds: float, how: str, amount: float) -> dict[str, Any]:
    """What `serving_clients` tells."""
    given = [str(port), str(folder), str(seconds), how, f"{amount:g}"]
    command = [sys.executable, "-m", "tests.benchmarks.serving_clients", *given]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout)


def run(settings: Benchmark) -> str:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    starts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        found = sorted(path for path in Path(settings.data).rglob("*") if path.suffix in (".png", ".jpg"))
        for path in found[:: max(1, len(found) // settings.files)]:
            shutil.copy(path, folder / f"{len(list(folder.iterdir())):06d}")
        for _ in range(settings.repeats):
            for server in _WARM_S:
                with running(server, settings) as (port, start):
                    starts.setdefault(server, []).append(start)
                    ask(port, folder, _WARM_S[server], "closed", 8)
                    for clients in _CLIENTS:
                        told = ask(port, folder, settings.seconds, "closed", clients)
                        rows.setdefault((server, f"{clients} clients"), []).append(told)
                    if server == "endpoint":
                        capacity = told["per_s"]
                        for name, factor in ((f"{_OVERLOAD} x capacity", _OVERLOAD), ("after that, half", 0.5)):
                            told = ask(port, folder, settings.seconds, "open", factor * capacity)
                            rows.setdefault((server, name), []).append(told)
            for server in _HOP:
                with running(server, settings) as (port, _):
                    ask(port, folder, 3, "closed", 1)
                    told = ask(port, folder, settings.seconds, "closed", 1)
                    rows.setdefault((server, "1 clients"), []).append(told)
    return _table(rows, starts)


def _table(rows: dict[tuple[str, str], list[dict[str, Any]]], starts: dict[str, list[float]]) -> str:
    names = ("per_s", "p50_ms", "p99_ms", "shed_p50_ms", "shed_p99_ms")
    lines = [
        f"{json.dumps(machine())}\n",
        "| server | load | answered/s | p50 ms | p99 ms | shed p50 ms | shed p99 ms | statuses |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for (server, load), told in rows.items():
        known = [[one[name] for one in told if name in one] for name in names]
        cells = [f"{median(values):g}" if values else "" for values in known]
        lines.append(f"| {server} | {load} | {' | '.join(cells)} | {told[-1]['statuses']} |")
    lines += [f"\n{server}: ready after {median(times):.1f} s" for server, times in starts.items()]
    return "\n".join(lines)


def main() -> None:
    given = dict(pair.split("=", 1) for pair in sys.argv[1:])
    print(run(fields.build(Benchmark, given)))


if __name__ == "__main__":
    main()
