"""What a training and a scoring have in common: where things lie, the stock-taking, the report, run.json."""

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.cohort.labels import labels_from_file, labels_from_folders
from mri_ray.errors import ArchiveNotFound
from mri_ray.learn.bundle import Bundle
from mri_ray.on_ray.settings import ScoreRun, TrainRun
from mri_ray.predict.snapshot import Snapshot
from mri_ray.report import answers, examples
from mri_ray.report.facts import Answers
from mri_ray.report.record import Record, versions

log = logging.getLogger(__name__)


class Job:
    """One run over an archive. Making it checks, before Ray starts, that archive, output and labels can be used."""

    def __init__(self, name: str, settings: TrainRun | ScoreRun, headline: str) -> None:
        self.headline = headline
        self.archive = Location.of(settings.archive, settings.storage)
        self.output = Location.of(settings.output, settings.storage)
        self.archive.check()
        self.output.check(must_exist=False)
        self.labels: pa.Table | None = None
        if settings.labels:
            self.labels = labels_from_file(Location.of(settings.labels, settings.storage), settings.classes)
        self.record = Record(name, settings)
        self._shared = settings

    def take_stock(self, finished: Location) -> Manifest:
        """List the archive, add what is new, and what failed in `finished` and may succeed now; the manifest as of now.

        Raises ArchiveNotFound when there is no object at all.
        """
        log.info("listing %s", self.archive.uri)
        manifest, cut = Manifest(self.output / "manifest"), self._shared.shards
        update = manifest.update(self.archive.list(), shard_objects=cut.objects, shard_bytes=cut.megabytes * 2**20)
        log.info(
            "listed %s objects: %s new or changed, %s known, %s gone",
            *(f"{number:,}" for number in (update.new + update.known, update.new, update.known, update.gone)),
        )
        if not update.new + update.known:
            raise ArchiveNotFound(f"archive: must hold at least one object, got none below {self.archive.uri}")
        manifest.add_retry(outputs.to_retry(manifest.pinned(), finished), after=update.listing)
        self.record.note(this_run={"new": update.new, "known": update.known, "gone": update.gone})
        return manifest.pinned()  # what another run adds from now on is that run's affair

    def labels_of(self, keys: pa.ChunkedArray) -> pa.Table:
        """The labels file's, or what the folders around the keys tell."""
        if self.labels is not None:
            return self.labels
        return labels_from_folders(keys, self._shared.classes)[0]

    def warn(self, warning: str) -> None:
        log.warning(warning)
        self.record.values["warnings"].append(warning)

    def facts(
        self, bundle: Bundle, found: Snapshot, results: pa.Table, labelled: Answers, chosen: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """The fields of `report.facts.Facts`; chosen: the example pictures, as positions into the results."""
        source = (self.archive, self._shared.decode, bundle.prepare)
        return {
            "run_id": self.record.run_id,
            "archive": self.archive.uri,
            "headline": self.headline,
            "counts": found.counts,
            "reasons": found.reasons,
            "answers": labelled,
            "metrics": answers.by_side(labelled, temperature=bundle.temperature, threshold=bundle.threshold),
            "threshold": bundle.threshold,
            "bundle_digest": bundle.digest,
            "examples": examples.pictures(chosen, labelled, results, source),
            "warnings": self.record.values["warnings"],
            "timings_s": self.record.timings_s,
            "versions": versions(),
            "settings": self.record.values["settings"],
        }

    def publish(self, page: str, bundle: Bundle, place: Location, found: Snapshot, metrics: dict[str, Any]) -> None:
        """Write report.html and, last of all, run.json. place: where the bundle lies."""
        self.output.write("report.html", page.encode())
        self.record.note(
            counts=found.counts,
            reasons=found.reasons,
            metrics=metrics,
            results=found.uri,
            bundle=place.uri,
            bundle_digest=bundle.digest,
            prepare_digest=bundle.prepare.digest(),
            report=self.output.uri_of("report.html"),
        )
        self.record.write(self.output)
