"""The training job: archive -> prepared rows -> cohort -> network -> bundle, evaluated on every side of the split."""

import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.several import Archive, archive_of
from mri_ray.archive.storage import Location
from mri_ray.cohort import columns, shortcuts, sides
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.audit import audit
from mri_ray.cohort.held_out import divisions
from mri_ray.cohort.lesions import Lesions, lesions
from mri_ray.cohort.split import SIDES, TEST, TRAIN, VALIDATION
from mri_ray.errors import ConfigError, MriRayError, SplitError, TrainingFailed
from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build, count_parameters
from mri_ray.learn.operate import settled
from mri_ray.learn.plan import Rows
from mri_ray.learn.reference import WORDS, reference
from mri_ray.on_ray import cluster, cohorts, curves, ingest, progress, score_shards, train_worker, validate
from mri_ray.on_ray.beside import trained_beside
from mri_ray.on_ray.job import LabelledJob
from mri_ray.on_ray.masks import bring, looked_at, told
from mri_ray.on_ray.settings import TrainRun, TrainSettings, listed
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.studies import with_keys
from mri_ray.on_ray.work import ONE_CPU, own_error
from mri_ray.predict import snapshot
from mri_ray.predict.levels import study_point
from mri_ray.predict.predictor import probability
from mri_ray.predict.prove import SLICES, prove
from mri_ray.records import Flag
from mri_ray.report import answers, card, examples, pages
from mri_ray.report.facts import TrainingFacts
from mri_ray.report.record import Record, versions

Weights = dict[str, torch.Tensor]
# Settings that change no fit; what the split does to it, the cohort's digest tells.
_INDECISIVE = (
    *("output", "cache", "storage", "ray", "shards", "max_quarantined_fraction", "max_runtime_s"),
    *("split", "calibration", "evaluation", "audit"),
)

log = logging.getLogger(__name__)


HEADLINE = "Figures of a network trained and tested on slices of this archive, by side of the split."


def run(settings: TrainRun, *, headline: str = HEADLINE) -> Record:
    """Train, evaluate and report; all of it lies below `settings.output` afterwards.

    headline: what the report says its figures are about.
    """
    job = _Training(settings, headline)
    with job.record.kept(job.output), cluster.connected(settings.ray):
        job.run()
    return job.record


