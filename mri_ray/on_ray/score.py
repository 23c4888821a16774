"""The scoring job: a whole archive and a bundle -> one row a slice, a snapshot and a report; a rerun does the rest."""

import logging

import numpy as np

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest, Update
from mri_ray.archive.storage import Location
from mri_ray.cohort import sides
from mri_ray.cohort.assemble import keys
from mri_ray.cohort.labels import bring, labels_from_file, labels_from_folders
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import cluster, ingest, score_shards
from mri_ray.on_ray.settings import ScoreRun
from mri_ray.predict import snapshot
from mri_ray.report import answers, examples, pages
from mri_ray.report.facts import Answers, ScoringFacts
from mri_ray.report.record import Record, judge, versions

log = logging.getLogger(__name__)

HEADLINE = "Answers of a trained bundle for every slice of this archive."


def run(settings: ScoreRun, *, headline: str = HEADLINE) -> Record:
    """Score what is not scored yet and publish; all of it lies below `settings.output` afterwards.

    Raises TooManyQuarantined, after everything is written, when more objects failed than the run allows.
    """
    job = _Job(settings, headline)
    with cluster.connected(settings.ray):
        job.run()
    judge(job.record.values["counts"], job.record.values["reasons"], settings.max_quarantined_fraction)
    return job.record


class _Job:
    """Where the things of one run lie, and its steps in their order."""

    def __init__(self, settings: ScoreRun, headline: str) -> None:
        self.settings = settings
        self.headline = headline
        self.archive = Location.of(settings.archive, settings.storage)
        self.output = Location.of(settings.output, settings.storage)
        self.place = Location.of(settings.bundle, settings.storage)
        self.archive.check()
        self.output.check(must_exist=False)
        self.bundle = bundles.load(self.place)
        self.labels = (
            labels_from_file(Location.of(settings.labels, settings.storage), settings.classes)
            if settings.labels
            else None
        )
        self.manifest = Manifest(self.output / "manifest")
        self.record = Record("score", settings)

    def run(self) -> None:
        settings, record = self.settings, self.record
        results = score_shards.generation(
            self.output / "results", self.archive, self.bundle.digest, settings.decode, settings.precision
        )
        with record.stage("listing"):
            update = ingest.take_stock(self.archive, self.manifest, settings.shards)
            self.manifest.add_retry(outputs.to_retry(self.manifest.pinned(), results), after=update.listing)
        manifest = self.manifest.pinned()  # what another run adds from now on is that run's affair
        task = score_shards.Task(
            source=ingest.FromArchive(
                archive=self.archive, manifest=manifest, decode=settings.decode, prepare=self.bundle.prepare
            ),
            bundle=self.place,
            results=results,
            run_id=record.run_id,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
        )
        with record.stage("scoring"):
            done = score_shards.score_all(task, manifest, workers=settings.shards.workers)
        with record.stage("snapshot"):
            found = snapshot.build(manifest, results, self.output / "snapshots")
        with record.stage("report"):
            self._publish(self._facts(found, self._this_run(update, done)), found)

    def _this_run(self, update: Update, done: dict[str, int]) -> dict[str, float]:
        seconds = self.record.timings_s["scoring"]
        return {
            **done,
            "new": update.new,
            "known": update.known,
            "gone": update.gone,
            "objects_per_s": round(done["objects"] / seconds, 2),
        }

    def _facts(self, found: snapshot.Snapshot, this_run: dict[str, float]) -> ScoringFacts:
        settings, bundle = self.settings, self.bundle
        results = answers.read(Location.of(found.uri, settings.storage))
        places = keys(results, self.archive.uri)
        labels = self.labels
        if labels is None:
            labels, _ = labels_from_folders(places, settings.classes)
        matched = bring(places, labels)
        if self.labels is not None and matched.unlabelled:
            self._warn(f"{matched.unlabelled:,} of {len(places):,} slices have no label and are in no figure")
        seen = sides.of_pictures(results["pixel_digest"], self.place)
        labelled = answers.answers(results, label=matched.label, side=seen)
        self._warn_of_training(labelled)
        chosen = examples.choose(labelled, bundle.threshold)
        return ScoringFacts(
            run_id=self.record.run_id,
            archive=self.archive.uri,
            headline=self.headline,
            counts=found.counts,
            reasons=found.reasons,
            answers=labelled,
            metrics=answers.by_side(labelled, temperature=bundle.temperature, threshold=bundle.threshold),
            threshold=bundle.threshold,
            bundle_digest=bundle.digest,
            examples=examples.pictures(chosen, labelled, results, (self.archive, settings.decode, bundle.prepare)),
            warnings=self.record.values["warnings"],
            timings_s=self.record.timings_s,
            versions=versions(),
            settings=self.record.values["settings"],
            this_run=this_run,
            results=found.uri,
        )

    def _warn(self, warning: str) -> None:
        log.warning(warning)
        self.record.values["warnings"].append(warning)

    def _warn_of_training(self, labelled: Answers) -> None:
        trained = int(np.isin(labelled.side, ["train", "validation"]).sum())
        if trained:
            self._warn(
                f"{trained:,} of {len(labelled.side):,} slices were used to train or choose this bundle; figures of "
                "the sides train and validation are no evidence"
            )

    def _publish(self, facts: ScoringFacts, found: snapshot.Snapshot) -> None:
        self.output.write("report.html", pages.scoring_page(facts).encode())
        self.record.note(
            counts=found.counts,
            reasons=found.reasons,
            this_run=facts.this_run,
            metrics=facts.metrics,
            results=found.uri,
            bundle=self.place.uri,
            bundle_digest=self.bundle.digest,
            prepare_digest=self.bundle.prepare.digest(),
            report=self.output.uri_of("report.html"),
        )
        self.record.write(self.output)
