"""From objects to prepared rows: packs, large objects, what is lost on the way, and what stands for paths."""

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mri_ray.archive.identity import member_id, object_id, row_id
from mri_ray.archive.pseudonym import SITE_KEY, Identifiers
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.prepare import objects
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import seen
from mri_ray.records import MANIFEST, THUMBNAIL_SIDE, Slice, State, prepared_schema

PREPARE = PrepareConfig(size=32)


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)).save(out, "PNG")
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for name, data in members.items():
            pack.writestr(name, data)
    return out.getvalue()


def manifest(archive: Location) -> pa.Table:
    listed = pa.Table.from_batches(archive.list()).to_pylist()
    entries = [
        entry | {"object_id": object_id(entry["key"]), "version_id": f"version {number}"}
        for number, entry in enumerate(listed)
    ]
    return pa.Table.from_pylist(entries, schema=MANIFEST)


def prepared(archive: Location, listed: pa.Table | None = None, identifiers: Identifiers | None = None, **options):
    found = manifest(archive) if listed is None else listed
    return list(objects.rows(found, archive, DecodeConfig(), PREPARE, identifiers or Identifiers(), **options))


def test_members_of_a_pack_are_objects_of_their_own(root):
    root.write("a.png", png(0))
    root.write("b.zip", zipped(one=png(1), two=b"no picture", three=png(2)))
    rows = prepared(root)
    assert [row.path for row in rows] == ["a.png", "b.zip!/one", "b.zip!/two", "b.zip!/three"]
    for row in rows:
        columns = row.columns
        assert columns["uri"] == root.uri_of(row.path)
        key, _, member = row.path.partition("!/")
        assert columns["object_id"] == (member_id(key, member) if member else object_id(key))
        assert columns["row_id"] == row_id(columns["object_id"], columns["frame"])
        assert columns["version_id"] == ("version 1" if member else "version 0")
        assert columns["member"] == (member or None)
    assert [row.columns["reason"] for row in rows] == [None, None, Reason.NOT_IMAGE.value, None]
    assert [row.pixels is None for row in rows] == [False, False, True, False]


def test_a_large_object_is_read_in_ranges_to_the_same_rows(root, monkeypatch):
    root.write("a.png", png(0))
    root.write("b.zip", zipped(one=png(1), two=png(2)))
    whole = prepared(root)
    monkeypatch.setattr(objects, "_STREAMED_BYTES", 10)
    monkeypatch.setattr(Location, "read_listed", lambda *_: iter(()))  # nothing may be fetched whole
    ranged = prepared(root)
    assert [row.columns for row in ranged] == [row.columns for row in whole]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(ranged, whole, strict=True))


@pytest.mark.parametrize("streamed", [0, 2**30])
def test_what_changed_or_went_since_the_listing_is_told_and_the_others_pass(root, streamed, monkeypatch):
    monkeypatch.setattr(objects, "_STREAMED_BYTES", streamed)
    for number in range(7):
        root.write(f"{number}.png", png(number))
    root.write("7.png", png(7) + b"one")
    listed = manifest(root)
    root.write("1.png", png(1) + b"more")
    root.delete("2.png")
    root.write("3.png", png(3)[:-20])
    root.write("4.png", b"")
    root.write("5.png", zipped(one=png(5)))
    root.write("7.png", png(7) + b"two")
    rows = prepared(root, listed)
    reasons = [row.columns["reason"] for row in rows]
    changed = Reason.STORAGE_CHANGED.value
    assert reasons == [None, changed, Reason.STORAGE_MISSING.value, changed, changed, changed, None, changed]