class _Training(LabelledJob):
    def __init__(self, settings: TrainRun, headline: str) -> None:
        super().__init__("train", settings, headline)
        self.settings = settings
        self.place = self.output / "bundle"
        self.fit_names: list[str] = []
        self.cache = Location.of(settings.cache, settings.storage) if settings.cache else self.output
        given = listed(settings.masks, settings.archive)
        self._has_masks = np.array([uri is not None for uri in given])  # of each archive
        self.masks = archive_of(given, settings.storage) if self._has_masks.any() else None
        if self.masks is not None:
            self.masks.check()
        self._masks: Location | None = None  # beside the prepared rows
        self.prepared = ingest.prepared_location(
            self.cache, self.archive, settings.decode, settings.prepare, self.identifiers
        )

    def run(self) -> None:
        settings, record = self.settings, self.record
        with record.stage("listing"):
            self.take_stock(self.cache, self.prepared)
        source = self.source(settings.prepare, self.prepared)
        with record.stage("preparing"):
            prepared = ingest.prepare_all(
                source, self.prepared, workers=settings.shards.workers, deadline=self.deadline, tell=record.tell
            )
        record.values["this_run"] |= prepared
        cohort = self._cohort()
        others = divisions(cohort, settings.split, naive=settings.evaluation.naive, seed=settings.seed)
        with record.stage("training"):
            weights, history = self._fit(cohort)
        # The test side is not looked at before the bundle is settled.
        with record.stage("calibrating"):
            bundle = self._settled(self._bundle(weights, cohort), cohort)
        with record.stage("proving"):
            bundle = replace(bundle, proofs=self._proofs(bundle, cohort))
        with record.stage("training beside"):
            beside = trained_beside(others, self._made, self._answered, settings.evaluation)
        with record.stage("evaluating"):
            if self.masks is not None:
                record.note(lesions=self._lesion_figures(bundle, cohort))
            found = self._score(bundle, cohort)
            facts = self._facts(bundle, history, cohort, found, beside)
        bundle = replace(bundle, metrics=facts.metrics)
        bundles.save(bundle, self.place, card.papers(bundle, facts))
        shown = ("split", "leakage", "history", "best_epoch", "operating", "held_out")
        record.note(results=found.uri, **{name: getattr(facts, name) for name in shown})
        self.publish(pages.training_page(facts), bundle, self.place, facts)
        # Only now: until the run is complete, a rerun goes on from the checkpoint; a finished name must not.
        for name in self.fit_names:
            (self.output / "checkpoints" / name).delete_all()

    def _cohort(self) -> Cohort:
        settings = self.settings
        cohort = cohorts.of(self, settings, self.prepared, self.cache, settings.split)
        if self.masks is not None:
            cohort = cohort.with_lesions(self._lesions(self.masks, cohort))
        for side, counts in cohort.counts().items():
            log.info("%s: %s", side, ", ".join(f"{number:,} {name}" for name, number in counts.items()))
        for warning in cohort.warnings():
            self.warn(warning)
        with self.record.stage("auditing"):
            self.audit = audit(cohort, settings.audit, settings.split, settings.classes, settings.seed)
        self.record.note(audit=self.audit)
        for warning in shortcuts.warnings(self.audit["shortcuts"], settings.audit):
            self.warn(warning)
        return cohort

    def _lesions(self, masks: Archive, cohort: Cohort) -> Lesions:
        """What the masks tell; they are brought beside the prepared rows, where that was not done before."""
        settings = self.settings
        with self._untold():
            self._masks, names = bring(
                masks,
                self.prepared,
                self.manifest,
                self.cache,
                decode=settings.decode,
                size=settings.prepare.size,
                workers=settings.shards.workers,
            )
        marked, fault, without_slice = told(cohort.index, self._masks, self.manifest, names)
        has_masks = self._has_masks[self.source_of(cohort.index)]
        return lesions(cohort.label, marked, fault, given=has_masks, without_slice=without_slice)

    def _fit(self, cohort: Cohort) -> tuple[Weights, list[train_worker.Epoch]]:
        settings = self.settings
        train = _rows(cohort, TRAIN, masked=settings.model.masks)
        task = train_worker.Task(
            model=settings.model,
            optimiser=settings.optimiser,
            augment=settings.augment,
            settings=settings.train,
            seed=settings.seed,
            prepared=self._rows_at(),
            train=train,
            validation=_rows(cohort, VALIDATION, masked=settings.model.masks),
        )
        if len(train) < task.batch:
            raise SplitError(
                f"train.workers: each worker needs a row of the train side, got {settings.train.workers} workers for "
                f"{len(train)} rows"
            )
        # The same settings on the same rows go on where a killed run stopped; anything else starts anew.
        decisive = {name: value for name, value in asdict(settings).items() if name not in _INDECISIVE}
        name = digest("fit", digest_json(decisive), cohort.digest())
        self.fit_names.append(name)
        try:
            with progress.relayed(partial(curves.tell, self.output / curves.FOLDER / name)) as queue:
                result = self._trainer(name, task, queue).fit()
        except ray.train.TrainingFailedError as exc:
            raise _named(exc) from exc
        assert result.checkpoint is not None, "a training that ended has reported an epoch"
        with result.checkpoint.as_directory() as folder:
            return train_worker.read_checkpoint(Path(folder))

    def _lesion_figures(self, bundle: Bundle, cohort: Cohort) -> dict[str, dict[str, Any]]:
        """By side, how well the bundle's heat maps agree with masks it has not learned from."""
        found = {}
        for code in (VALIDATION, TEST):
            rows, group = _rows(cohort, code, masked=True), cohort.group[cohort.side == code]
            figures = looked_at(bundle, self._rows_at(), rows, group, seed=self.settings.seed)
            if figures.get("dice") is not None:
                found[SIDES[code]] = figures
                log.info(
                    "lesions of %s: Dice %.3f (mean of %s groups), hottest pixel in the lesion on %.1f %% of %s slices",
                    SIDES[code],
                    figures["dice"],
                    figures["groups"],
                    100 * figures["pointing"],
                    figures["slices_with_lesion"],
                )
        return found

    def _rows_at(self) -> Prepared:
        names = tuple(outputs.name(shard) for shard in self.manifest.shards())
        return Prepared(location=self.prepared, names=names, size=self.settings.prepare.size, masks=self._masks)

    def _proofs(self, bundle: Bundle, cohort: Cohort) -> dict[str, Any]:
        """Made where scoring would run: on a GPU if there is one."""
        rows = _rows(cohort, VALIDATION)
        some = np.random.default_rng(self.settings.seed).permutation(len(rows))[:SLICES]
        images = self._rows_at().pixels(rows.take(np.sort(some)))
        task = ray.remote(prove).options(**({"num_gpus": 1} if cluster.gpus() else ONE_CPU))
        return ray.get(task.remote(bundle, images))

    def _trainer(self, name: str, task: train_worker.Task, queue: Queue) -> ray.train.torch.TorchTrainer:
        settings = self.settings.train
        filesystem, path = (self.output / "checkpoints").arrow()
        return ray.train.torch.TorchTrainer(
            train_worker.train,
            train_loop_config={"task": task, "queue": queue},
            scaling_config=_scaling(settings),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        )

    def _bundle(self, weights: Weights, cohort: Cohort) -> Bundle:
        settings = self.settings
        training = {
            "archive": self.archive.uri,
            "fingerprint": self.manifest.digest(),
            "split": asdict(settings.split) | {"seed": settings.seed},
            "counts": cohort.counts(),
            "leakage": asdict(cohort.leakage),
            "sources": cohort.sources,
            "audit": self.audit["shortcuts"],
        }
        return Bundle(
            model=replace(settings.model, pretrained=None),
            prepare=settings.prepare,
            weights=weights,
            training=training,
            versions=versions(),
        )

    def _settled(self, bundle: Bundle, cohort: Cohort) -> Bundle:
        """With calibration and operating points by the validation side."""
        settings = self.settings
        bundle, logits, warnings = self._by_validation(bundle, cohort)
        mine = np.flatnonzero(cohort.side == VALIDATION)
        rows = cohort.index.take(pa.array(mine))
        rows = with_keys(rows, self.assigned(rows, self.labels_of(rows)))
        point = study_point(
            rows, cohort.label[mine], probability(logits, bundle), settings.calibration, settings.evaluation
        )
        for warning in (*warnings, *(point.warnings if point else ())):
            self.warn(warning)
        return replace(
            bundle,
            study_threshold=point.threshold if point else None,
            study_refer=point.refer if point else None,
            operating=bundle.operating | {"studies": point.facts if point else None},
            reference=_reference(rows, probability(logits, bundle)),
        )

    def _by_validation(self, bundle: Bundle, cohort: Cohort) -> tuple[Bundle, np.ndarray, tuple[str, ...]]:
        settings, mine = self.settings, cohort.side == VALIDATION
        logits = self._answered(bundle, cohort, VALIDATION)
        label, group = cohort.label[mine], cohort.group[mine]
        made, warnings = settled(bundle, label, logits, group, settings.calibration, settings.evaluation)
        return made, logits, warnings

    def _made(self, cohort: Cohort) -> Bundle:
        """A training beside the one that is delivered, calibrated by its own validation side."""
        return self._by_validation(self._bundle(self._fit(cohort)[0], cohort), cohort)[0]

    def _answered(self, bundle: Bundle, cohort: Cohort, side: int) -> np.ndarray:
        return validate.logits(bundle, self._rows_at(), _rows(cohort, side))

    def _score(self, bundle: Bundle, cohort: Cohort) -> snapshot.Snapshot:
        """Answers of the bundle for every prepared row, through the same path that scores archives."""
        self.place.write_table(
            sides.NAME, sides.table(cohort)
        )  # first: a bundle must never be without what it has seen
        bundles.save(bundle, self.place)
        settings = self.settings
        results = score_shards.generation(
            self.output / "results",
            self.archive,
            bundle.digest,
            settings.decode,
            settings.train.precision,
            self.identifiers,
        )
        task = score_shards.Task(
            source=ingest.FromPrepared(prepared=self.prepared, size=bundle.prepare.size),
            bundle=self.place,
            results=results,
            run_id=self.record.run_id,
            precision=settings.train.precision,
        )
        score_shards.score_all(task, self.manifest, settings=settings.shards)
        return snapshot.build(self.manifest, results, self.output / "snapshots")

    def _facts(
        self,
        bundle: Bundle,
        history: list[train_worker.Epoch],
        cohort: Cohort,
        found: snapshot.Snapshot,
        beside: list[dict[str, Any]],
    ) -> TrainingFacts:
        results = answers.read(Location.of(found.uri, self.settings.storage))
        row_ids = cohort.index["row_id"].combine_chunks()

        def known(values: np.ndarray, default: Any) -> np.ndarray:
            return answers.lookup(results["row_id"], row_ids, values, default)

        labelled = answers.answers(
            results,
            label=known(cohort.label, -1),
            side=np.array([*SIDES, ""])[known(cohort.side, len(SIDES))],
            group=known(cohort.group, -1),
            source=np.array([*cohort.sources, ""])[known(cohort.source, -1)],
            lesion_px=known(cohort.lesion_px, np.nan),
        )
        shown = "test" if np.any(cohort.side == TEST) else "validation"
        chosen = examples.choose(labelled, results, bundle.threshold, usable=self.showable(results), side=shown)
        pictures = self.pictures(bundle, results, examples.rows(chosen))
        heat = self.heat(bundle, pictures)
        seen = examples.shown(chosen, labelled, results, pictures, heat)
        return TrainingFacts(
            **self.facts(bundle, found, results, self.labels_of(results), labelled, seen),
            history=history,
            best_epoch=train_worker.best_epoch(history),
            split_by=self.settings.split.by,
            split=cohort.counts(),
            leakage=asdict(cohort.leakage),
            parameters=count_parameters(build(bundle.model)),
            operating=bundle.operating,
            held_out=beside,
            audit=self.audit["shortcuts"],
        )


