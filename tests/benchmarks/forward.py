"""The network alone, against the rate at which this machine computes convolutions; one process a core, all at once.

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

from tests.benchmarks.measure import ROOT

_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "OMP_NUM_THREADS": "1"}
_CONVOLUTIONS = ((64, 56), (128, 28), (256, 28), (512, 14))  # channels, side; 3 x 3, batches of 8
_BATCH = 8


def measure(bundle: Path, seconds: float) -> dict[str, float | str]:
    """images_per_s and gflops_limit of the whole machine, gflop of an image, percent of the limit, precision."""
    command = [sys.executable, "-m", "tests.benchmarks.forward", str(bundle), str(seconds)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | _KEPT, stdout=subprocess.PIPE, text=True)
        for _ in range(os.cpu_count() or 1)
    ]
    found = [json.loads(process.communicate()[0]) for process in processes]
    images, limit = (sum(one[name] for one in found) for name in ("images_per_s", "gflops_limit"))
    gflop = found[0]["gflop"]
    return {
        "precision": found[0]["precision"],
        "processes": len(found),
        "gflop": round(gflop, 4),
        "images_per_s": round(images, 1),
        "gflops_limit": round(limit, 1),
        "percent": round(100 * images * gflop / limit, 1),
    }


def main(bundle: str, seconds: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mri_ray.archive.storage import Location
    from mri_ray.learn.bundle import load, module
    from mri_ray.learn.device import autocast, choose_device, choose_precision, place
    from mri_ray.predict.quick import quickened

    torch.set_num_threads(1)
    device = choose_device()
    precision = choose_precision("auto", device)
    found = load(Location.of(bundle))
    net = place(quickened(module(found)), device)

    def channels_last(channels: int, side: int) -> torch.Tensor:
        return torch.rand(_BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)

    images = channels_last(1, found.prepare.size)
    work: dict[str, tuple[Callable[[], object], float]] = {}
    with torch.inference_mode(), autocast(precision, device):
        with FlopCounterMode(display=False) as counter:
            module(found)(images)  # as it was trained: what makes it faster is no work
        flop = counter.get_total_flops()
        work["network"] = (lambda: net(images), flop)
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
    limit = max(rate for name, rate in rates.items() if name != "network")
    values = {"precision": str(precision), "gflop": flop / _BATCH / 1e9, "gflops_limit": limit}
    print(json.dumps(values | {"images_per_s": rates["network"] * 1e9 / flop * _BATCH}))


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
