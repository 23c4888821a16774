"""The network alone, against the rate at which this machine computes convolutions: one process a core, or one for all.

The limit is that of the fastest of some large convolutions at the same precision, measured in turn with the network in
the same processes, so that clock and neighbours are the same for both.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.by_hand import KEPT
from tests.benchmarks.measure import ROOT

_CONVOLUTIONS = ((64, 56), (128, 28), (256, 28), (512, 14))  # channels, side; 3 x 3, batches of 8
_BATCH = 8


def measure(bundle: Path, seconds: float) -> list[dict[str, Any]]:
    """Processes, their threads, and of all together: images_per_s by engine, gflops_limit, percent of it by engine."""
    cores = os.cpu_count() or 1
    return [_measured(bundle, seconds, processes, cores // processes) for processes in dict.fromkeys((cores, 1))]


def _measured(bundle: Path, seconds: float, processes: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.forward", str(bundle), str(seconds), str(threads)]
    given = os.environ | KEPT | {"OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    limit = sum(one["gflops_limit"] for one in found)
    gflops = {engine: sum(one["gflops"][engine] for one in found) for engine in found[0]["gflops"]}
    gflop = found[0]["gflop"]
    return {
        "processes": processes,
        "threads": threads,
        "precision": found[0]["precision"],
        "gflop": round(gflop, 4),
        "gflops_limit": round(limit, 1),
        "images_per_s": {engine: round(rate / gflop, 1) for engine, rate in gflops.items()},
        "percent": {engine: round(100 * rate / limit, 1) for engine, rate in gflops.items()},
    }


def main(bundle: str, seconds: str, threads: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mri_ray.archive.storage import Location
    from mri_ray.learn.bundle import load, module
    from mri_ray.learn.device import autocast, choose_device, choose_precision, place
    from mri_ray.predict.quick import quickened
    from mri_ray.predict.vino import Compiled, is_there
    from mri_ray.predict.winograd import Winograd

    torch.set_num_threads(int(threads))
    device = choose_device()
    precision = choose_precision("auto", device)
    found = load(Location.of(bundle))
    net = place(quickened(module(found)), device)
    compiled = Compiled(found, batch=_BATCH, threads=int(threads)) if is_there() else None

    def channels_last(channels: int, side: int) -> torch.Tensor:
        return torch.rand(_BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)

    images = channels_last(1, found.prepare.size)
    work: dict[str, tuple[Callable[[], object], float]] = {}
    with torch.inference_mode(), autocast(precision, device):
        with FlopCounterMode(display=False) as counter:
            module(found)(images)  # as it was trained: what makes it faster is no work
        flop = counter.get_total_flops()
        work["torch"] = (lambda: net(images), flop)
        if compiled is not None:
            whole = (images * 255).byte().numpy()
            work["openvino"] = (lambda: compiled.answers(whole), flop)
        if str(precision) == "fp32" and found.model.name == "cnn":
            winograd = Winograd(found, threads=int(threads))
            work["ncnn"] = (lambda: winograd(images), flop)
        engines = list(work)
        for channels, side in _CONVOLUTIONS:
            layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            layer = layer.to(memory_format=torch.channels_last)
            given = channels_last(channels, side)
            if str(precision) == "bf16":
                layer, given = layer.bfloat16(), given.bfloat16()  # the limit pays for no casts
            work[f"{channels} x {side}"] = (
                lambda layer=layer, given=given: layer(given),
                2 * 9 * channels**2 * side**2 * _BATCH,
            )
        rates = _rates(work, float(seconds))
    limit = max(rate for name, rate in rates.items() if name not in engines)
    gflops = {engine: rates[engine] for engine in engines}
    values = {"precision": str(precision), "gflop": flop / _BATCH / 1e9, "gflops_limit": limit, "gflops": gflops}
    print(json.dumps(values))


def _rates(work: dict[str, tuple[Callable[[], object], float]], seconds: float) -> dict[str, float]:
    """Median GFLOP/s of each, in turns of a tenth of a second."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for run, _ in work.values():
        run()
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(taken.values()):
        for name, (run, flop) in work.items():
            times, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < 0.1 or not times:
                run()
                times += 1
            taken[name].append(flop * times / elapsed / 1e9)
    return {name: median(rates) for name, rates in taken.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
