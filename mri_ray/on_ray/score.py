"""The scoring job: a whole archive and a bundle -> one row a slice, a snapshot and a report; a rerun does the rest."""

import logging
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive import changes, runs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.cohort import sides
from mri_ray.cohort.sources import no_sources, sources
from mri_ray.cohort.split import SplitConfig
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import cluster, score_shards
from mri_ray.on_ray.labelled import LabelledJob
from mri_ray.on_ray.settings import ScoreRun
from mri_ray.predict import generations, snapshot
from mri_ray.report import answers, cases, examples, folders, pages, rows
from mri_ray.report.facts import Answers, Example, ScoringFacts
from mri_ray.report.record import Record, figures, judge

log = logging.getLogger(__name__)

HEADLINE = "Answers of a trained bundle for every slice of this archive."


def run(settings: ScoreRun, *, headline: str = HEADLINE) -> Record:
    """Score what is not scored yet and publish; all of it lies below `settings.output` afterwards.

    A dry run notes a `plan` and writes nothing.
    Raises TooManyQuarantined, after everything is written, when more objects failed than the run allows; then nothing
    earlier is removed either.
    """
    job = _Scoring(settings, headline)
    if settings.dry_run:
        job.plan(job.output, job.results, "scoring")
        return job.record
    with job.record.kept(job.output):
        with cluster.connected(settings.ray), runs.begun(job.output, job.record.run_id, job.results.name) as begun:
            job.run(begun)
        judge(job.record.values["counts"], job.record.values["reasons"], settings.max_quarantined_fraction)
    generations.retire(job.output, settings.keep, job.links)
    return job.record


