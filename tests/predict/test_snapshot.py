"""From shards to the snapshot: each live object once, in one state, whatever happened on the way."""

import os
from pathlib import Path

import pyarrow.parquet as pq

from mri_ray.archive.storage import Location
from mri_ray.predict import snapshot
from mri_ray.records import RESULTS


def build(scored):
    found = snapshot.build(scored.manifest.pinned(), scored.results, scored.snapshots)
    table = pq.read_table(found.uri.removeprefix("file://"))
    assert table.schema.equals(RESULTS)
    assert table.num_rows == found.rows
    return found, {row["uri"].rpartition("/")[2].removesuffix(".png"): row for row in table.to_pylist()}


def test_every_object_ends_in_one_state_with_a_reason(scored):
    scored.put(a=scored.picture(1), b=b"", c=b"no picture", d=scored.picture(2), e=scored.picture(3)[:300])
    scored.take_stock()
    scored.score()
    found, rows = build(scored)
    assert found.counts == {"objects": 5, "scored": 2, "quarantined": 3, "duplicate": 0, "skipped": 0}
    assert found.reasons == {"empty.object": 1, "unknown.format": 1, "truncated.image": 1}
    for name in "ad":
        assert rows[name]["state"] == "scored"
        assert rows[name]["reason"] is None
        assert 0 < rows[name]["probability"] < 1
        assert rows[name]["decision"] == ("positive" if rows[name]["probability"] >= 0.5 else "negative")
    for name in "bce":
        assert rows[name]["state"] == "quarantined"
        assert rows[name]["logit"] is None


def test_copies_point_to_the_first_by_uri_but_blank_pictures_do_not(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2), c=scored.picture(1), x=scored.blank(), y=scored.blank())
    scored.take_stock()
    scored.score()
    found, rows = build(scored)
    assert found.counts["duplicate"] == 1
    assert (rows["c"]["state"], rows["c"]["duplicate_of"]) == ("duplicate", rows["a"]["object_id"])
    assert rows["c"]["probability"] == rows["a"]["probability"]
    assert rows["x"]["state"] == rows["y"]["state"] == "scored"
    assert "suspect.blank" in rows["x"]["flags"]

    scored.put(A=scored.picture(1))  # earlier by URI, though scored last
    scored.take_stock()
    assert scored.score() == ["A.png"]
    _, rows = build(scored)
    assert rows["A"]["state"] == "scored"
    assert {rows[name]["duplicate_of"] for name in "ac"} == {rows["A"]["object_id"]}


def test_what_changed_or_went_leaves_and_what_came_back_returns(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2), c=scored.picture(3))
    scored.take_stock()
    scored.score()
    before, first = build(scored)
    scored.put(b=scored.picture(9))
    scored.archive.delete("c.png")
    scored.take_stock()
    assert scored.score() == ["b.png"]
    found, rows = build(scored)
    assert found.uri != before.uri
    assert set(rows) == {"a", "b"}
    assert rows["a"] == first["a"]
    assert rows["b"]["pixel_digest"] != first["b"]["pixel_digest"]
    assert found.counts["objects"] == 2


def test_a_transient_failure_is_tried_again_and_the_later_answer_stands(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2))
    scored.take_stock()
    held = scored.archive.read("b.png")
    at = scored.archive.uri.removeprefix("file://") + "/b.png"
    stamp = os.stat(at)
    scored.archive.delete("b.png")  # gone between listing and reading
    scored.score()
    found, rows = build(scored)
    assert rows["b"]["reason"] == "storage.missing"
    assert found.counts["quarantined"] == 1

    scored.archive.write("b.png", held)
    os.utime(at, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same version as before
    scored.take_stock()
    assert scored.score() == ["b.png"]
    found, rows = build(scored)
    assert found.counts == {"objects": 2, "scored": 2, "quarantined": 0, "duplicate": 0, "skipped": 0}
    scored.take_stock()
    assert scored.score() == []


def test_a_snapshot_is_built_once_and_readers_see_only_rows(scored):
    scored.put(**{f"p{i}": scored.picture(i) for i in range(8)})
    scored.take_stock()
    scored.score()
    found, rows = build(scored)
    assert len(rows) == 8
    place = found.uri.removeprefix("file://")
    stamps = {path.name: path.stat().st_mtime_ns for path in Path(place).iterdir()}
    again, _ = build(scored)
    assert again == found
    assert stamps == {path.name: path.stat().st_mtime_ns for path in Path(place).iterdir()}


def version_of(scored, name: str) -> tuple[bytes, os.stat_result]:
    return scored.archive.read(f"{name}.png"), os.stat(f"{scored.archive.uri.removeprefix('file://')}/{name}.png")


def put_back(scored, name: str, version: tuple[bytes, os.stat_result]) -> None:
    """The same content with the same time, as a restore from a backup leaves it."""
    data, stamp = version
    scored.archive.write(f"{name}.png", data)
    os.utime(f"{scored.archive.uri.removeprefix('file://')}/{name}.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def night(scored) -> list[str]:
    scored.take_stock()
    return scored.score()


def test_content_that_changes_back(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2))
    night(scored)
    first, rows = build(scored)
    before = version_of(scored, "b")
    scored.put(b=scored.picture(3))
    assert night(scored) == ["b.png"]
    assert build(scored)[0].uri != first.uri
    put_back(scored, "b", before)
    assert night(scored) == []  # the old version's answer is still there
    again, same = build(scored)
    assert same == rows
    scored.put(b=before[0])  # as a new version: the storage does not tell that its content is an old one
    assert night(scored) == ["b.png"]
    anew = build(scored)[1]["b"]
    assert {name for name in anew if anew[name] != rows["b"][name]} <= {"version_id", "etag"}
    assert again.counts["objects"] == 2


def test_an_object_deleted_and_put_back(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2))
    night(scored)
    _, rows = build(scored)
    before = version_of(scored, "b")
    scored.archive.delete("b.png")
    assert night(scored) == []
    without, left = build(scored)
    assert set(left) == {"a"}
    assert without.counts["objects"] == 1
    held = [scored.results.read_table(key) for key in scored.results.keys() if not key.startswith("_")]  # noqa: SIM118
    assert rows["b"]["row_id"] in {row for table in held for row in table["row_id"].to_pylist()}
    put_back(scored, "b", before)
    assert night(scored) == []
    assert build(scored)[1] == rows


def test_a_renamed_object_is_another_with_the_same_answer(scored):
    scored.put(a=scored.picture(1), b=scored.picture(2))
    night(scored)
    _, rows = build(scored)
    put_back(scored, "c", version_of(scored, "b"))
    scored.archive.delete("b.png")
    assert night(scored) == ["c.png"]
    found, renamed = build(scored)
    assert set(renamed) == {"a", "c"}
    assert renamed["c"]["object_id"] != rows["b"]["object_id"]
    assert (renamed["c"]["logit"], renamed["c"]["state"]) == (rows["b"]["logit"], "scored")
    assert found.counts["duplicate"] == 0


def test_a_snapshot_that_has_lost_rows_is_made_anew(scored):
    scored.put(**{f"p{i}": scored.picture(i) for i in range(8)})
    night(scored)
    found, rows = build(scored)
    place = Path(found.uri.removeprefix("file://"))
    for harm in (
        lambda: (place / "part-000000.parquet").unlink(),
        lambda: (place / snapshot.COUNTS).unlink(),
        lambda: [path.unlink() for path in place.glob("part-*")],
    ):
        harm()
        assert snapshot.finished(Location.of(found.uri)) is None
        assert build(scored) == (found, rows)
