"""What a run keeps books of, against a reference that holds everything; and how little of it is held at once."""

import tracemalloc
import uuid
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri_ray.archive import outputs
from mri_ray.archive.identity import member_id, row_id, version_id
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason
from mri_ray.predict import snapshot
from mri_ray.records import LISTING, RESULTS, State
from tests.benchmarks import synthetic

CUT = {"shard_objects": 3}
Entry = dict[str, Any]

LOST, DAMAGED, NOT_MR = Reason.STORAGE_FAULT.value, Reason.DAMAGED.value, Reason.SKIPPED_MODALITY.value
keys = st.sampled_from([f"{name}/{number}" for name in "ab" for number in range(4)])
archives = st.dictionaries(keys, st.sampled_from(["e", "f"]), min_size=1)
# An object: its members (one without a name is a plain file), of each the slices: a picture, or a reason.
slices = st.lists(st.sampled_from([0, 1, 2, LOST, DAMAGED, NOT_MR, LOST]), min_size=1, max_size=2)
objects = st.one_of(st.tuples(slices), st.lists(slices, min_size=2, max_size=2))
days = st.lists(st.tuples(archives, st.lists(objects, min_size=1, max_size=12), st.booleans()), min_size=1, max_size=4)


def listing(archive: dict[str, str]) -> pa.RecordBatch:
    names = sorted(archive)
    columns = [names, [1] * len(names), [archive[name] for name in names]]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def found_in(entry: Entry, members: Any, blank: bool) -> list[Entry]:
    rows = []
    for number, frames in enumerate(members):
        member = None if len(members) == 1 else f"m{number}"
        name = entry["object_id"] if member is None else member_id(entry["key"], member)
        for frame, what in enumerate(frames):
            picture = what if isinstance(what, int) else None
            rows.append(
                {column.name: "" for column in RESULTS if not column.nullable}
                | {"row_id": row_id(name, frame), "object_id": name, "version_id": entry["version_id"], "size": 1}
                | {"uri": f"x/{entry['key']}/{member or ''}", "member": member, "frame": frame}
                | {"reason": what if picture is None else None, "flags": ["suspect.blank"] if blank else []}
                | {"pixel_digest": None if picture is None else f"{picture + 1:032x}"}
            )
    return rows


class Reference:
    """All rows of all tries as Python objects; what is asked is looked for from the beginning every time."""

    def __init__(self) -> None:
        self.tries: list[list[Entry]] = []  # by the order of the shards
        self.live: set[str] = set()

    def standing(self) -> list[Entry]:
        """The rows that count, in the order of the shards."""
        best: dict[str, tuple[tuple[bool, int, int], list[Entry]]] = {}
        for number, rows in enumerate(self.tries):
            for version in self.live & {row["version_id"] for row in rows}:
                own = [row for row in rows if row["version_id"] == version]
                rank = (any(row["reason"] == LOST for row in own), -len(own), -number)
                best[version] = min(best.get(version, (rank, own)), (rank, own), key=lambda each: each[0])
        kept = [id(row) for _, own in best.values() for row in own]
        return [row for rows in self.tries for row in rows if id(row) in kept]

    def to_retry(self) -> set[str]:
        return {row["version_id"] for row in self.standing() if row["reason"] == LOST}

    def snapshot(self) -> list[tuple[str, str, str | None]]:
        """row_id, state, duplicate_of."""
        rows = self.standing()
        first: dict[str, str] = {}
        ends: dict[str, tuple[str, str | None]] = {}
        for _, name in sorted({(row["uri"], row["object_id"]) for row in rows}):
            own = [row for row in rows if row["object_id"] == name]
            reasons = [row["reason"] for row in own]
            state = State.SCORED if None in reasons else State.QUARANTINED
            state = State.SKIPPED if all(reason == NOT_MR for reason in reasons) else state
            pixels = " ".join(row["pixel_digest"] or "" for row in own)
            alike = not any(reasons) and not any(row["flags"] for row in own)
            original = first.setdefault(pixels, name) if alike else name
            ends[name] = (State.DUPLICATE, original) if original != name else (state, None)
        return [(row["row_id"], *ends[row["object_id"]]) for row in rows]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days)
