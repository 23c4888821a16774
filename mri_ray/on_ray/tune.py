"""The search: trials of a training on Ray Tune; the best one's bundle is finished as any training's is."""

import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.tune
import yaml

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.storage import Location
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.split import TEST, TRAIN, VALIDATION
from mri_ray.errors import ConfigError, SplitError, TrainingFailed
from mri_ray.learn.best import best_epoch
from mri_ray.learn.bundle import Bundle
from mri_ray.on_ray import cluster, curves, fit, ingest, progress, train_worker, tune_search, tune_trial
from mri_ray.on_ray.masks import bring
from mri_ray.on_ray.settings import TuneRun
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.train import INDECISIVE, Training, Weights
from mri_ray.on_ray.tune_trial import POINT, Ground, Rounds
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report.facts import SearchFacts
from mri_ray.report.record import Record
from mri_ray.search import study as studies
from mri_ray.search import trials
from mri_ray.search.accounting import Share, share
from mri_ray.search.trials import State, Trial

FOLDER = "search"
_HEAD = "node:__internal_head__"  # a resource, 1 of it, that every cluster has on its head
_BUDGET = (
    *("trials", "max_minutes", "worker_hours", "concurrent", "worker_cpus", "max_failures", "final", "tolerance"),
)
_SHUFFLE = 2.0**20  # as in `cohort.held_out`: which part of the groups' positions deals the folds
HEADLINE = (
    "The best of the trials of a search, by slices of the validation side; its figures on the test side, by which "
    "nothing was chosen."
)

log = logging.getLogger(__name__)


def run(settings: TuneRun) -> Record:
    """Search, take the best, evaluate it once and report; all of it lies below `settings.output` afterwards."""
    job = _Search(settings)
    with job.record.kept(job.output), cluster.connected(settings.ray):
        job.run()
    return job.record


