"""The pass from finished results to series, studies and patients: by buckets of whole studies, on Ray if many."""

import json
import math
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mri_ray.archive.storage import Location
from mri_ray.cohort import series as cohort
from mri_ray.on_ray import cluster
from mri_ray.predict import studies as predict

BUCKET_ROWS = 500_000  # joined at a time, in about 0.5 GB
_COLUMNS = sorted({*cohort.COLUMNS, *predict.COLUMNS})


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Studies (`predict.studies.STUDIES`) and patients (PATIENTS) of an archive, and its series by flag."""

    studies: pa.Table
    patients: pa.Table
    series_flags: dict[str, int]


def with_keys(rows: pa.Table, assigned: pa.Table) -> pa.Table:
    """Rows with the keys that labels tell (`Join.assigned`), where their headers tell none."""
    place = pc.index_in(rows["row_id"], value_set=assigned["row_id"])
    for name in ("patient_key", "study_key"):
        filled = pc.coalesce(rows[name], assigned[name].take(place))
        rows = rows.set_column(rows.schema.get_field_index(name), name, filled)
    return rows


@dataclass(frozen=True, kw_only=True)
class Join:
    """What is joined, and how. assigned: row_id, patient_key and study_key of rows whose study only labels tell."""

    snapshot: Location
    assigned: pa.Table
    place: Location  # of the series: one file a bucket, `series-<number>.parquet`
    rule: predict.StudyRule
    threshold: float
    refer: tuple[float, float] | None

    def run(self, bucket_rows: int = BUCKET_ROWS) -> Levels:
        """Join all rows that belong to a study."""
        filesystem, path = self.snapshot.arrow()
        rows = ds.dataset(path, filesystem=filesystem, format="parquet")
        count = math.ceil(rows.count_rows() / bucket_rows)
        pa.default_memory_pool().release_unused()  # else what went before adds to what this takes
        if count > 1:
            found = self._spread(path, filesystem, count)
        else:
            found = [self._bucket(with_keys(self._with_study(rows), self.assigned), 0)]
        studies = pa.concat_tables([predict.STUDIES.empty_table(), *(part for part, _ in found)])
        flags: Counter[str] = Counter()
        for _, counts in found:
            flags.update(counts)
        return Levels(
            studies=studies.sort_by("study_key"),
            patients=predict.patients(studies),
            series_flags=dict(sorted(flags.items())),
        )

    def _with_study(self, rows: ds.Dataset) -> pa.Table:
        """Those rows alone that belong to a study, as many have no header."""
        told = ds.field("row_id").isin(self.assigned["row_id"].combine_chunks())
        some = rows.scanner(
            _COLUMNS, filter=ds.field("study_key").is_valid() | told, batch_readahead=2, fragment_readahead=2
        )
        return some.to_table()

    def _spread(self, path: str, filesystem: pa.fs.FileSystem, count: int) -> list[tuple[pa.Table, dict[str, int]]]:
        """The buckets, each by a task that holds it alone: what Ray's hash shuffle is for."""

        def numbered(rows: pa.Table) -> pa.Table:
            rows = with_keys(rows, self.assigned)
            rows = rows.filter(pc.is_valid(rows["study_key"]))
            return rows.append_column("bucket", pa.array(cohort.buckets(rows["study_key"], count)))

        def joined(rows: pa.Table) -> pa.Table:
            found, flags = self._bucket(rows, rows["bucket"][0].as_py())
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, found.schema) as writer:
                writer.write_table(found)
            return pa.table({"studies": [sink.getvalue().to_pybytes()], "flags": [json.dumps(flags)]})

        import ray.data  # a second, and two helper processes, for archives that need it

        cluster.quiet_data()
        rows = ray.data.read_parquet(path, filesystem=filesystem).select_columns(_COLUMNS)
        tagged = rows.map_batches(numbered, batch_format="pyarrow", batch_size=None)
        done = tagged.groupby("bucket", num_partitions=count).map_groups(joined, batch_format="pyarrow")
        return [(pa.ipc.open_stream(row["studies"]).read_all(), json.loads(row["flags"])) for row in done.iter_rows()]

    def _bucket(self, rows: pa.Table, number: int) -> tuple[pa.Table, dict[str, int]]:
        """Studies of the rows of whole studies, and their series by flag; writes the series."""
        series = cohort.series(rows)
        self.place.write_table(f"series-{number:05d}.parquet", series)
        flags = pc.value_counts(pc.list_flatten(series["flags"])).to_pylist()
        found = predict.studies(rows, series, rule=self.rule, threshold=self.threshold, refer=self.refer)
        return found, {entry["values"]: entry["counts"] for entry in flags}