def _rows(cohort: Cohort, side: int, *, masked: bool = False) -> Rows:
    """Rows of one side; masked: with what is known of their masks."""
    mine = np.flatnonzero(cohort.side == side)
    return Rows(
        part=cohort.index["part"].to_numpy()[mine],
        place=cohort.index["place"].to_numpy()[mine],
        label=cohort.label[mine],
        row_id=cohort.index["row_id"].to_numpy()[mine],
        source=cohort.source[mine],
        known=cohort.mask_known[mine] if masked else None,
    )


def _reference(rows: pa.Table, found: np.ndarray) -> dict[str, Any]:
    """What is known of validation rows and their answers, blank ones apart."""
    seen = np.flatnonzero(~columns.flagged(rows["flags"], [Flag.BLANK]))
    rows = rows.take(pa.array(seen))
    numbers = {"probability": found[seen], "level": columns.floats(rows["mean_level"])}
    return reference(numbers, {name: rows[name].to_pylist() for name in WORDS})


def _scaling(settings: TrainSettings) -> ray.train.ScalingConfig:
    """A GPU for each worker when the cluster has any; else at most half the cluster's CPUs, so that reading fits."""
    workers, least = settings.workers, settings.least_workers
    number: Any = workers if least is None else (least, workers)  # its annotation knows of one number only
    gpus = cluster.gpus()
    if gpus:
        if (least or workers) > gpus:
            raise ConfigError(f"train.workers: at most one a GPU, got {least or workers} workers for {gpus} GPUs")
        return ray.train.ScalingConfig(num_workers=number, use_gpu=True)
    share = min(1.0, cluster.cpus() / 2 / workers) or 1.0  # a cluster without any yet is made of whole ones
    return ray.train.ScalingConfig(num_workers=number, resources_per_worker={"CPU": share})


def _named(error: ray.train.TrainingFailedError) -> MriRayError:
    """Our own error where a worker raised one, else TrainingFailed with the last line of what it did raise."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    own = own_error(first)
    if own is not None:
        return own
    lines = str(first).strip().splitlines()
    return TrainingFailed(f"training: must end with a checkpoint, got {lines[-1] if lines else type(first).__name__}")