class _Search(Training):
    def __init__(self, run: TuneRun) -> None:
        super().__init__(run, HEADLINE, name="tune")
        self._run, self._space = run, run.space
        self.settings = run.training
        self._started = time.monotonic()
        self._places: dict[str, tuple[Location, Location | None, pa.Table]] = {}  # of preparations, with their rows

    def run(self) -> None:
        super().run()
        (self.output / FOLDER).delete_all()  # as with a training's checkpoints: the bundle holds what is worth keeping

    def learned(self, cohort: Cohort) -> tuple[Cohort, Weights, list[train_worker.Epoch]]:
        self._check_sides(cohort)
        with self.record.stage("preparing"):
            rounds = {prepare.digest(): self._rounds(prepare, cohort) for prepare in self._preparations()}
        place = self._place(cohort)
        with self.record.stage("searching"):
            ended = self._searched(rounds, place)
        best = trials.winner(ended, tolerance=self._run.tune.tolerance, cost=self._run.tune.cost)
        self.output.write_table("trials.parquet", trials.table(ended))
        if best is None:
            reasons = sorted({one.reason or one.state.value for one in ended})
            raise TrainingFailed(
                f"search: at least one trial must have a figure, got none of {len(ended)}: {'; '.join(reasons[:5])}"
            )
        cohort = self._settle_on(best, cohort)
        self._tell(ended, best)
        with self.record.stage("training"):
            if self._run.tune.folds or best.checkpoint is None:
                return cohort, *self.fit(cohort)
            with tune_trial.checkpoint(place, best.checkpoint).as_directory() as folder:
                weights, history = train_worker.read_checkpoint(Path(folder))
            if best.best is not None and best_epoch(history) != best.best["epoch"]:
                self.warn(
                    f"trial {best.name} went on until it was ended: the bundle is of epoch {best_epoch(history)}, "
                    f"the trial's figures are of epoch {best.best['epoch']}"
                )
            return cohort, weights, history

    def final(self, bundle: Bundle, cohort: Cohort) -> tuple[Bundle, Cohort]:
        if self._run.tune.final == "checkpoint":
            return bundle, cohort
        settings = self.settings
        self.settings = replace(settings, train=replace(settings.train, patience=None))
        with self.record.stage("training"):
            weights, _ = self.fit(cohort, last=True)
        self.settings = settings
        both = np.where(cohort.side == VALIDATION, TRAIN, cohort.side).astype(np.int8)
        cohort = cohort.only(np.ones(len(both), bool), both)
        self.warn(
            "the bundle was trained again on the training and validation side; its calibration and its threshold are "
            "those of the network before, which had not seen the validation side"
        )
        training = bundle.training | {"counts": cohort.counts(), "leakage": asdict(cohort.leakage)}
        return replace(bundle, weights=weights, training=training), cohort

    def _check_sides(self, cohort: Cohort) -> None:
        for name, code in (("train", TRAIN), ("validation", VALIDATION)):
            if len(np.unique(cohort.label[cohort.side == code])) < 2:
                raise SplitError(f"split: the {name} side must hold both classes for trials to be told apart")

    def _preparations(self) -> list[PrepareConfig]:
        """Each preparation that a trial may ask for: decoded once, before the first of them."""
        named = [one for one in self._space.ranges if one.path.startswith("prepare.")]
        points = replace(self._space, ranges=tuple(named)).grid() if named else iter([{}])
        made = [self.settings.prepare, *(self._run.with_values(values).prepare for values in points)]
        return list({prepare.digest(): prepare for prepare in made}.values())

    def _rounds(self, prepare: PrepareConfig, cohort: Cohort) -> Rounds:
        settings = self.settings
        if prepare == settings.prepare:
            place, masks = self.prepared, self._masks
        else:
            place = ingest.prepared_location(self.cache, self.archive, settings.decode, prepare, self.identifiers)
            ingest.prepare_all(
                self.source(prepare, place), place, workers=settings.shards.workers, tell=self.record.tell
            )
            masks = None
            if self.masks is not None:
                masks, _ = bring(
                    self.masks,
                    place,
                    self.manifest,
                    self.cache,
                    decode=settings.decode,
                    size=prepare.size,
                    workers=settings.shards.workers,
                )
            cohort = replace(cohort, index=self._placed(place, cohort.index))
        self._places[prepare.digest()] = place, masks, cohort.index
        names = tuple(outputs.name(shard) for shard in self.manifest.shards())
        prepared = Prepared(location=place, names=names, size=prepare.size, masks=masks)
        masked = masks is not None
        folds = self._run.tune.folds
        if not folds:
            return Rounds(prepared=prepared, sides=(_pair(cohort, cohort.side == VALIDATION, masked=masked),))
        fold = np.minimum((np.modf(cohort.position * _SHUFFLE)[0] * folds).astype(int), folds - 1)
        return Rounds(
            prepared=prepared, sides=tuple(_pair(cohort, fold == number, masked=masked) for number in range(folds))
        )

    def _placed(self, place: Location, index: pa.Table) -> pa.Table:
        """The cohort's rows where another preparation has put them."""
        found = outputs.live(self.manifest, place, ["row_id", "version_id", "reason"])
        at = pc.index_in(index["row_id"], value_set=found["row_id"].combine_chunks())
        if at.null_count:
            raise ConfigError(f"search: each preparation must give all slices, got {at.null_count:,} fewer from one")
        for name in ("part", "place"):
            index = index.set_column(index.schema.get_field_index(name), name, found[name].take(at))
        return index

    def _place(self, cohort: Cohort) -> Location:
        """Where this search lies. Raises ConfigError where another one is to be gone on with."""
        told = asdict(self._run)
        decisive = {name: value for name, value in told.items() if name not in (*INDECISIVE, "resume")}
        decisive["tune"] = {name: value for name, value in told["tune"].items() if name not in _BUDGET}
        # A kill leaves tuples, and comes back as lists.
        decisive = json.loads(json.dumps(decisive)) | {"cohort": cohort.digest()}
        above, name = self.output / FOLDER, digest("search", digest_json(decisive))
        there = {key.partition("/")[0] for key in above.keys() if key.endswith("/settings.json")}  # noqa: SIM118
        if not self._run.resume:
            above.delete_all()
        elif there and name not in there:
            other = json.loads(above.read(f"{sorted(there)[0]}/settings.json"))
            fields = sorted(key for key in decisive if decisive[key] != other.get(key))
            raise ConfigError(
                f"resume: must be given with the settings and the archive of the search to go on with, got other "
                f"{', '.join(fields)}; without resume=true a new search begins"
            )
        elif not there:
            log.info("there is no search to go on with: a new one begins")
        (above / name).write("settings.json", json.dumps(decisive).encode())
        return above / name

    def _searched(self, rounds: dict[str, Rounds], place: Location) -> list[Trial]:
        run, space = self._run, self._space
        fits = self._share()
        ended = [one for one in tune_search.told(place) if one.state in trials.ENDED]
        study = None
        if run.tune.algorithm == "optuna":
            startup = run.tune.startup_trials
            study = studies.Study(space, ended, seed=run.seed, startup=startup, cost=run.tune.cost)
        ledger = tune_search.Ledger(place, run, study.learn if study else lambda one: None, self.record.tell)
        left = run.tune.trials - len(ended)
        if ended:
            log.info("going on with a search: %d trials have ended, %d are left", len(ended), max(0, left))
        if left > 0:
            fresh = tune_search.points(run, space, study, list(ledger.trials.values()))
            with progress.relayed(partial(self._heard, ledger)) as queue, _quiet(run.tune.trials):
                ground = Ground(run=run, rounds=rounds, place=place, share=fits, queue=queue, mark=ledger.mark)
                self._tuner(ground, ledger, fresh, left, ended).fit()
            ledger.close()
        return sorted(ledger.trials.values(), key=lambda one: one.number)

    def _share(self) -> Share:
        run = self._run
        asked = [one.all() or (one.high,) for one in self._space.ranges if one.path == "train.workers"]
        workers = max([run.train.workers, *(int(value) for values in asked for value in values)])
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        fits = share(
            nodes,
            cluster.gpus(),
            workers=workers,
            concurrent=run.tune.concurrent,
            worker_cpus=run.tune.worker_cpus,
        )
        each = "a GPU" if fits.gpus else f"{fits.cpus:.4g} CPU"
        log.info("up to %d trials at once, of up to %d workers with %s each", fits.concurrent, workers, each)
        self._fits = {"concurrent": fits.concurrent, "workers": workers, "worker_cpus": fits.cpus, "gpus": fits.gpus}
        return fits

    def _tuner(
        self, ground: Ground, ledger: tune_search.Ledger, fresh: Any, left: int, ended: list[Trial]
    ) -> ray.tune.Tuner:
        run = self._run
        filesystem, path = (ground.place / "tune").arrow()
        # So many fit beside each other on the head, whose loss would end the search anyhow.
        # Some of it is left, since other trainings keep actors there that ask for a thousandth: without it, they wait.
        most = ground.share.concurrent
        own = {"CPU": 0, _HEAD: round((1 / most + 1 / (most + 1)) / 2, 4)}
        moving = run.tune.scheduler == "pbt"  # then all trials live, and take turns
        points = tune_search.Points(ledger, fresh)
        space: dict[str, Any] = {}
        if moving:  # Ray's PBT takes no searcher
            space = {POINT: ray.tune.grid_search([point[POINT] for point in islice(points, left)])}
        return ray.tune.Tuner(
            ray.tune.with_resources(ray.tune.with_parameters(tune_trial.train, ground=ground), own),
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                search_alg=None if moving else points,
                scheduler=tune_search.scheduler(run, self._space, ended),
                num_samples=1 if moving else left,
                max_concurrent_trials=None if moving else ground.share.concurrent,
                trial_dirname_creator=lambda trial: f"{trial.config[POINT]['number']:04}-{trial.trial_id}",
            ),
            run_config=ray.tune.RunConfig(
                name=self.record.run_id,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.tune.FailureConfig(max_failures=run.tune.max_failures),
                callbacks=[ledger],
                stop=tune_search.Budget(run, ledger, self._started),
                verbose=0,
            ),
        )

    def _heard(self, ledger: tune_search.Ledger, item: dict[str, Any]) -> None:
        """What a trial has said that is no line of text: a fault, or the figures of an epoch."""
        number = item.pop("trial")
        if "fault" in item:
            ledger.faults[number] = item["fault"]
            return
        ledger.said.setdefault(number, {})[item["epoch"]] = item
        fold = item.pop("fold")
        part = f"trial-{number:04}" + (f"-fold-{fold + 1}" if self._run.tune.folds else "")
        curves.tell(self.output / curves.FOLDER / part, item)

    def _settle_on(self, best: Trial, cohort: Cohort) -> Cohort:
        """From here on all is as if the winner's settings had been those of a training."""
        self.settings = self._run.with_values(best.settings)
        self.prepared, self._masks, index = self._places[self.settings.prepare.digest()]
        self.source(self.settings.prepare, self.prepared)  # what leads back to paths lies by preparation
        text = yaml.safe_dump(json.loads(json.dumps(self._as_training())), sort_keys=False)
        self.output.write("best.yaml", text.encode())
        return replace(cohort, index=index)

    def _as_training(self) -> dict[str, Any]:
        """A config of jobs.train, with an output of its own and the preparation that is there."""
        settings = self.settings
        output, cache = f"{self.output.uri}/best", settings.cache or settings.output
        return asdict(replace(settings, output=output, cache=cache))

    def _tell(self, ended: list[Trial], best: Trial) -> None:
        tune = self._run.tune
        taken = trials.cost(ended)
        importance = studies.importances(self._space, ended)
        seen = len(trials.usable(ended))
        shared = {
            "trials": len(ended),
            "by_state": taken.by_state,
            "seen": seen,
            "winner": best.name,
            "settings": best.settings,
            "validation_auroc": best.auroc,
            "ms_per_image": best.ms_per_image,
            "algorithm": tune.algorithm,
            "scheduler": tune.scheduler,
            "folds": tune.folds,
            "final": tune.final,
        }
        log.info("trial %s is the best of %d: validation AUROC %.4f", best.name, seen, best.auroc)
        spent = {"worker_hours": taken.worker_hours, "saved_worker_hours": taken.saved, **self._fits}
        places = {"trials_table": self.output.uri_of("trials.parquet"), "best": self.output.uri_of("best.yaml")}
        self.record.note(search=shared | spent | {"importance": importance} | places)
        self.provenance = {"search": shared | {"space": self._run.search}}
        if failed := [one for one in ended if one.state == State.FAILED]:
            self.warn(f"{len(failed):,} trials failed, such as {failed[0].name}: {failed[0].reason}")
        self.search = SearchFacts(
            trials=ended,
            winner=best.number,
            seen=seen,
            algorithm=tune.algorithm,
            scheduler=tune.scheduler,
            share=self._fits,
            importance=importance,
            cost=tune.cost,
            paths=[one.path for one in self._space.ranges],
            folds=tune.folds,
            refit=tune.final == "refit",
        )


def _pair(cohort: Cohort, measured: np.ndarray, *, masked: bool) -> tuple[Any, Any]:
    """Rows to learn from and to be measured on, none of them of the test side. Raises SplitError for one class only."""
    mine = cohort.side != TEST
    for chosen in (mine & ~measured, mine & measured):
        if len(np.unique(cohort.label[chosen])) < 2:
            raise SplitError("tune.folds: each must hold both classes, in what is learned from and in what is measured")
    return tuple(fit.of(cohort, chosen, masked=masked) for chosen in (mine & ~measured, mine & measured))  # type: ignore[return-value]


@contextmanager
def _quiet(most: int) -> Iterator[None]:
    """Ray Tune without tables, loggers of its own and advice; and free to hold a whole population."""
    told = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": str(max(2, most)),
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # which would take what there is for the result
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints of faults whatever it is told
    }
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs traces of faults, which the ledger tells in a line
    try:
        with cluster.environment(told), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
