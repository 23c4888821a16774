"""What all jobs over an archive have in common: where things lie, the stock-taking, the report, run.json."""

import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Update
from mri_ray.archive.pseudonym import Identifiers, pseudonym, site_key
from mri_ray.archive.select import leaves_out, selected
from mri_ray.archive.several import archive_of, keys_of, source_of, titles, within_source
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
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveNotFound
from mri_ray.learn.bundle import Bundle
from mri_ray.on_ray import ingest, plan, studies
from mri_ray.on_ray.settings import ArchiveRun, LabelledRun, listed
from mri_ray.on_ray.work import ONE_CPU
from mri_ray.predict.heatmap import heatmaps
from mri_ray.predict.snapshot import Snapshot
from mri_ray.predict.studies import StudyRule
from mri_ray.predict.worklist import as_csv, worklist
from mri_ray.prepare.objects import Place, again
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Flag
from mri_ray.report import answers, subgroups
from mri_ray.report.facts import Answers, Example, Facts
from mri_ray.report.record import Record, last_complete, versions

_NAMED_FOLDERS = 20  # in run.json, of those that could not be listed
_SHOWN_BYTES = 2**31  # of objects and packs that are read once more for pictures

log = logging.getLogger(__name__)


class Job:
    """One run over an archive. Making it checks, before Ray starts, that archive, output and labels can be used."""

    def __init__(self, name: str, settings: ArchiveRun, headline: str = "") -> None:
        self.headline = headline
        self.archive = archive_of(settings.archive, settings.storage)
        self.output = Location.of(settings.output, settings.storage)
        self.identifiers = Identifiers(headers=settings.identifiers, uris=settings.uris)
        self.identifiers.id_key()  # raises where paths are to be replaced without a key
        self.linkage = Location.of(settings.linkage, settings.storage) if settings.linkage else None
        self.links = None if self.linkage is None else self.linkage / "objects"  # what leads back, by generation
        self.archive.check()
        for place in filter(None, (self.output, self.linkage)):
            place.check(must_exist=False)
        self.record = Record(name, settings)
        self.deadline = None if settings.max_runtime_s is None else time.monotonic() + settings.max_runtime_s
        self._shared = settings
        self._denied: set[str] = set()  # what of the archive could not be listed

    def take_stock(self, root: Location, finished: Location) -> Manifest:
        """List the archive, add what is new, and what failed in `finished` and may succeed now; the manifest as of now.

        root: below which the manifest is kept, unless paths are: then it lies below the linkage. Raises
        ArchiveNotFound when there is no object at all, ArchiveDenied when that may be for want of permission,
        IdentifierError when identifiers are met that have no key.
        """
        manifest = self._manifest(root)
        with self._untold():
            update = manifest.update(self._listed(), denied=self._denied, **self._cut)
        log.info(
            "listed %s objects: %s new or changed, %s known, %s gone",
            *(f"{number:,}" for number in (update.new + update.known, update.new, update.known, update.gone)),
        )
        self._check_listing(update)
        manifest.add_retry(outputs.to_retry(manifest.pinned(), finished), after=update.listing, **self._cut)
        self.record.note(this_run={"new": update.new, "known": update.known, "gone": update.gone})
        self.manifest = manifest.pinned()  # what another run adds from now on is that run's affair
        return self.manifest

    def plan(self, root: Location, finished: Location, stage: str) -> None:
        """Note as `plan` what there is to do, from a listing alone: nothing is written. Raises as `take_stock`."""
        manifest = self._manifest(root)
        with self._untold():
            failed = outputs.to_retry(manifest.pinned(), finished)
            update, again = manifest.plan(self._listed(), failed, denied=self._denied, **self._cut)
        self._check_listing(update)
        there = set(finished.keys())
        todo = [shard for shard in update.shards if outputs.name(shard) not in there] + list(again)
        self.record.note(plan=plan.plan(update, again, todo, last_complete(self.output), stage))

    def _manifest(self, root: Location) -> Manifest:
        """The archive's manifest, before it is listed. Raises IdentifierError as `take_stock`."""
        if self.identifiers.headers == "pseudonym" and not self.identifiers.fingerprint:
            log.info("looking for identifiers in %s, since there is no site key", self.archive.uri)
            if ingest.probe(self.archive, self._listed(), self._shared.decode):
                self.identifiers.require_key()
        log.info("listing %s", self.archive.uri)
        # Below a linkage ids follow from the site key: another key is another manifest.
        which = () if self._shared.select.is_all else (digest_json(self._shared.select),)
        name = digest("manifest", self.archive.uri, self.identifiers.fingerprint if self.linkage else "", *which)
        return Manifest((self.linkage or root) / "manifest" / name, secret=self.identifiers.id_key())

    @property
    def _cut(self) -> dict[str, int]:
        return {"shard_objects": self._shared.shards.objects, "shard_bytes": self._shared.shards.megabytes * 2**20}

    def _check_listing(self, update: Update) -> None:
        if self._denied:
            self._tell_denied(update)
        if not update.new + update.known:
            left = "" if self._shared.select.is_all else " that `select` leaves"
            raise ArchiveNotFound(f"archive: must hold at least one object{left}, got none below {self.archive.uri}")

    def _listed(self) -> Iterator[pa.RecordBatch]:
        return selected(self.archive.list(self._deny), self._shared.select)

    def _deny(self, folder: str) -> None:
        if not leaves_out(self._shared.select, folder):
            self._denied.add(folder)

    def _tell_denied(self, update: Update) -> None:
        """A listing that could not look everywhere is told wherever people look, since its counts are not of all."""
        if not update.new + update.known:
            raise ArchiveDenied(
                f"archive: must hold at least one object that may be listed, got none, and {len(self._denied):,} "
                f"folders that may not, below {self.archive.uri}; grant permission to list them"
            )
        denied: dict[str, Any] = {"number": len(self._denied), "kept": update.kept}
        if self._shared.uris == "keep":
            denied["first"] = [self.archive.uri_of(name) for name in sorted(self._denied)[:_NAMED_FOLDERS]]
        self.record.note(denied_folders=denied)
        self.warn(
            f"{len(self._denied):,} folders may not be listed: what is new in them is in no count, and results of "
            f"{update.kept:,} objects known from earlier listings stay as they were; grant permission to list them, or "
            "leave them out with select.exclude (denied_folders in run.json)"
        )

    def source(self, prepare: PrepareConfig, generation: Location) -> ingest.FromArchive:
        """Rows of the archive's shards; generation: where what is made of them goes."""
        links = None if self.links is None else self.links / generation.name
        self._links = links
        return ingest.FromArchive(
            archive=self.archive,
            manifest=self.manifest,
            decode=self._shared.decode,
            prepare=prepare,
            identifiers=self.identifiers,
            links=links,
        )

    def paths(self, rows: pa.Table) -> pa.ChunkedArray:
        """The rows' paths below the archive's root, from their URIs, or from the linkage where those are not kept."""
        if self._links is None:
            return keys_of(self.archive, rows["uri"])
        place = pc.index_in(rows["object_id"], value_set=self._known["object_id"])
        if place.null_count:
            raise ArchiveError(
                "linkage: must be the one these rows were made with, but it does not lead back to "
                f"{place.null_count:,} of {len(place):,} slices; give that one, or another output (and cache)"
            )
        return self._known["path"].take(place)

    @cached_property
    def _known(self) -> pa.Table:
        """What leads back to the paths of all shards; asked for when these are done."""
        assert self._links is not None, "paths are kept"
        wanted = {shard.digest for shard in self.manifest.shards()}
        # A shard that had to be rescued has left several files, whose names go on behind its own.
        names = [name for name in self._links.keys() if name[:32] in wanted]  # noqa: SIM118
        return pa.concat_tables([ingest.LINKS.empty_table(), *(self._links.read_table(name) for name in names)])

    @contextmanager
    def _untold(self) -> Iterator[None]:
        """What goes wrong with an archive whose paths hold names must not tell them."""
        try:
            yield
        except ArchiveError as exc:
            if self._shared.uris == "keep":
                raise
            raise type(exc)(
                f"archive: listing it failed ({type(exc).__name__}), below {self.archive.uri}; where is not told, as "
                "paths may hold names: list it with uris=keep, where names may be seen, to find out"
            ) from None

    def warn(self, warning: str) -> None:
        log.warning(warning)
        self.record.values["warnings"].append(warning)

    def warn_of_paths(self, found: Snapshot) -> None:
        if found.named_paths and self._shared.uris == "keep":
            self.warn(
                f"{found.named_paths:,} paths repeat a name or id of their headers, and paths are kept; uris=pseudonym "
                "leaves them out"
            )


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
        """Rows of the results prepared again, by row: as many as lie in objects of _SHOWN_BYTES together.

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
        found: np.ndarray = ray.get(task.remote(bundle, np.stack(list(pictures.values()))))
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
