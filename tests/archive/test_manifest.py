"""The manifest's promises: every version in one shard, gone is right, nothing is rewritten, two runs do no harm."""

import json
import pickle
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri_ray.archive.identity import object_id, version_id
from mri_ray.archive.manifest import Manifest, Shard, Update
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError, ConfigError
from mri_ray.records import LISTING, MANIFEST

Archive = Mapping[str, tuple[int, str]]  # key -> size, etag

SMALL = {"shard_objects": 4, "shard_bytes": 100}
SOME = {f"a/{number:02d}.png": (10, "e") for number in range(10)}


def pages(archive: Archive, page: int = 3) -> Iterator[pa.RecordBatch]:
    keys = sorted(archive, key=str.encode)
    for start in range(0, len(keys), page):
        part = keys[start : start + page]
        columns = [part, [archive[key][0] for key in part], [archive[key][1] for key in part]]
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def versions(archive: Archive) -> set[str]:
    return {version_id(key, *state) for key, state in archive.items()}


def held(manifest: Manifest, shards: list[Shard]) -> list[str]:
    return [name for shard in shards for name in manifest.read_shard(shard)["version_id"].to_pylist()]


def files(location: Location) -> dict[str, bytes | OSError]:
    keys = location.keys()
    return dict(zip(keys, location.read_many(keys), strict=True))


@pytest.fixture
def manifest(root: Location) -> Manifest:
    return Manifest(root / "manifest")


