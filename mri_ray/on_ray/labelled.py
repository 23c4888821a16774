"""What jobs have in common whose answers are held against labels: studies, figures, pictures, the report."""

import secrets
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mri_ray.archive.pseudonym import pseudonym, site_key
from mri_ray.archive.several import source_of, titles, within_source
from mri_ray.archive.storage import Location
from mri_ray.cohort.columns import flagged
from mri_ray.cohort.groups import group
from mri_ray.cohort.labels import (
    Matched,
    bring,
    labels_from_file,
    labels_from_folders,
    match,
    refuse_one_class,
    together,
)
from mri_ray.learn.bundle import Bundle
from mri_ray.on_ray import studies
from mri_ray.on_ray.job import Job
from mri_ray.on_ray.settings import LabelledRun, listed
from mri_ray.on_ray.work import ONE_CPU
from mri_ray.predict.heatmap import heatmaps
from mri_ray.predict.snapshot import Snapshot
from mri_ray.predict.studies import StudyRule
from mri_ray.predict.worklist import as_csv, worklist
from mri_ray.prepare.objects import Place, again
from mri_ray.prepare.slices import seen
from mri_ray.records import Flag
from mri_ray.report import answers, subgroups
from mri_ray.report.facts import Answers, Example, Facts
from mri_ray.report.record import versions

_SHOWN_BYTES = 2**31  # of objects and packs that are read once more for pictures


