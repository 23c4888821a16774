"""The auditing job: what a network could learn from an archive by mistake, before any is trained."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.archive import outputs
from mri_ray.archive.storage import Location
from mri_ray.cohort import audit, columns, shortcuts
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.groups import contradicting
from mri_ray.cohort.labels import CLASSES
from mri_ray.cohort.split import assign, sides_told
from mri_ray.errors import SplitError
from mri_ray.learn.plan import Rows
from mri_ray.on_ray import cluster, cohorts, ingest
from mri_ray.on_ray.labelled import LabelledJob
from mri_ray.on_ray.settings import AuditRun
from mri_ray.on_ray.stream import Prepared
from mri_ray.report import pages
from mri_ray.report.facts import AuditFacts
from mri_ray.report.record import Record, versions

_SHOWN, _EACH = 8, 8  # of the most copied pictures, and rows of each; pairs with two labels

log = logging.getLogger(__name__)


def run(settings: AuditRun) -> Record:
    """Prepare what is not prepared yet, and say what is to be known of it; all of it lies below `settings.output`."""
    job = _Audit(settings)
    with job.record.kept(job.output), cluster.connected(settings.ray):
        job.run()
    return job.record


class _Audit(LabelledJob):
    def __init__(self, settings: AuditRun) -> None:
        super().__init__("audit", settings, "")
        self.settings = settings
        self.cache = Location.of(settings.cache, settings.storage) if settings.cache else self.output
        self.prepared = ingest.prepared_location(
            self.cache, self.archive, settings.decode, settings.prepare, self.identifiers
        )

    def run(self) -> None:
        settings, record = self.settings, self.record
        cohort = cohorts.of(self, settings, self.prepared, self.cache, None)
        with record.stage("auditing"):
            found = audit.audit(cohort, settings.audit, settings.split, settings.classes, settings.seed)
            found |= {"leaks": self._leaks(cohort), "groups": audit.groups(cohort)}
        for warning in self._warnings(cohort, found):
            self.warn(warning)
        with record.stage("report"):
            page = pages.audit_page(self._facts(cohort, found))
        self.output.write("report.html", page.encode())
        record.note(audit=found, report=self.output.uri_of("report.html"))
        record.write(self.output)

    def _leaks(self, cohort: Cohort) -> dict[str, dict[str, int]]:
        """Of the splits that labels and folders tell, where they do, and of slices dealt at random."""
        count = len(cohort.label)
        side = sides_told(self.settings.split, cohort.index["told_split"])
        found = {} if side is None else {"labels": audit.leaks(cohort, side)}
        for kind in ("folder", "image"):
            try:
                side = assign(
                    replace(self.settings.split, by=kind),
                    seed=self.settings.seed,
                    keys=cohort.index["path"],
                    row_ids=cohort.index["row_id"].to_pylist(),
                    patients=[None] * count,
                    groups=cohort.group,
                    quote=False,
                )
            except SplitError as exc:
                log.info("no split by %s to be judged: %s", kind, exc)
                continue
            found[kind] = audit.leaks(cohort, side)
        return found

    def _warnings(self, cohort: Cohort, found: dict[str, Any]) -> list[str]:
        told = cohort.warnings()
        for kind, leaks in found["leaks"].items():
            if leaks["any"]:
                told.append(
                    f"the split by {kind} leaks: {leaks['any']:,} of {leaks['test_slices']:,} test slices "
                    f"({leaks['any'] / leaks['test_slices']:.0%}) have a copy or their patient outside of the test side"
                )
        return [*told, *shortcuts.warnings(found["shortcuts"], self.settings.audit)]

    def _facts(self, cohort: Cohort, found: dict[str, Any]) -> AuditFacts:
        usable = self.showable(cohort.index)
        picture = cohort.index["picture"].to_numpy()
        pixels = columns.codes(cohort.index["pixel_digest"])
        # Groups of one picture are shown as its copies.
        joined = [rows for rows in audit.largest(cohort, cohort.group, _SHOWN) if len(np.unique(picture[rows])) > 1]

        def shown(sets: list[np.ndarray], number: np.ndarray) -> list[tuple[int, list[tuple[str, np.ndarray]]]]:
            some = [audit.different(number, rows[usable[rows]], _EACH) for rows in sets]
            return [(len(rows), self._shown(cohort, mine)) for rows, mine in zip(sets, some, strict=True)]

        both = contradicting(picture, cohort.label)
        pairs = both[usable[both].all(axis=1)][:_SHOWN]
        return AuditFacts(
            run_id=self.record.run_id,
            archive=self.archive.uri,
            told={
                "slices with a label": len(cohort.label),
                "slices without a label, left out": cohort.unlabelled,
                "labels that name nothing that could be read": cohort.labels_without_file,
            },
            **{name: found[name] for name in ("pictures", "leaks", "groups", "contradictions", "shortcuts")},
            copies=shown(audit.largest(cohort, picture, _SHOWN), pixels),
            joined=shown(joined, picture),
            both=[self._shown(cohort, pair) for pair in pairs],
            warnings=self.record.values["warnings"],
            timings_s=self.record.timings_s,
            versions=versions(),
            settings=self.record.values["settings"],
        )

    def _shown(self, cohort: Cohort, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Each row's name and label, and its picture as it was prepared."""
        index = cohort.index.take(pa.array(rows))
        names = tuple(outputs.name(shard) for shard in self.manifest.shards())
        prepared = Prepared(location=self.prepared, names=names, size=self.settings.prepare.size)
        pictures = prepared.pixels(
            Rows(
                part=index["part"].to_numpy(),
                place=index["place"].to_numpy(),
                label=cohort.label[rows],
                row_id=index["row_id"].to_numpy(),
            )
        )
        titles = [
            f"{uri.rpartition('/')[2]} ({CLASSES[label]})"
            for uri, label in zip(index["uri"].to_pylist(), cohort.label[rows].tolist(), strict=True)
        ]
        return list(zip(titles, pictures[:, 0], strict=True))
