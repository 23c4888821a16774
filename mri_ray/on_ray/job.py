"""What all jobs over an archive have in common: where things lie, the stock-taking, run.json."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive import outputs
from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.manifest import Manifest, Update
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.select import leaves_out, selected
from mri_ray.archive.several import archive_of, keys_of
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveNotFound
from mri_ray.on_ray import ingest, plan
from mri_ray.on_ray.settings import ArchiveRun
from mri_ray.predict.snapshot import Snapshot
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.report.record import Record, last_complete

_NAMED_FOLDERS = 20  # in run.json, of those that could not be listed

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
            f"{len(self._denied):,} folders may not be listed, or files have names that are no UTF-8: what is new in "
            f"them is in no count, and results of {update.kept:,} objects known from earlier listings stay as they "
            "were; grant permission to list them or rename them, or leave them out with select.exclude (denied_folders "
            "in run.json)"
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
