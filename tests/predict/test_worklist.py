"""The order in which a reader would look at studies."""

import csv
import io

import pyarrow as pa

from mri_ray.predict.studies import STUDIES
from mri_ray.predict.worklist import WORKLIST, as_csv, worklist


def study(key: str, probability: float | None, **changes: object) -> dict:
    counts = {field.name: 0 for field in STUDIES if field.type == pa.int32()}
    worst = None if probability is None else f"row-{key}"
    answer = {"probability": probability, "worst_probability": probability, "worst_row_id": worst, "decision": None}
    return {**dict.fromkeys(STUDIES.names), **counts, "study_key": key, **answer, "flags": [], **changes}


STUDIES_GIVEN = pa.Table.from_pylist(
    [
        study("a", 0.25),
        study("b", None, failed=3, flags=["unknown.positions"]),
        study("c", 0.75, patient_key="p", slices=9, positive=4, decision="positive", flags=["x", "y"]),
        study("d", 0.25),
    ],
    schema=STUDIES,
)
SLICES = pa.table(
    {
        "row_id": ["row-d", "row-c", "row-a"],
        "uri": ["s3://b/d", 's3://b/a "quoted", path', "s3://b/a"],
        "frame": pa.array([0, 7, 0], pa.int32()),
    }
)


def test_the_most_suspicious_stand_first_and_the_unanswered_last():
    found = worklist(STUDIES_GIVEN, SLICES)
    assert found.schema.equals(WORKLIST, check_metadata=True)
    assert found["rank"].to_pylist() == [1, 2, 3, 4]
    assert found["study_key"].to_pylist() == ["c", "a", "d", "b"]
    assert found["worst_uri"].to_pylist() == ['s3://b/a "quoted", path', "s3://b/a", "s3://b/d", None]
    assert found["worst_frame"].to_pylist() == [7, 0, 0, None]
    assert found["failed"].to_pylist() == [0, 0, 0, 3]


def test_the_csv_holds_the_same():
    rows = list(csv.DictReader(io.StringIO(as_csv(worklist(STUDIES_GIVEN, SLICES)).decode())))
    assert [row["study_key"] for row in rows] == ["c", "a", "d", "b"]
    assert list(rows[0]) == WORKLIST.names
    assert rows[0]["worst_uri"] == 's3://b/a "quoted", path'
    assert rows[0]["flags"] == "x y"
    assert rows[3]["probability"] == ""


def test_no_study_gives_an_empty_list():
    found = worklist(STUDIES.empty_table(), SLICES.slice(0, 0))
    assert found.num_rows == 0
    assert as_csv(found).decode().count("\n") == 1
