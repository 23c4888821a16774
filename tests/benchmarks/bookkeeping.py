"""What the driver of a scoring does beside waiting, over archives of several sizes that are only told of.

    python -m tests.benchmarks.bookkeeping sizes=10000,100000,1000000

in the project's folder, on Linux. Nothing is decoded or predicted: the listing is made up (`synthetic`), and so are the
results of the shards. Every pass runs in a process of its own, over what the passes before it have left on local disk;
its peak is that of the process, the modules it has loaded included ("start" tells how much that is).

Prints a Markdown table; writes it, and the figures as JSON, below `output`.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mri_ray import config
from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError
from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.on_ray import cluster, score
from mri_ray.on_ray.settings import ClusterSettings, ScoreRun, ShardSettings
from mri_ray.predict import snapshot
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report import pages
from tests.benchmarks import synthetic, table

_CUT = {"shard_objects": ShardSettings().objects, "shard_bytes": ShardSettings().megabytes * 2**20}


@dataclass(frozen=True, kw_only=True)
class Bookkeeping:
    """The driver's passes over archives of several sizes; sizes are split at commas."""

    sizes: int | str = "10000,100000,1000000"
    output: str = "out/benchmarks"

    def __post_init__(self) -> None:
        if not all(size.isdigit() and int(size) >= 1000 for size in str(self.sizes).split(",")):
            raise ConfigError(f"sizes: must be whole numbers of at least 1000, parted by commas, got {self.sizes!r}")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """seconds, cpu_s: of the pass alone, of all threads. start_mb, peak_mb: resident memory before it, and at most."""

    seconds: float
    cpu_s: float
    start_mb: float
    peak_mb: float


class Driver:
    """The passes of a run over an archive of so many objects that keeps its books below a folder."""

    def __init__(self, folder: str, objects: int) -> None:
        self.root = Location.of(folder)
        self.objects = objects
        self.manifest = Manifest(self.root / "manifest")
        self.results = self.root / "results" / "generation"

    def list(self, day: int = 0) -> None:
        for _ in synthetic.Archive(objects=self.objects, day=day).pages():
            pass

    def update(self, day: int) -> None:
        update = self.manifest.update(synthetic.Archive(objects=self.objects, day=day).pages(), **_CUT)
        assert update.new + update.known == self.objects

    def plan(self) -> None:
        """What `Job.take_stock` and `score_shards.score_all` ask."""
        pinned = self.manifest.pinned()
        self.manifest.add_retry(outputs.to_retry(pinned, self.results), **_CUT)
        outputs.missing(self.manifest.pinned(), self.results)

    def score(self) -> None:
        """Not the driver's."""
        synthetic.write_results(self.manifest, self.results, (self.root / "archive").uri)

    def snapshot(self) -> snapshot.Snapshot:
        return snapshot.build(self.manifest.pinned(), self.results, self.root / "snapshots")

    def prepare_report(self) -> None:
        (self.root / "archive").write("readme", b"nothing of what is told of is here")
        model = ModelConfig(input_size=32, width=2, blocks=3, dense=4)
        made = Bundle(model=model, prepare=PrepareConfig(size=32), weights=build(model, seed=1).state_dict())
        bundles.save(made, self.root / "bundle")

    def report(self) -> None:
        """Labels, studies, worklist, figures and the page, as `jobs.score` makes them; no picture can be read."""
        at = {name: (self.root / name).uri for name in ("archive", "bundle", "output")}
        job = score._Scoring(ScoreRun(**at), "synthetic")
        job.record.note(this_run={})
        job.manifest = self.manifest.pinned()
        job.source(job.bundle.prepare, self.results)
        pages.scoring_page(job._facts(self.snapshot()))


_DAY_0: list[tuple[str, Callable[[Driver], object]]] = [
    ("the made-up listing alone", lambda driver: driver.list()),
    ("update, first", lambda driver: driver.update(0)),
    ("plan, nothing done", lambda driver: driver.plan()),
    ("", lambda driver: driver.score()),
    ("snapshot", lambda driver: driver.snapshot()),
    ("update, nothing new", lambda driver: driver.update(0)),
    ("plan, all done", lambda driver: driver.plan()),
]
_DAY_1: list[tuple[str, Callable[[Driver], object]]] = [
    ("", lambda driver: driver.score()),  # what is tried again
    ("update, 0.3 % changed", lambda driver: driver.update(1)),
    ("plan, 0.3 % changed", lambda driver: driver.plan()),
    ("", lambda driver: driver.score()),
    ("snapshot, 0.3 % changed", lambda driver: driver.snapshot()),
    ("snapshot, found", lambda driver: driver.snapshot()),
    ("", lambda driver: driver.prepare_report()),
    ("report", lambda driver: driver.report()),
]
_PASSES = _DAY_0 + _DAY_1


def run(settings: Bookkeeping) -> str:
    """Run all passes at all sizes, write bookkeeping.json and bookkeeping.md below `output`, return the latter."""
    found: dict[int, dict[str, Pass]] = {}
    for size in map(int, str(settings.sizes).split(",")):
        with tempfile.TemporaryDirectory(prefix="books-") as folder:
            found[size] = {}
            for number, (name, _) in enumerate(_PASSES):
                context = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    done = pool.submit(_weigh, folder, size, number).result()
                if name:
                    found[size][name] = done
                    print(size, name, asdict(done), flush=True)
    text = _markdown(found)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": table.machine(),
        "passes": {size: {name: asdict(one) for name, one in passes.items()} for size, passes in found.items()},
    }
    (output / "bookkeeping.json").write_text(json.dumps(document, indent=1))
    (output / "bookkeeping.md").write_text(text)
    return text


def _weigh(folder: str, size: int, number: int) -> Pass:
    name, work = _PASSES[number]
    driver = Driver(folder, size)
    with tempfile.TemporaryDirectory(prefix="r-") as short:
        if name != "report":
            return _measured(lambda: work(driver))
        with cluster.connected(ClusterSettings(temp_dir=short)):
            return _measured(lambda: work(driver))


def _measured(work: Callable[[], object]) -> Pass:
    before = _peak_mb()
    began, used = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - used
    return Pass(
        seconds=round(seconds, 3), cpu_s=round(cpu_s, 3), start_mb=round(before, 1), peak_mb=round(_peak_mb(), 1)
    )


def _peak_mb() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM"))


def _markdown(found: dict[int, dict[str, Pass]]) -> str:
    """A line a pass; by size the seconds, the microseconds of CPU an object, and the process's peak."""
    sizes = list(found)
    names = ["pass"] + [f"{what}, {size:,}" for size in sizes for what in ("s", "CPU us an object", "MB")]
    lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    start = max(one.start_mb for passes in found.values() for one in passes.values())
    for name in found[sizes[0]]:
        cells = [name]
        for size in sizes:
            one = found[size][name]
            cells += [f"{one.seconds:,.2f}", f"{1e6 * one.cpu_s / size:,.2f}", f"{one.peak_mb:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    machine = "; ".join(f"{name} {value}" for name, value in table.machine().items())
    return f"{machine}\n\nA process takes up to {start:,.0f} MB before its pass.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parse: Callable[..., Bookkeeping] = config.from_argv
    try:
        settings = parse(Bookkeeping)
    except ConfigError as exc:
        raise SystemExit(str(exc)) from exc
    print(run(settings))


if __name__ == "__main__":
    main()