def pack_of(first: int) -> bytes:
    """A tar of three pictures with much between them; those of another first number are as long."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("one", "two", "three"):
            for member, data in ((name, png(first)), (f"{name}.txt", b" text" * 2**20)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            first += 1
    return buffer.getvalue()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_streamed_object_that_is_replaced_meanwhile_is_never_mixed_with_what_replaces_it(root, in_place, monkeypatch):
    local = root.uri.startswith("file:")
    if in_place and not local:
        pytest.skip("an object in a bucket is only ever replaced as a whole")
    monkeypatch.setattr(objects, "_STREAMED_BYTES", 2**20)
    assert len(pack_of(10)) == len(pack_of(50))
    root.write("a.tar", pack_of(10))
    was = {row.path: row for row in prepared(root)}
    found = objects.rows(manifest(root), root, DecodeConfig(), PREPARE, Identifiers())
    rows = [next(found)]
    if in_place:
        Path(root.uri_of("a.tar").removeprefix("file://")).write_bytes(pack_of(50))
    else:
        root.write("a.tar", pack_of(50))
    rows += found
    pictures = [row for row in rows if row.pixels is not None]
    assert all(np.array_equal(row.pixels, was[row.path].pixels) for row in pictures)
    if local and not in_place:
        assert [row.path for row in rows] == list(was)  # the file that was opened is read to its end
    else:
        assert 1 <= len(pictures) < 3
        assert rows[-1].columns["reason"] == Reason.STORAGE_CHANGED.value
        assert rows[-1].path == "a.tar"


def test_without_paths_ids_say_nothing_and_lead_back_by_the_path(root, monkeypatch):
    monkeypatch.setenv(SITE_KEY, "a key of this site, long enough")
    root.write("Doe^John.zip", zipped(one=png(1)))
    (row,) = prepared(root, identifiers=Identifiers(uris="pseudonym"))
    assert row.path == "Doe^John.zip!/one"
    assert row.columns["object_id"] != object_id(row.path)
    assert row.columns["uri"] == f"object:{row.columns['object_id']}"
    assert row.columns["member"] == row.columns["object_id"]
    assert row.columns["etag"] == row.columns["version_id"]  # a local file's own tells when it was written
    assert "Doe" not in repr(row.columns)


def test_rows_come_back_from_batches_as_they_were(root):
    root.write("a.png", png(0))
    root.write("b", b"nothing")
    rows = prepared(root)
    batches = list(objects.to_batches(rows, PREPARE.size))
    assert pa.Table.from_batches(batches).schema.equals(prepared_schema(PREPARE.size))
    again = list(objects.from_batches(batches, PREPARE.size))
    for one, other in zip(rows, again, strict=True):
        assert {name: one.columns[name] for name in ("row_id", "uri", "reason", "flags")} == {
            name: other.columns[name] for name in ("row_id", "uri", "reason", "flags")
        }
        assert (one.pixels is None) == (other.pixels is None)
        assert one.pixels is None or np.array_equal(one.pixels, other.pixels)


def test_prepared_rows_tell_of_the_whole_picture(root):
    picture = np.zeros((40, 60), np.uint8)
    picture[:, :30] = 200
    out = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(out, "PNG")
    root.write("a", out.getvalue())
    root.write("b", b"nothing")
    rows = prepared(root, evidence=True)
    found = rows[0].columns
    assert (found["stored"], found["mode"], found["mean_level"]) == ("png", "RGB", 100.0)
    assert found["border_level"] == pytest.approx(100, abs=2)
    small = np.frombuffer(found["thumbnail"], np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert small[48, 20] == 200
    assert small[48, 80] == 0
    assert abs(int(small[2, 2]) - 100) <= 2  # around it the grey of its border
    assert pa.Table.from_batches(objects.to_batches(rows, PREPARE.size))["thumbnail"].null_count == 1
    assert "thumbnail" not in prepared(root)[0].columns


def test_a_slice_is_prepared_again_for_the_report(root):
    root.write("a.png", png(0))
    root.write("b.zip", zipped(one=png(1), two=png(2)))
    rows = {row.path: row for row in prepared(root)}
    for key, wanted in (("a.png", [(None, 0)]), ("b.zip", [("one", 0)]), ("b.zip", [("two", 0), ("one", 0)])):
        found = objects.again(root, key, wanted, DecodeConfig(), PREPARE)
        assert set(found) == set(wanted)
        for (member, _), picture in found.items():
            assert np.array_equal(picture, rows[f"{key}!/{member}" if member else key].pixels)
    compares = replace(PREPARE, asymmetry=0.05)
    (head,) = objects.again(root, "a.png", [(None, 0)], DecodeConfig(), compares)[None, 0]
    assert np.array_equal(head, rows["a.png"].pixels[0]), "people see the head"
    assert not np.array_equal(seen(head, compares), head)
    assert objects.again(root, "gone.png", [(None, 0)], DecodeConfig(), PREPARE) == {}


def test_identifiers_are_found_behind_a_readme(root, mri_data):
    image = (mri_data / "dicom/edge/MR_small.dcm").read_bytes()
    root.write("disc.zip", zipped(readme=b"How to read this disc\n", image=image))
    root.write("plain.zip", zipped(readme=b"no names", image=png(1)))
    assert objects.holds_identifiers(root, "disc.zip", DecodeConfig())
    assert not objects.holds_identifiers(root, "plain.zip", DecodeConfig())


def test_every_object_has_one_state():
    rows = pa.table(
        {
            "object_id": ["a", "a", "b", "c", "c", "d", "d"],
            "reason": [
                *(None, Reason.DAMAGED.value),
                Reason.DAMAGED.value,
                *(Reason.SKIPPED_SIDECAR.value, Reason.SKIPPED_MODALITY.value),
                *(Reason.SKIPPED_SIDECAR.value, Reason.DAMAGED.value),
            ],
        }
    )
    expected = [State.SCORED] * 2 + [State.QUARANTINED] + [State.SKIPPED] * 2 + [State.QUARANTINED] * 2
    assert objects.states(rows).to_pylist() == expected


def test_the_digest_of_pixels_tells_depth_and_shape():
    pixels = np.arange(36, dtype=np.float32).reshape(6, 6)
    digests = {
        objects.pixel_digest(Slice(pixels=picture, bits=bits))
        for picture in (pixels, pixels.reshape(4, 9), pixels.T)
        for bits in (8, 12)
    }
    assert len(digests) == 6