archives = st.dictionaries(
    st.sampled_from(["a", "a/1.png", "a/2.png", "a0", "b/é.png", "b/€ 1.png", "c", "d", "e"]),
    st.tuples(st.sampled_from([0, 10, 60, 200]), st.sampled_from(["e", "f"])),
)
steps = st.lists(st.tuples(archives, st.integers(1, 4), st.integers(0, 2**9 - 1)), min_size=1, max_size=5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_sequence_of_listings(root: Location, steps: list[tuple[Archive, int, int]]) -> None:
    location = root / uuid.uuid4().hex
    manifest = Manifest(location)
    ever: set[str] = set()
    retries: list[Shard] = []
    written: dict[str, bytes | OSError] = {}
    for archive, page, chosen in steps:
        live = versions(archive)
        before = manifest.shards()
        again = pa.array(sorted(ever), pa.string())
        planned, retried = manifest.plan(pages(archive, page), again, **SMALL)
        assert files(location) == written
        update = manifest.update(pages(archive, page), **SMALL)
        assert replace(planned, listing=update.listing) == update
        assert sum(shard.objects for shard in retried) == len(ever & live)
        assert (update.new, update.known) == (len(live - ever), len(live & ever))
        ever |= live
        check_update(manifest, update, before, retries, ever, live)

        again = {name for place, name in enumerate(sorted(ever)) if chosen >> place & 1}
        added = manifest.add_retry(pa.array(sorted(again), pa.string()), **SMALL)
        assert sorted(held(manifest, added)) == sorted(again & live)
        assert manifest.shards() == [*update.shards, *added]
        assert manifest.gone().to_pylist() == sorted(ever - live)
        retries += added

        now = files(location)
        assert {key: now[key] for key in written} == written, "a file was rewritten or removed"
        written = now


def check_update(
    manifest: Manifest, update: Update, before: list[Shard], retries: list[Shard], ever: set[str], live: set[str]
) -> None:
    shards = list(update.shards)
    assert manifest.shards() == shards
    assert shards[: len(before)] == before
    assert len({shard.digest for shard in shards}) == len(shards)
    firsts = [shard for shard in shards if shard not in retries]
    assert Counter(held(manifest, firsts)) == Counter(ever)
    assert manifest.gone().to_pylist() == sorted(ever - live)
    assert update.gone == len(ever - live)
    for shard in shards[len(before) :]:
        check_shard(manifest.read_shard(shard), shard)


def check_shard(table: pa.Table, shard: Shard) -> None:
    assert table.schema.equals(MANIFEST, check_metadata=True)
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == sorted((row["key"] for row in rows), key=str.encode)
    assert (shard.objects, shard.bytes) == (len(rows), sum(row["size"] for row in rows))
    assert 1 <= shard.objects <= SMALL["shard_objects"]
    assert shard.bytes <= SMALL["shard_bytes"] or shard.objects == 1
    for row in rows:
        assert row["object_id"] == object_id(row["key"])
        assert row["version_id"] == version_id(row["key"], row["size"], row["etag"])


def test_the_same_listing_makes_the_same_shards_whatever_its_pages(root: Location) -> None:
    updates = [Manifest(root / str(page)).update(pages(SOME, page), **SMALL) for page in (1, 3, 100)]
    assert updates[0] == updates[1] == updates[2]
    assert [shard.objects for shard in updates[0].shards] == [4, 4, 2]
    assert Manifest(root / "1").digest() == Manifest(root / "3").digest()


def test_an_object_larger_than_a_shard_has_one_of_its_own(manifest: Manifest) -> None:
    sizes = [40, 60, 1, 500, 99, 2]
    update = manifest.update(pages({f"{place}": (size, "e") for place, size in enumerate(sizes)}), **SMALL)
    assert [shard.bytes for shard in update.shards] == [100, 1, 500, 99, 2]


def test_a_listing_that_changes_nothing_writes_nothing(root: Location, manifest: Manifest) -> None:
    first = manifest.update(pages(SOME), **SMALL)
    written = files(root)
    second = manifest.update(pages(SOME), **SMALL)
    assert (second.listing, second.new, second.known) == (first.listing, 0, len(SOME))
    assert files(root) == written


def test_an_empty_archive(manifest: Manifest) -> None:
    assert manifest.update(pages({})) == Update(listing=0, new=0, known=0, gone=0, shards=())
    assert (manifest.shards(), manifest.gone().to_pylist()) == ([], [])
    assert manifest.add_retry(pa.array([], pa.string())) == []
    manifest.update(pages(SOME))
    emptied = manifest.update(pages({}))
    assert (emptied.listing, emptied.gone) == (2, len(SOME))


def test_what_comes_back_is_neither_gone_nor_added_again(manifest: Manifest) -> None:
    first = manifest.update(pages(SOME), **SMALL)
    digest = manifest.digest()
    manifest.update(pages({}), **SMALL)
    assert manifest.digest() != digest
    back = manifest.update(pages(SOME), **SMALL)
    assert (back.new, back.gone, back.shards) == (0, 0, first.shards)
    assert manifest.digest() == digest


def test_a_pinned_manifest_does_not_see_what_comes_later(root: Location) -> None:
    manifest = Manifest(root)
    nothing = manifest.pinned()
    first = manifest.update(pages(SOME), **SMALL)
    pinned = manifest.pinned()
    digest = manifest.digest()
    manifest.update(pages({"b": (1, "e")}), **SMALL)
    assert manifest.digest() != digest
    for early in (pinned, Manifest(root, first.listing), pickle.loads(pickle.dumps(pinned))):  # noqa: S301 our own
        assert early.shards() == list(first.shards)
        assert early.gone().to_pylist() == []
        assert early.digest() == digest
    assert nothing.shards() == []
    with pytest.raises(AssertionError, match="only read"):
        pinned.update(pages(SOME), **SMALL)


def test_a_crash_before_the_listing_leaves_nothing_wrong(root: Location) -> None:
    undisturbed = Manifest(root / "other").update(pages(SOME), **SMALL)

    def breaks_off() -> Iterator[pa.RecordBatch]:
        yield from list(pages(SOME))[:3]
        raise ConnectionError("the listing broke off")

    location = root / "manifest"
    manifest = Manifest(location)
    with pytest.raises(ConnectionError, match="broke off"):
        manifest.update(breaks_off(), **SMALL)
    orphans = files(location)
    assert orphans
    assert manifest.shards() == []
    assert manifest.update(pages(SOME), **SMALL) == undisturbed
    assert orphans.items() <= files(location).items()


def test_a_crash_leaves_no_stale_gone(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.update(pages(SOME), **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Location, "write", fails)
        with pytest.raises(OSError, match="no space"):
            manifest.update(pages({}), **SMALL)
    assert manifest.gone().to_pylist() == []
    left = dict(list(SOME.items())[:7])
    assert manifest.update(pages(left), **SMALL).gone == 3
    assert manifest.gone().to_pylist() == sorted(versions(SOME) - versions(left))


def fails(self: Location, key: str, data: bytes, *, if_absent: bool = False) -> bool:
    raise OSError(f"no space for {key}")


def test_two_updates_at_once(root: Location) -> None:
    changed = {**SOME, "a/03.png": (11, "f"), "b": (1, "e")}
    for turn in range(5):
        location = root / str(turn)
        start = threading.Barrier(4)

        def run(archive: Archive, location: Location = location, start: threading.Barrier = start) -> Update:
            manifest = Manifest(location)
            start.wait()
            return manifest.update(pages(archive), **SMALL)

        with ThreadPoolExecutor(4) as pool:
            updates = list(pool.map(run, [SOME, changed, SOME, changed]))
        manifest = Manifest(location)
        assert Counter(held(manifest, manifest.shards())) == Counter(versions(SOME) | versions(changed))
        assert sum(update.new for update in updates) == len(versions(SOME) | versions(changed))
        for update in updates:
            then = Manifest(location, update.listing)
            assert list(update.shards) == then.shards()
            assert update.gone == len(then.gone())
        settled = manifest.update(pages(changed), **SMALL)
        assert (settled.new, settled.gone) == (0, 1)


def test_an_older_view_does_not_bury_what_a_newer_one_found(manifest: Manifest) -> None:
    """One run lists, then another lists and commits a newcomer, then the first commits."""
    newcomer = {**SOME, "b": (1, "e")}
    manifest.update(pages(SOME), **SMALL)

    def slow() -> Iterator[pa.RecordBatch]:
        yield from pages({**SOME, "a/00.png": (12, "g")})
        manifest.update(pages(newcomer), **SMALL)

    update = manifest.update(slow(), **SMALL)
    assert (update.listing, update.new, update.gone) == (3, 1, 0)
    assert manifest.update(pages(newcomer), **SMALL).gone == 1


def test_a_retry_meanwhile_does_not_change_what_is_gone(manifest: Manifest) -> None:
    manifest.update(pages(SOME), **SMALL)
    names = sorted(versions(SOME))

    def slow() -> Iterator[pa.RecordBatch]:
        manifest.add_retry(pa.array(names[:2]))
        yield from pages({"b": (1, "e")})

    update = manifest.update(slow(), **SMALL)
    assert (update.listing, update.new, update.gone) == (3, 1, len(SOME))


def test_what_lies_where_a_listing_could_not_look_is_not_gone(manifest: Manifest) -> None:
    archive = dict.fromkeys(("a/1", "a/2", "b-c/1", "b/1", "b/deep/2", "c"), (10, "e"))
    manifest.update(pages(archive), **SMALL)
    changed = {**archive, "b/1": (11, "f")}
    del changed["a/2"]
    assert manifest.update(pages(changed), **SMALL).gone == 2
    before = manifest.gone().to_pylist()

    denied: set[str] = set()

    def without_b() -> Iterator[pa.RecordBatch]:
        yield from pages({"a/1": (10, "e"), "new": (1, "e")})
        denied.add("b")  # while it lists: the manifest asks afterwards

    update = manifest.update(without_b(), denied=denied, **SMALL)
    assert (update.new, update.known, update.kept, update.gone) == (1, 1, 2, 4)
    lost = {version_id(name, 10, "e") for name in ("b-c/1", "c")}
    assert set(manifest.gone().to_pylist()) == {*before, *lost}
    back = manifest.update(pages({**changed, "new": (1, "e")}), **SMALL)
    assert (back.new, back.kept, back.gone) == (0, 0, 2)


def test_what_another_run_saw_go_stays_gone_for_one_that_could_not_look(manifest: Manifest) -> None:
    manifest.update(pages(SOME), **SMALL)

    def slow() -> Iterator[pa.RecordBatch]:
        yield from pages({"b": (1, "e")})
        manifest.update(pages({"a/00.png": SOME["a/00.png"]}), **SMALL)

    update = manifest.update(slow(), denied={"a"}, **SMALL)
    assert (update.new, update.kept, update.gone) == (1, 1, len(SOME) - 1)


def test_retries(manifest: Manifest) -> None:
    first = manifest.update(pages(SOME), **SMALL)
    names = sorted(versions(SOME))
    once = manifest.add_retry(pa.array(names[:5]), **SMALL)
    twice = manifest.add_retry(pa.array(names[:5]), **SMALL)
    assert sorted(held(manifest, once)) == sorted(held(manifest, twice)) == names[:5]
    assert not {shard.digest for shard in once} & {shard.digest for shard in [*twice, *first.shards]}
    for shard in once:
        check_shard(manifest.read_shard(shard), shard)
    assert manifest.add_retry(pa.array(names[:5]), after=first.listing) == []
    assert sorted(held(manifest, manifest.add_retry(pa.array(names[3:7]), after=first.listing))) == names[5:7]
    assert manifest.update(pages(SOME), **SMALL).new == 0


def test_two_retries_at_once_try_each_object_once(root: Location) -> None:
    location = root / "manifest"
    listing = Manifest(location).update(pages(SOME), **SMALL).listing
    names = pa.array(sorted(versions(SOME)))
    start = threading.Barrier(3)

    def run(_: int) -> list[Shard]:
        start.wait()
        return Manifest(location).add_retry(names, after=listing, **SMALL)

    with ThreadPoolExecutor(3) as pool:
        added = [shard for shards in pool.map(run, range(3)) for shard in shards]
    assert sorted(held(Manifest(location), added)) == names.to_pylist()
    assert set(added) == set(Manifest(location).shards()) - set(Manifest(location, listing).shards())
    assert Manifest(location, listing + 1).digest() == Manifest(location).digest()


def test_refusals(root: Location, manifest: Manifest) -> None:
    for field in SMALL:
        with pytest.raises(ConfigError, match=f"{field}: at least 1, got 0"):
            manifest.update(pages(SOME), **{**SMALL, field: 0})
    page = next(pages(SOME, 100))
    for wrong in ([page, page], [page.take(pa.array([1, 0]))]):
        with pytest.raises(ArchiveError, match="keys must ascend"):
            manifest.update(wrong)
    assert manifest.shards() == []


def test_a_damaged_manifest_is_refused_by_name(root: Location) -> None:
    location = root / "manifest"
    manifest = Manifest(location)
    shard = manifest.update(pages(SOME)).shards[0]
    manifest.update(pages({}))
    kept = location.read("listings/000001.json")

    location.delete("listings/000001.json")
    with pytest.raises(ArchiveError, match=r"000001\.json is missing"):
        manifest.shards()
    location.write("listings/000001.json", kept[:-9])
    with pytest.raises(ArchiveError, match=r"a listing must be .* in listings/000001\.json at "):
        manifest.shards()
    location.write("listings/000001.json", json.dumps({**json.loads(kept), "version": 99}).encode())
    with pytest.raises(ArchiveError, match="version at most 1, got 99"):
        manifest.shards()
    location.write("listings/000001.json", kept)
    location.write(f"shards/{shard.digest}.parquet", b"PAR1")
    with pytest.raises(ArchiveError, match="whole Parquet file"):
        manifest.read_shard(shard)
    location.delete(f"shards/{shard.digest}.parquet")
    with pytest.raises(ArchiveError, match=f"FileNotFoundError for shards/{shard.digest}"):
        manifest.update(pages(SOME))
