"""The training job: archive -> prepared rows -> cohort -> network -> bundle, evaluated on every side of the split."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.train
import torch

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
from mri_ray.learn import bundle as bundles
from mri_ray.learn.best import best_epoch
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build, count_parameters
from mri_ray.learn.operate import settled
from mri_ray.learn.reference import WORDS, reference
from mri_ray.on_ray import cluster, cohorts, curves, fit, ingest, progress, score_shards, train_worker, validate
from mri_ray.on_ray.beside import trained_beside
from mri_ray.on_ray.labelled import LabelledJob
from mri_ray.on_ray.masks import bring, looked_at, told
from mri_ray.on_ray.settings import TrainRun, listed
from mri_ray.on_ray.stream import Prepared
from mri_ray.on_ray.studies import with_keys
from mri_ray.on_ray.tracking import tracked
from mri_ray.on_ray.work import ONE_CPU
from mri_ray.predict import snapshot
from mri_ray.predict.levels import study_point
from mri_ray.predict.predictor import probability
from mri_ray.predict.prove import SLICES, prove
from mri_ray.records import Flag
from mri_ray.report import answers, card, examples, pages
from mri_ray.report.facts import SearchFacts, TrainingFacts
from mri_ray.report.record import Record, versions

Weights = dict[str, torch.Tensor]
# Settings that change no fit; what the split does to it, the cohort's digest tells.
INDECISIVE = (
    *("output", "cache", "storage", "ray", "shards", "max_quarantined_fraction", "max_runtime_s"),
    *("split", "calibration", "evaluation", "audit"),
)
_TRACKED = ("seed", "prepare", "augment", "model", "optimiser", "train")

log = logging.getLogger(__name__)


HEADLINE = "Figures of a network trained and tested on slices of this archive, by side of the split."


def run(settings: TrainRun, *, headline: str = HEADLINE) -> Record:
    """Train, evaluate and report; all of it lies below `settings.output` afterwards.

    headline: what the report says its figures are about.
    """
    job = Training(settings, headline)
    with job.record.kept(job.output), cluster.connected(settings.ray):
        job.run()
    return job.record


class Training(LabelledJob):
    def __init__(self, settings: TrainRun, headline: str, *, name: str = "train") -> None:
        super().__init__(name, settings, headline)
        self.settings = settings
        self.place = self.output / "bundle"
        self.fit_names: list[str] = []
        self.provenance: dict[str, Any] = {}  # what else the bundle tells of how it was made
        self.search: SearchFacts | None = None
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
        record = self.record
        cohort, weights, history = self.learned(self._cohort())
        settings = self.settings  # a search has changed them
        others = divisions(cohort, settings.split, naive=settings.evaluation.naive, seed=settings.seed)
        # The test side is not looked at before the bundle is settled.
        with record.stage("calibrating"):
            bundle = self._settled(self._bundle(weights, cohort), cohort)
        bundle, cohort = self.final(bundle, cohort)
        with record.stage("proving"):
            bundle = replace(bundle, proofs=self._proofs(bundle, cohort))
        with record.stage("training beside"):
            beside = trained_beside(others, self._made, self._answered, settings.evaluation, record.tell)
        with record.stage("evaluating"):
            found = self._score(bundle, cohort)
            facts = self._facts(bundle, history, cohort, found, beside)
        bundle = replace(bundle, metrics=facts.metrics)
        bundles.save(bundle, self.place, card.papers(bundle, facts))
        shown = ("split", "leakage", "history", "best_epoch", "operating", "held_out", "lesions")
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
        packed = pc.match_substring(cohort.index["path"], "!/").to_numpy()
        return lesions(cohort.label, marked, fault, given=has_masks, packed=packed, without_slice=without_slice)

    def learned(self, cohort: Cohort) -> tuple[Cohort, Weights, list[train_worker.Epoch]]:
        """The network of the bundle with its history, and the cohort that it has learned from."""
        self.record.tell(training="of the bundle")
        with self.record.stage("training"):
            return cohort, *self.fit(cohort)

    def final(self, bundle: Bundle, cohort: Cohort) -> tuple[Bundle, Cohort]:
        """What is done to a bundle once it is settled; and the cohort as it then stands."""
        return bundle, cohort

    def fit(self, cohort: Cohort, *, last: bool = False) -> tuple[Weights, list[train_worker.Epoch]]:
        """A training of its own; last: also of the validation side, whence the last epoch is kept for the best."""
        settings, masked = self.settings, self.settings.model.masks
        learned = fit.rows(cohort, TRAIN, *([VALIDATION] if last else []), masked=masked)
        validation = fit.rows(cohort, VALIDATION, masked=masked)
        task = replace(fit.task(settings, self._rows_at(), learned, validation), last=last)
        # The same settings on the same rows go on where a killed run stopped; anything else starts anew.
        decisive = {name: value for name, value in asdict(settings).items() if name not in INDECISIVE}
        name = digest("fit", digest_json(decisive), cohort.digest(), *(["last"] if last else []))
        self.fit_names.append(name)
        trainer = partial(
            fit.trainer, name, task, place=self.output / "checkpoints", scaling=fit.scaling(settings.train)
        )
        try:
            self.record.tell(**progress.epoch(None, settings.train.epochs))
            shown = {part: decisive[part] for part in _TRACKED}
            with tracked(name, shown) as track, progress.relayed(partial(self._tell_epoch, name, track)) as queue:
                result = trainer(queue=queue, max_failures=settings.train.max_failures).fit()
        except ray.train.TrainingFailedError as exc:
            raise fit.named(exc) from exc
        assert result.checkpoint is not None, "a training that ended has reported an epoch"
        with result.checkpoint.as_directory() as folder:
            return train_worker.read_checkpoint(Path(folder))

    def _tell_epoch(self, name: str, track: Callable[[train_worker.Epoch], None], line: train_worker.Epoch) -> None:
        self.record.tell(**progress.epoch(line, self.settings.train.epochs))
        track(line)
        curves.tell(self.output / curves.FOLDER / name, line)

    def _lesion_figures(self, bundle: Bundle, cohort: Cohort) -> dict[str, dict[str, Any]]:
        """By side, how well the bundle's heat maps agree with masks it has not learned from."""
        found = {}
        for code in (VALIDATION, TEST):
            rows, group = fit.rows(cohort, code, masked=True), cohort.group[cohort.side == code]
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
        rows = fit.rows(cohort, VALIDATION)
        some = np.random.default_rng(self.settings.seed).permutation(len(rows))[:SLICES]
        images = self._rows_at().pixels(rows.take(np.sort(some)))
        task = ray.remote(prove).options(**({"num_gpus": 1} if cluster.gpus() else ONE_CPU))
        return ray.get(task.remote(bundle, images))

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
            **self.provenance,
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
        return self._by_validation(self._bundle(self.fit(cohort)[0], cohort), cohort)[0]

    def _answered(self, bundle: Bundle, cohort: Cohort, side: int) -> np.ndarray:
        return validate.logits(bundle, self._rows_at(), fit.rows(cohort, side))

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
            best_epoch=best_epoch(history),
            split_by=self.settings.split.by,
            split=cohort.counts(),
            leakage=asdict(cohort.leakage),
            parameters=count_parameters(build(bundle.model)),
            operating=bundle.operating,
            held_out=beside,
            audit=self.audit["shortcuts"],
            lesions=self._lesion_figures(bundle, cohort) if self.masks is not None else {},
            search=self.search,
        )


def _reference(rows: pa.Table, found: np.ndarray) -> dict[str, Any]:
    """What is known of validation rows and their answers, blank ones apart."""
    seen = np.flatnonzero(~columns.flagged(rows["flags"], [Flag.BLANK]))
    rows = rows.take(pa.array(seen))
    numbers = {"probability": found[seen], "level": columns.floats(rows["mean_level"])}
    return reference(numbers, {name: rows[name].to_pylist() for name in WORDS})
