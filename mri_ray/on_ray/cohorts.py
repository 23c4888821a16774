"""The archive of a run, prepared -> its cohort: what is to be learned from, grouped and split."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive import outputs
from mri_ray.archive.storage import Location
from mri_ray.cohort import columns
from mri_ray.cohort.assemble import INDEX, Cohort, assemble
from mri_ray.cohort.labels import shared_patients
from mri_ray.cohort.sources import no_sources
from mri_ray.cohort.split import SplitConfig
from mri_ray.on_ray import copies, ingest
from mri_ray.on_ray.labelled import LabelledJob
from mri_ray.on_ray.settings import AuditRun, TrainRun
from mri_ray.prepare.objects import states
from mri_ray.records import State
from mri_ray.report.record import judge


def of(
    job: LabelledJob, settings: TrainRun | AuditRun, prepared: Location, cache: Location, split: SplitConfig | None
) -> Cohort:
    """The cohort of a job, once all of its archive is prepared in `prepared`; notes its counts.

    cache: below it the manifest is kept, and near copies once they were found. Raises LabelError, SplitError,
    TooManyQuarantined.
    """
    with job.record.stage("listing"):
        job.take_stock(cache, prepared)
    source = job.source(settings.prepare, prepared)
    with job.record.stage("preparing"):
        done = ingest.prepare_all(
            source, prepared, workers=settings.shards.workers, deadline=job.deadline, tell=job.record.tell
        )
    job.record.values["this_run"] |= done
    index = outputs.live(job.manifest, prepared, [*INDEX])
    counts, reasons = _quarantined(index)
    job.record.note(counts=counts, reasons=reasons)
    judge(counts, reasons, settings.max_quarantined_fraction)
    usable = index.filter(pc.is_null(index["reason"]))
    matched = job.labels_of(usable, require=True)
    with job.record.stage("copies"):
        files = [(prepared, outputs.name(shard)) for shard in job.manifest.shards()]
        near = copies.links(usable, files, cache / "copies")
    if shared := shared_patients(matched.patient, job.source_of(usable)):
        job.warn(f"{shared:,} patients stand in the labels of several archives: each is taken for one person")
    cohort = assemble(
        usable,
        paths=job.paths(usable),
        matched=matched,
        key_of=job.patient_key,
        near=list(zip(near["one"].to_pylist(), near["other"].to_pylist(), strict=True)),
        split=split,
        seed=settings.seed,
        no_sources=no_sources(settings.classes, (split or SplitConfig()).folders),
        quote=job.quote,
    )
    return replace(cohort, sources=job.named(cohort.sources))


def _quarantined(index: pa.Table) -> tuple[dict[str, int], dict[str, int]]:
    """Objects by state, and rows by reason."""
    _, first = np.unique(columns.codes(index["object_id"]), return_index=True)
    ended = _counted(states(index).take(pa.array(first)))
    counts = {"objects": len(first)} | {state.value: ended.get(state.value, 0) for state in State}
    return counts, _counted(index["reason"].drop_null())


def _counted(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}
