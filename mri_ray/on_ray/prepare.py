"""The preparing job: an archive -> shards of prepared slices that trainings stream from, and a ledger of objects."""

from mri_ray.archive.storage import Location
from mri_ray.on_ray import cluster, ingest
from mri_ray.on_ray.job import Job
from mri_ray.on_ray.settings import PrepareRun
from mri_ray.predict import snapshot
from mri_ray.records import LEDGER
from mri_ray.report.record import Record, judge


def run(settings: PrepareRun) -> Record:
    """Prepare what is not prepared yet; all of it lies below `settings.output` afterwards.

    A dry run notes a `plan` and writes nothing.
    Raises TooManyQuarantined, after everything is written, when more objects failed than the run allows.
    """
    job = Job("prepare", settings)
    place = ingest.prepared_location(job.output, job.archive, settings.decode, settings.prepare, job.identifiers)
    if settings.dry_run:
        job.plan(job.output, place, "preparing")
        return job.record
    with job.record.kept(job.output):
        _run(job, settings, place)
        judge(job.record.values["counts"], job.record.values["reasons"], settings.max_quarantined_fraction)
    return job.record


def _run(job: Job, settings: PrepareRun, place: Location) -> None:
    record = job.record
    with cluster.connected(settings.ray):
        with record.stage("listing"):
            manifest = job.take_stock(job.output, place)
        with record.stage("preparing"):
            source = job.source(settings.prepare, place)
            done = ingest.prepare_all(
                source, place, workers=settings.shards.workers, deadline=job.deadline, tell=record.tell
            )
    record.values["this_run"] |= done
    with record.stage("ledger"):
        found = snapshot.build(manifest, place, job.output / "snapshots", LEDGER)
    job.warn_of_paths(found)
    record.note(
        counts=found.counts,
        packs=found.packs,
        reasons=found.reasons,
        prepared=place.uri,
        ledger=found.uri,
        prepare_digest=settings.prepare.digest(),
    )
    record.write(job.output)
