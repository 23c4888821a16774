"""The scoring job: a whole archive and a bundle -> one row a slice, a snapshot and a report; a rerun does the rest."""

import numpy as np

from mri_ray.archive.storage import Location
from mri_ray.cohort import sides
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import cluster, score_shards
from mri_ray.on_ray.job import LabelledJob
from mri_ray.on_ray.settings import ScoreRun
from mri_ray.predict import snapshot
from mri_ray.report import answers, examples, pages
from mri_ray.report.facts import ScoringFacts
from mri_ray.report.record import Record, figures, judge

HEADLINE = "Answers of a trained bundle for every slice of this archive."


def run(settings: ScoreRun, *, headline: str = HEADLINE) -> Record:
    """Score what is not scored yet and publish; all of it lies below `settings.output` afterwards.

    A dry run notes a `plan` and writes nothing.
    Raises TooManyQuarantined, after everything is written, when more objects failed than the run allows.
    """
    job = _Scoring(settings, headline)
    if settings.dry_run:
        job.plan(job.output, job.results, "scoring")
        return job.record
    with job.record.kept(job.output):
        with cluster.connected(settings.ray):
            job.run()
        judge(job.record.values["counts"], job.record.values["reasons"], settings.max_quarantined_fraction)
    return job.record


class _Scoring(LabelledJob):
    def __init__(self, settings: ScoreRun, headline: str) -> None:
        super().__init__("score", settings, headline)
        self.settings = settings
        self.place = Location.of(settings.bundle, settings.storage)
        self.bundle = bundles.load(self.place)
        self.results = score_shards.generation(
            self.output / "results",
            self.archive,
            self.bundle.digest,
            settings.decode,
            settings.precision,
            self.identifiers,
        )

    def run(self) -> None:
        settings, record, results = self.settings, self.record, self.results
        with record.stage("listing"):
            manifest = self.take_stock(self.output, results)
        task = score_shards.Task(
            source=self.source(self.bundle.prepare, results),
            bundle=self.place,
            results=results,
            run_id=record.run_id,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
        )
        with record.stage("scoring"):
            done = score_shards.score_all(
                task, manifest, workers=settings.shards.workers, deadline=self.deadline, tell=record.tell
            )
        rate = round(done["objects"] / record.timings_s["scoring"], 2)
        record.values["this_run"] |= {**done, "objects_per_s": rate}
        with record.stage("snapshot"):
            found = snapshot.build(manifest, results, self.output / "snapshots")
        with record.stage("report"):
            facts = self._facts(found)
            self.record.note(results=found.uri)
            self.publish(pages.scoring_page(facts), self.bundle, self.place, facts)

    def _facts(self, found: snapshot.Snapshot) -> ScoringFacts:
        results = answers.read(Location.of(found.uri, self.settings.storage))
        matched = self.labels_of(results)
        seen = sides.of_pictures(results["pixel_digest"], self.place)
        if self.has_labels_file and matched.unlabelled:
            self.warn(f"{matched.unlabelled:,} of {len(seen):,} slices have no label and are in no figure")
        if matched.weak:
            self.warn(f"{matched.weak:,} slices are called tumor by a label of their whole study, series or volume")
        if trained := int(np.isin(seen, ["train", "validation"]).sum()):
            self.warn(
                f"{trained:,} of {len(seen):,} slices were used to train or choose this bundle; figures of the sides "
                "train and validation are no evidence"
            )
        labelled = answers.answers(results, label=matched.label, side=seen)
        chosen = examples.choose(labelled, self.bundle.threshold, usable=self.showable(results))
        return ScoringFacts(
            **self.facts(self.bundle, found, results, matched, labelled, chosen),
            this_run=figures(self.record.values["this_run"]),
            results=found.uri,
        )
