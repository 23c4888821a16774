"""Examples of objects without an answer: enough of each reason, no row read beyond that, and no other slice shown."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from mri_ray.archive.storage import Location
from mri_ray.report import cases, rows

SCHEMA = pa.schema([pa.field(name, pa.int32() if name == "frame" else pa.string()) for name in cases.COLUMNS])
ROOT = "file:///archive"


def row(name: str, *, reason=None, state="quarantined", frame=None, of=None) -> dict:
    found = {"object_id": name, "uri": f"{ROOT}/folder/{name}", "frame": frame, "state": state}
    return found | {"reason": reason, "detail": reason and f"about {name}", "duplicate_of": of}


def batch(*entries: dict) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(entries), SCHEMA)


class Read:
    """Batches, and how many of them were asked for."""

    def __init__(self, *batches: pa.RecordBatch) -> None:
        self._batches = batches
        self.taken = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for one in self._batches:
            self.taken += 1
            yield one


def results(*slices: tuple[str, int]) -> pa.Table:
    return pa.table({"object_id": [name for name, _ in slices], "frame": pa.array([f for _, f in slices], pa.int32())})


def test_each_reason_has_objects_of_its_own_and_reading_ends_when_all_have():
    read = Read(
        batch(*(row("volume", reason="a", frame=i) for i in range(50))),
        batch(),
        batch(row("volume", reason="a", frame=50), row("x", reason="a"), row("b1", reason="b")),
        batch(row("y", reason="a"), row("z", reason="a"), row("copy", state="duplicate", of="first")),
        batch(row("never", reason="a")),
    )
    found = cases.seek(read, {"a": 900, "b": 1}, duplicates=1)
    assert [entry["object_id"] for entry in found.failed["a"]] == ["volume", "x", "y"]
    assert [entry["object_id"] for entry in found.failed["b"]] == ["b1"]
    assert [(entry["object_id"], entry["duplicate_of"]) for entry in found.copies] == [("copy", "first")]
    assert read.taken == 4


def test_where_there_is_nothing_to_find_nothing_is_read():
    read = Read(batch(row("x", reason="a")))
    assert cases.seek(read, {}, duplicates=0) == cases.Found()
    assert read.taken == 0


def test_fewer_than_wanted_are_all_there_are():
    read = Read(batch(row("x", reason="a"), row("x", reason="a"), row("y", reason="a")))
    found = cases.seek(read, {"a": 3}, duplicates=5)
    assert [entry["object_id"] for entry in found.failed["a"]] == ["x", "y"]
    assert found.copies == []


def test_a_snapshot_gives_its_rows_in_order_and_only_those_asked_for(root: Location):
    """root: local and S3."""
    part = [row("a", state="scored"), row("b", reason="r"), row("c", state="duplicate", of="a")]
    root.write_table("part-000000.parquet", pa.Table.from_pylist(part, SCHEMA))
    root.write_table(
        "part-000001.parquet", pa.Table.from_pylist([row(f"n{i}", state="scored") for i in range(9)], SCHEMA)
    )
    root.write_table("part-000002.parquet", pa.Table.from_pylist([row("d", reason="r", state="scored")], SCHEMA))
    root.write("_counts.json", b"{}")
    some = [entry for found in rows.scan(root, cases.COLUMNS, cases.WHERE, 2) for entry in found.to_pylist()]
    assert [entry["object_id"] for entry in some] == ["b", "c", "d"]
    assert list(some[0]) == cases.COLUMNS
    names = [name for found in rows.scan(root, ["object_id"], batch_rows=4) for name in found["object_id"].to_pylist()]
    assert names == ["a", "b", "c", *(f"n{i}" for i in range(9)), "d"]
    assert max(found.num_rows for found in rows.scan(root, ["object_id"], batch_rows=4)) <= 4


@pytest.mark.parametrize(("failed", "usable", "wanted"), [(3, (), 2), (0, (), 0), (3, (2,), 4), (None, (), 5)])
def test_beside_a_failed_frame_stands_the_nearest_that_may_be_shown(failed, usable, wanted):
    table = results(("other", 3), *(("volume", frame) for frame in (0, 1, 2, 4, 5)))
    shown = np.array([frame not in usable for frame in table["frame"].to_pylist()])
    found = cases.seek([batch(row("volume", reason="a", frame=failed), row("none", reason="a"))], {"a": 2}, 0)
    (name,) = places = cases.siblings(found, table, shown)
    assert name == "volume"
    assert table["frame"][places[name]].as_py() == wanted


def test_of_many_objects_some_have_a_picture():
    failed = {f"r{i}": 3 for i in range(20)}
    entries = [row(f"{reason}-{i}", reason=reason, frame=1, state="scored") for reason in failed for i in range(3)]
    table = results(*((entry["object_id"], 0) for entry in entries))
    found = cases.seek([batch(*entries)], failed, 0)
    assert len(cases.siblings(found, table, np.ones(60, bool))) == 12


def test_pairs_are_shown_where_both_may_be():
    copies = [row(f"copy{i}", state="duplicate", of=f"first{i}") for i in range(6)]
    table = results(*((f"{kind}{i}", frame) for i in range(5) for kind in ("first", "copy") for frame in (0, 1)))
    usable = np.ones(table.num_rows, bool)
    usable[0:2] = False  # first0
    usable[6:8] = False  # copy1
    found = cases.seek([batch(*copies)], {}, duplicates=6)
    pairs = cases.pairs(found, table, usable)
    ids = table["object_id"].to_pylist()
    assert [(ids[copy], ids[original]) for copy, original in pairs] == [(f"copy{i}", f"first{i}") for i in (2, 3, 4)]


def test_what_is_told_is_named_as_the_row_names_it():
    found = cases.seek([batch(row("x", reason="a", frame=2), row("y", reason="a"))], {"a": 2}, 0)
    hidden = {"uri": "object:0123", "object_id": "z"}
    found.failed["a"].append(row("z", reason="a") | hidden)
    told = cases.told(found, ROOT, {})
    assert [(case.name, case.frame, case.detail) for case in told] == [
        ("folder/x", 2, "about x"),
        ("folder/y", None, "about y"),
        ("object:0123", None, "about z"),
    ]