class _Scoring(LabelledJob):
    def __init__(self, settings: ScoreRun, headline: str) -> None:
        super().__init__("score", settings, headline)
        self.settings = settings
        self.place = Location.of(settings.bundle, settings.storage)
        self.bundle = bundles.load(self.place)
        self.tables = runs.place(self.output, self.record.run_id)
        self.results = score_shards.generation(
            self.output / generations.RESULTS,
            self.archive,
            self.bundle.digest,
            settings.decode,
            settings.precision,
            self.identifiers,
            settings.engine,
        )
        self.record.note(generation=self.results.name)

    def run(self, begun: runs.Begun) -> None:
        settings, record, results = self.settings, self.record, self.results
        snapshots = self.output / generations.SNAPSHOTS
        with record.stage("listing"):
            manifest = self.take_stock(self.output, results)
            self._tell_changes(manifest)
            begun.note(results=snapshot.place(manifest, results, snapshots).uri)
        task = score_shards.Task(
            source=self.source(self.bundle.prepare, results),
            bundle=self.place,
            results=results,
            run_id=record.run_id,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
            engine=settings.engine,
        )
        with record.stage("scoring"):
            done = score_shards.score_all(
                task, manifest, settings=settings.shards, deadline=self.deadline, tell=record.tell
            )
        rate = round(done["objects"] / record.timings_s["scoring"], 2)
        record.values["this_run"] |= {**done, "objects_per_s": rate}
        with record.stage("snapshot"):
            found = snapshot.build(manifest, results, snapshots)
        with record.stage("report"):
            facts = self._facts(found)
            self.record.note(results=found.uri)
            self.publish(pages.scoring_page(facts), self.bundle, self.place, facts)
        if not runs.publish(self.output, record.run_id):
            self.warn("a run that looked at the archive later has ended before this one: its results stay current")

    def _tell_changes(self, manifest: Manifest) -> None:
        """What came and went since the last results that were published of this manifest, by whichever bundle."""
        earlier = [run for run in runs.read(self.output) if run.finished and run.looked[0] == manifest.name]
        last = earlier[0].looked[1] if earlier else 0
        found = changes.between(manifest.at(min(last, manifest.number)), manifest)
        log.info(
            "since %s: %s new objects, %s changed, %s deleted",
            f"the results of {earlier[0].run_id}" if earlier else "nothing was scored here",
            *(f"{number:,}" for number in (found.new, found.changed, found.deleted)),
        )
        self.record.values["this_run"] = asdict(found)
        self.record.note(manifest=manifest.name, listing=manifest.number)

    def _facts(self, found: snapshot.Snapshot) -> ScoringFacts:
        results = answers.read(self._snapshot(found))
        matched = self.labels_of(results)
        group = self.groups_of(results, matched)
        seen = sides.of_groups(sides.of_pictures(results["pixel_digest"], self.place), group)
        if self.has_labels_file and matched.unlabelled:
            self.warn(f"{matched.unlabelled:,} of {len(seen):,} slices have no label and are in no figure")
        if matched.weak:
            self.warn(f"{matched.weak:,} slices are called tumor by a label of their whole study, series or volume")
        if not self.place.exists(sides.NAME):
            self.warn(f"the bundle has no {sides.NAME}: figures may be of slices that it was trained on, untold")
        if trained := int(np.isin(seen, ["train", "validation"]).sum()):
            self.warn(
                f"{trained:,} of {len(seen):,} slices were used to train or choose this bundle, or are of such a "
                "patient; figures of the sides train and validation are no evidence"
            )
        source, names = sources(self.paths(results), group, no_sources(self.settings.classes, SplitConfig().folders))
        labelled = answers.answers(
            results,
            label=matched.label,
            side=seen,
            group=group,
            source=np.array(self.named(names))[source],
            lesion_px=matched.lesion_px,
        )
        shown, looks = self._looks(found, results, labelled)
        by_folder = self._folders(found)
        self.record.note(prefixes=None if by_folder is None else asdict(by_folder))
        done = self.record.values["this_run"]
        return ScoringFacts(
            **self.facts(self.bundle, found, results, matched, labelled, shown),
            **looks,
            this_run=figures(done) | {"history": done["history"]},
            results=found.uri,
            decisions={entry["values"]: entry["counts"] for entry in pc.value_counts(results["decision"]).to_pylist()},
            folders=by_folder,
        )

    def _looks(
        self, found: snapshot.Snapshot, results: pa.Table, labelled: Answers
    ) -> tuple[list[Example], dict[str, Any]]:
        """Examples of every decision, and those fields of ScoringFacts that hold examples of flags, copies, reasons."""
        usable = self.showable(results)
        chosen = examples.choose(labelled, results, self.bundle.threshold, usable=usable)
        counts, flagged = examples.by_flag(labelled, results, usable)
        failing = rows.scan(self._snapshot(found), cases.COLUMNS, cases.WHERE)
        sought = cases.seek(failing, found.reasons, found.counts["duplicate"])
        pairs, beside = cases.pairs(sought, results, usable), cases.siblings(sought, results, usable)
        order = [*examples.rows(chosen), *chain(*pairs), *beside.values(), *examples.rows(flagged)]
        pictures = self.pictures(self.bundle, results, order)
        heat = self.heat(self.bundle, {row: pictures[row] for row in examples.rows(chosen) if row in pictures})

        def one(position: int, title: str) -> Example | None:
            return examples.one(position, title, labelled, results, pictures)

        copies = [(one(copy, "copy"), one(original, "original")) for copy, original in pairs]
        near = {name: one(position, "beside one that failed") for name, position in beside.items()}
        return examples.shown(chosen, labelled, results, pictures, heat), {
            "flags": counts,
            "flagged": examples.shown(flagged, labelled, results, pictures),
            "copies": [pair for pair in copies if None not in pair],
            "cases": cases.told(sought, self.archive.uri, near),
        }

    def _folders(self, found: snapshot.Snapshot) -> folders.Folders | None:
        """The archive by folder, where paths are kept."""
        if self.settings.uris != "keep":
            return None
        return folders.by_folder(rows.scan(self._snapshot(found), folders.COLUMNS), self.archive.uri)

    def _snapshot(self, found: snapshot.Snapshot) -> Location:
        return Location.of(found.uri, self.settings.storage)
