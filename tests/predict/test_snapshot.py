"""From shards to the snapshot: each live object once, in one state, whatever happened on the way."""

import os
from pathlib import Path

import pyarrow.parquet as pq

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