class LabelledJob(Job):
    """A run whose answers are held against labels: from a labels file, or from what folder names tell."""

    def __init__(self, name: str, settings: LabelledRun, headline: str) -> None:
        super().__init__(name, settings, headline)
        self._settings = settings
        self.tables = self.output  # where studies, patients, worklist, series and the report are written
        self.quote = settings.uris == "keep"
        # Of each archive; None where its folders tell the classes.
        self._labels = [self._labels_in(uri) for uri in listed(settings.labels, settings.archive)]
        # What stands for ids in a labels file: as for those in headers, or, without a key, for this run alone.
        known = site_key() if settings.identifiers == "pseudonym" else None
        self._secret = known or secrets.token_bytes(32)

    def _labels_in(self, uri: str | None) -> pa.Table | None:
        if uri is None:
            return None
        place = Location.of(uri, self._settings.storage)
        key_of = None if self._settings.identifiers == "drop" else self.identifiers.key_of
        return labels_from_file(place, self._settings.classes, key_of, quote=self.quote)

    @property
    def has_labels_file(self) -> bool:
        return any(labels is not None for labels in self._labels)

    def labels_of(self, rows: pa.Table, *, require: bool = False) -> Matched:
        """The labels of rows: the labels file's, or what the folders around the objects tell.

        require: raises LabelError when no row, or only one class, is labelled.
        """
        paths = self.paths(rows)
        source = source_of(self.archive, paths).to_numpy()
        inner = within_source(self.archive, paths)
        parts = []
        for number, labels in enumerate(self._labels):
            mine = np.flatnonzero(source == number)
            keys, own = inner.take(pa.array(mine)), rows.take(pa.array(mine))
            if labels is None:
                labels = labels_from_folders(keys, self._settings.classes)[0]
            if require:
                parts.append((mine, match(keys, labels, own, quote=self.quote, alone=len(self._labels) == 1)))
            else:
                parts.append((mine, bring(keys, labels, own)))
        matched = together(parts, rows.num_rows)
        if require:
            refuse_one_class(matched.label)
        return matched

    def source_of(self, rows: pa.Table) -> np.ndarray:
        """The number of each row's archive, int32 (N,)."""
        return source_of(self.archive, self.paths(rows)).to_numpy()

    def patient_key(self, patient: str) -> str | None:
        """What stands for a patient of the labels in the columns of headers; None where those cannot hold it."""
        if self.identifiers.headers == "pseudonym" and not self.identifiers.fingerprint:
            return None
        return self.identifiers.key_of("patient", patient)

    def facts(
        self,
        bundle: Bundle,
        found: Snapshot,
        results: pa.Table,
        matched: Matched,
        labelled: Answers,
        shown: list[Example],
    ) -> dict[str, Any]:
        """The fields of `report.facts.Facts`; shown: the examples."""
        self.warn_of_paths(found)
        levels, by_level = self._levels(bundle, found, results, matched, labelled)
        evaluation = self._settings.evaluation
        figures = answers.by_side(labelled, bundle, evaluation)
        side = answers.most_telling(figures)
        parts, worst = subgroups.Subgroups(), []
        if side is not None:
            details = answers.read(Location.of(found.uri, self._settings.storage), subgroups.COLUMNS)
            parts = answers.by_subgroup(labelled, details, side, bundle, evaluation)
            worst = answers.worst_groups(labelled, side, bundle)
        return {
            "run_id": self.record.run_id,
            "archive": self.archive.uri,
            "headline": self.headline,
            "counts": found.counts,
            "packs": found.packs,
            "reasons": found.reasons,
            "answers": labelled,
            "metrics": figures,
            "levels": by_level,
            "subgroups": parts,
            "worst_groups": worst,
            "studies": {"studies": levels.studies.num_rows, "patients": levels.patients.num_rows}
            | {f"series with {flag}": number for flag, number in levels.series_flags.items()},
            "threshold": bundle.threshold,
            "refer": bundle.refer,
            "study_threshold": bundle.of_studies[0],
            "bundle_digest": bundle.digest,
            "examples": shown,
            "warnings": self.record.values["warnings"],
            "timings_s": self.record.timings_s,
            "versions": versions(),
            "settings": self.record.values["settings"],
        }

    def _levels(
        self, bundle: Bundle, found: Snapshot, results: pa.Table, matched: Matched, labelled: Answers
    ) -> tuple[studies.Levels, dict[str, dict[str, dict[str, Any]]]]:
        """Studies and patients, written beside the results, and their figures."""
        snapshot = Location.of(found.uri, self._settings.storage)
        assigned = self.assigned(results, matched)
        threshold, refer = bundle.of_studies
        join = studies.Join(
            snapshot=snapshot,
            assigned=assigned,
            place=self.tables / "series" / snapshot.name,
            rule=StudyRule(),
            threshold=threshold,
            refer=refer,
        )
        levels = join.run()
        self.tables.write_table("studies.parquet", levels.studies)
        self.tables.write_table("patients.parquet", levels.patients)
        order = worklist(levels.studies, results)
        self.tables.write_table("worklist.parquet", order)
        self.tables.write("worklist.csv", as_csv(order))
        tables = {name: self.tables.uri_of(f"{name}.parquet") for name in ("studies", "patients", "worklist")}
        self.record.note(series=join.place.uri, **tables)
        figures = answers.by_level(
            labelled,
            studies.with_keys(results, assigned),
            {"study": levels.studies, "patient": levels.patients},
            flagged(results["flags"], [Flag.BLANK]),
            threshold=threshold,
            evaluation=self._settings.evaluation,
        )
        return levels, figures

    def groups_of(self, results: pa.Table, matched: Matched) -> np.ndarray:
        """Whose slice each is, int32 (N,): of one patient, study or picture, as headers, labels and pixels tell.

        -1 without a label: such a slice is in no figure.
        """
        labelled = np.flatnonzero(matched.label >= 0)
        rows = results.select(["row_id", "pixel_digest", "flags", "patient_key", "study_key"]).take(pa.array(labelled))
        rows = studies.with_keys(rows, self.assigned(results, matched))
        found = np.full(results.num_rows, -1, np.int32)
        found[labelled] = group(
            rows["pixel_digest"].to_pylist(),
            ~flagged(rows["flags"], [Flag.BLANK]),
            (rows["patient_key"].to_pylist(),),
            (rows["study_key"].to_pylist(),),
        )
        return found

    def named(self, names: list[str]) -> list[str]:
        """Sources as they may be told: their folders' names where paths are kept."""
        if len(names) == 1:  # one source has no name
            return names
        return titles(self.archive, names) if self.quote else [f"source {number + 1}" for number in range(len(names))]

    def assigned(self, results: pa.Table, matched: Matched) -> pa.Table:
        """Keys of the patients and studies that a labels file tells: a study is what one patient has on one date."""
        known = [i for i, patient in enumerate(matched.patient) if patient is not None]
        patients = [str(matched.patient[i]) for i in known]
        dates = [matched.study_date[i] or "" for i in known]
        return pa.table(
            {
                "row_id": results["row_id"].take(pa.array(known, pa.int64())),
                "patient_key": self._stands_for("patient", patients),
                "study_key": self._stands_for("study", [" ".join(pair) for pair in zip(patients, dates, strict=True)]),
            }
        )

    def _stands_for(self, kind: str, values: list[str]) -> pa.Array:
        if self._settings.identifiers == "keep":
            return pa.array(values, pa.string())
        distinct = {value: pseudonym(self._secret, kind, value) for value in set(values)}
        return pa.array([distinct[value] for value in values], pa.string())

    def showable(self, results: pa.Table) -> np.ndarray:
        """Which slices a report may show, bool (N,): writing in the picture may be a name."""
        if self._settings.identifiers == "keep":
            return np.ones(results.num_rows, bool)
        return ~flagged(results["flags"], [Flag.BURNED_IN, Flag.SECONDARY])

    def pictures(self, bundle: Bundle, results: pa.Table, rows: Iterable[int]) -> dict[int, np.ndarray]:
        """Heads of the results, prepared again, by row: as many as lie in objects of _SHOWN_BYTES together.

        Those named first come first. An object or pack is read once.
        """
        order = list(dict.fromkeys(rows))
        some = results.take(pa.array(order, pa.int64()))
        paths, members = self.paths(some).to_pylist(), some["member"].to_pylist()
        wanted: dict[str, dict[Place, int]] = {}
        left = _SHOWN_BYTES
        for row, path, member, frame, size in zip(
            order, paths, members, some["frame"].to_pylist(), some["size"].to_pylist(), strict=True
        ):
            # With paths kept the member is known; else the first mark parts it from the pack, as folders rarely end in
            # one.
            key = path
            if member is not None:
                key = path.removesuffix(f"!/{member}") if self.linkage is None else path.partition("!/")[0]
            if key not in wanted and size > left:
                continue
            if key not in wanted:
                left -= size
            wanted.setdefault(key, {})[None if member is None else path.removeprefix(f"{key}!/"), frame] = row
        found: dict[int, np.ndarray] = {}
        for key, places in wanted.items():
            prepared = again(self.archive, key, places.keys(), self._settings.decode, bundle.prepare)
            found |= {places[place]: picture for place, picture in prepared.items()}
        return found

    def heat(self, bundle: Bundle, pictures: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Heat maps of pictures, by row."""
        if not pictures:
            return {}
        task = ray.remote(heatmaps).options(**ONE_CPU)
        images = np.stack([seen(head, bundle.prepare) for (head,) in pictures.values()])[:, np.newaxis]
        found: np.ndarray = ray.get(task.remote(bundle, images))
        return dict(zip(pictures, found, strict=True))

    def publish(self, page: str, bundle: Bundle, place: Location, facts: Facts) -> None:
        """Write report.html and, last of all, run.json. place: where the bundle lies."""
        self.tables.write("report.html", page.encode())
        self.record.note(
            counts=facts.counts,
            packs=facts.packs,
            reasons=facts.reasons,
            metrics=facts.metrics,
            levels=facts.levels,
            subgroups=asdict(facts.subgroups),
            bundle=place.uri,
            bundle_digest=bundle.digest,
            prepare_digest=bundle.prepare.digest(),
            report=self.output.uri_of("report.html"),
        )
        self.record.write(self.tables)
