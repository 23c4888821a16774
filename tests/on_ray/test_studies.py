"""Studies joined in one bucket or in many are the same."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mri_ray.archive.storage import Location
from mri_ray.on_ray.studies import Join
from mri_ray.predict.studies import StudyRule
from mri_ray.records import RESULTS

STUDIES, SLICES = 23, 9


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Location:
    """Slices of 23 studies of 12 patients in four files, in no order; every fifth study is told by labels only."""
    rng = np.random.default_rng(0)
    entries = []
    for study in range(STUDIES):
        for i in range(SLICES):
            probability = float(rng.random())
            entries.append(
                {
                    **dict.fromkeys(RESULTS.names),
                    **dict.fromkeys(("object_id", "version_id", "uri", "etag", "run_id"), f"{study}-{i}"),
                    **dict.fromkeys(("bundle_digest", "prepare_digest"), "d"),
                    "row_id": f"row-{study:02d}-{i}",
                    "size": 1,
                    "state": "scored",
                    "flags": [],
                    "frame": 0,
                    "pixel_digest": f"{study}-{i}",
                    "width": 8,
                    "height": 8,
                    "study_key": None if study % 5 == 4 else f"study-{study:02d}",
                    "patient_key": None if study % 5 == 4 else f"patient-{study // 2}",
                    "series_key": f"series-{study:02d}",
                    "normal": [0.0, 0.0, 1.0],
                    "position_mm": 3.0 * i,
                    "probability": probability,
                    "decision": "positive" if probability >= 0.5 else "negative",
                }
            )
    order = rng.permutation(len(entries))
    table = pa.Table.from_pylist([entries[i] for i in order], schema=RESULTS)
    location = Location.of(str(tmp_path_factory.mktemp("snapshot")))
    for number, rows in enumerate(np.array_split(np.arange(len(order)), 4)):
        location.write_table(f"part-{number:06d}.parquet", table.take(pa.array(rows)))
    return location


def joined(snapshot: Location, place: Location, bucket_rows: int):
    told = [(study, i) for study in range(STUDIES) if study % 5 == 4 for i in range(SLICES)]
    assigned = pa.table(
        {
            "row_id": [f"row-{study:02d}-{i}" for study, i in told],
            "patient_key": ["by labels"] * len(told),
            "study_key": [f"study-{study:02d}" for study, _ in told],
        }
    )
    rule = StudyRule()
    return Join(snapshot=snapshot, assigned=assigned, place=place, rule=rule, threshold=0.5, refer=None).run(
        bucket_rows
    )


def test_many_buckets_give_what_one_gives(ray_cluster, snapshot, tmp_path):
    one = joined(snapshot, Location.of(str(tmp_path / "one")), 10**6)
    many = joined(snapshot, Location.of(str(tmp_path / "many")), 60)
    assert one.studies.num_rows == STUDIES
    assert one.studies.equals(many.studies)
    assert one.patients.sort_by("patient_key").equals(many.patients.sort_by("patient_key"))
    assert one.series_flags == many.series_flags == {}
    assert len(list((tmp_path / "one").iterdir())) == 1
    files = sorted((tmp_path / "many").iterdir())
    assert len(files) > 1
    series = pa.concat_tables([pq.ParquetFile(path).read() for path in files]).sort_by("series_key")
    assert series.equals(pq.ParquetFile(tmp_path / "one" / "series-00000.parquet").read().sort_by("series_key"))
    assert series["slices"].to_pylist() == [SLICES] * STUDIES


def test_rows_that_only_labels_assign_are_in_their_studies(snapshot, tmp_path):
    found = joined(snapshot, Location.of(str(tmp_path)), 10**6)
    by_labels = found.patients.filter(pa.compute.equal(found.patients["patient_key"], "by labels"))
    assert by_labels["studies"].to_pylist() == [4]
    assert by_labels["slices"].to_pylist() == [4 * SLICES]
