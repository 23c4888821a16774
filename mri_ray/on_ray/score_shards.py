"""Scoring shards with a bundle in parallel, then the snapshot: for whole archives and for a training's evaluation."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.several import Archive
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import cluster, progress, prometheus, shards
from mri_ray.on_ray.ingest import FromArchive, FromOthers, FromPrepared
from mri_ray.on_ray.settings import ShardSettings
from mri_ray.on_ray.work import ONE_CPU, Facts, Members
from mri_ray.predict import shard as scoring
from mri_ray.predict.predictor import MICRO_BATCH, Predictor
from mri_ray.prepare.effort import WRITE, Effort
from mri_ray.prepare.objects import Row, joined

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which rows are scored, by which bundle, how, and where the tables go."""

    source: FromArchive | FromPrepared | FromOthers
    bundle: Location
    results: Location
    run_id: str
    precision: str = "auto"
    micro_batch: int | None = None
    engine: str = "torch"
    slices: int = 0  # about as many as one worker will score


class ScoreShard:
    """A loaded bundle that writes the results of one shard after another, each as one Parquet file."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._predictor = Predictor(
            bundles.load(task.bundle),
            precision=task.precision,
            micro_batch=task.micro_batch,
            threads=1,
            engine=task.engine,
            slices=task.slices,
        )

    def __call__(self, shard: Shard) -> Facts:
        effort = Effort()
        source = replace(self._task.source, effort=effort)
        return self._write(shard, self._score(source(shard), effort), effort)

    def part(self, shard: Shard, start: int, stop: int, *, crashed: bool, members: Members | None = None) -> pa.Table:
        return self._score(self._task.source.part(shard, start, stop, crashed=crashed, members=members), Effort())

    def count(self, shard: Shard, place: int) -> int:
        return self._task.source.count(shard, place)

    def gather(self, shard: Shard, parts: Sequence[pa.Table]) -> Facts:
        return self._write(shard, joined(parts), Effort())

    def _score(self, rows: Iterator[Row], effort: Effort) -> pa.Table:
        return scoring.score(rows, self._predictor, run_id=self._task.run_id, effort=effort)

    def _write(self, shard: Shard, table: pa.Table, effort: Effort) -> Facts:
        with effort.stage(WRITE):
            self._task.results.write_table(outputs.name(shard), table, if_absent=True)
        micro_batch = self._task.micro_batch or MICRO_BATCH[self._predictor.device.type]
        facts = {
            "listed": shard.objects,
            "bytes": shard.bytes,
            **scoring.tally(table),
            "stages_s": effort.stages_s,
            "fills": scoring.fills(effort.pictures, micro_batch),
        }
        prometheus.export("score", facts)
        return facts


def generation(
    results: Location,
    archive: Archive,
    bundle_digest: str,
    decode: DecodeConfig,
    precision: str,
    identifiers: Identifiers,
    engine: str = "auto",
) -> Location:
    """Where the tables of all shards of an archive scored by one bundle in one way lie."""
    ways: tuple[str, ...] = (digest_json(decode), precision, *identifiers.names)
    if engine != "auto":
        ways += (engine,)
    return results / digest("generation 3", archive.uri, bundle_digest, *ways)


def score_all(
    task: Task,
    manifest: Manifest,
    *,
    settings: ShardSettings,
    deadline: float | None = None,
    tell: progress.Tell = progress.nobody,
) -> Facts:
    """Score the shards that have no table yet; what this run did (`progress.followed`), with `shards_there`."""
    todo = outputs.missing(manifest, task.results)
    total = sum(shard.objects for shard in todo)
    there = len(manifest.shards()) - len(todo)
    log.info("scoring %s shards with %s objects; %s shards are there already", len(todo), f"{total:,}", there)
    # Of all there is, done or not: a rerun must compute in the same way as the run that it goes on from.
    objects = sum(shard.objects for shard in manifest.shards())
    task = replace(task, slices=objects // max(1, settings.workers or cluster.cpus()))
    running = _scoring(task, todo, settings)
    return progress.followed(running, todo, what="scored", tell=tell, deadline=deadline) | {"shards_there": there}


def _scoring(task: Task, todo: Sequence[Shard], settings: ShardSettings) -> Iterator[Facts]:
    """Decoding is done apart where what scores has a GPU, which would wait for it; else in the same process."""
    gpus = cluster.gpus()
    cost, workers = ONE_CPU, settings.workers
    if gpus:
        cost = {"num_gpus": 1 / settings.per_gpu, "num_cpus": 0}
    if settings.decode_apart or (gpus and settings.decode_apart is None):
        if isinstance(task.source, FromArchive):
            task = replace(task, source=FromOthers(source=task.source))
        # What waits for other tasks lends its CPU, and Ray would start one more for it.
        workers = workers or (None if gpus else max(1, cluster.cpus()))
    return shards.run(todo, lambda: ScoreShard(task), workers=workers, cost=cost)