def test_books_agree_with_a_reference_that_holds_everything(tmp_path, monkeypatch, days) -> None:
    monkeypatch.setattr(outputs, "CHUNK_ROWS", 4)
    root = Location.of(str(tmp_path)) / uuid.uuid4().hex
    manifest, results = Manifest(root / "manifest"), root / "results"
    reference = Reference()
    for archive, outcomes, publishes in days:
        update = manifest.update([listing(archive)], **CUT)
        reference.live = {version_id(key, 1, etag) for key, etag in archive.items()}
        again = outputs.to_retry(manifest.pinned(), results)
        assert set(again.to_pylist()) == reference.to_retry()
        added = manifest.add_retry(again, after=update.listing, **CUT)
        assert outputs.to_retry(manifest, results).to_pylist() == []  # all are in shards that are to be done
        assert set(added) <= set(outputs.missing(manifest, results))
        draw = iter(outcomes * 100)
        for shard in outputs.missing(manifest, results):
            entries = manifest.read_shard(shard).to_pylist()
            rows = [row for entry in entries for row in found_in(entry, next(draw), entry["key"].endswith("/3"))]
            results.write_table(outputs.name(shard), pa.Table.from_pylist(rows, RESULTS))
            reference.tries.append(rows)
        if publishes:
            built = snapshot.build(manifest.pinned(), results, root / "snapshots")
            table = pq.read_table(built.uri.removeprefix("file://"))
            expected = reference.snapshot()
            columns = [table[name].to_pylist() for name in ("row_id", "state", "duplicate_of")]
            assert list(zip(*columns, strict=True)) == expected
            states = Counter({row["object_id"]: row["state"] for row in table.to_pylist()}.values())
            assert built.counts == {"objects": states.total()} | {state.value: states[state] for state in State}


def test_what_is_noted_of_tries_is_all_that_is_read_again(scored, monkeypatch) -> None:
    scored.put(a=scored.picture(1), b=scored.picture(2))
    scored.take_stock()
    scored.archive.delete("b.png")  # between listing and reading
    scored.score()
    snapshot.build(scored.manifest.pinned(), scored.results, scored.snapshots)
    lost = outputs.to_retry(scored.manifest, scored.results)
    assert len(lost) == 1
    asked: list[str] = []
    read = Location.read_table

    def watched(self: Location, key: str = "", columns: list[str] | None = None) -> pa.Table:
        asked.append(key)
        return read(self, key, columns)

    monkeypatch.setattr(Location, "read_table", watched)
    assert outputs.to_retry(scored.manifest, scored.results).equals(lost)
    assert asked == [outputs.TRIED]


class Traced:
    """The most memory that Arrow and Python (numpy too) have held since it was made, beyond what they held then."""

    def __init__(self) -> None:
        self._pool = pa.proxy_memory_pool(pa.default_memory_pool())

    def __enter__(self) -> "Traced":
        self._before = pa.default_memory_pool()
        pa.set_memory_pool(self._pool)
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = self._pool.max_memory() + tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pa.set_memory_pool(self._before)


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> dict[int, dict[str, int]]:
    """The peak of each pass, by the number of objects."""
    return {size: _peaks(Location.of(str(tmp_path_factory.mktemp("books"))), size) for size in (5_000, 20_000)}


def _peaks(root: Location, size: int) -> dict[str, int]:
    manifest, results = Manifest(root / "manifest"), root / "results"
    archive = synthetic.Archive(objects=size)
    found: dict[str, int] = {}
    for name in ("update", "results", "to_retry", "snapshot", "update again", "to_retry again"):
        if name == "results":
            assert synthetic.write_results(manifest, results, "x") == -(-size // 256)
            continue
        with Traced() as traced, pytest.MonkeyPatch.context() as patch:
            patch.setattr(outputs, "CHUNK_ROWS", 1024)  # what does not grow is small beside what does
            patch.setattr("mri_ray.archive.manifest._BLOCK", 1024)
            if name.startswith("update"):
                assert manifest.update(archive.pages(), shard_objects=256).known == size * (name == "update again")
            elif name.startswith("to_retry"):
                assert len(outputs.to_retry(manifest, results)) == size // 10_000
            else:
                assert snapshot.build(manifest, results, root / "snapshots").counts["objects"] == size
        found[name] = traced.peak
    return found


@pytest.mark.parametrize(
    ("name", "most"), {"update": 80, "update again": 80, "to_retry": 40, "to_retry again": 40, "snapshot": 400}.items()
)
def test_a_pass_holds_few_bytes_an_object(books, name, most) -> None:
    few, many = books
    assert (books[many][name] - books[few][name]) / (many - few) < most
