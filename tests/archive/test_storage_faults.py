"""What storage does wrong now and then, by a proxy before the real S3 server: ridden out, or told for what it is."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mri_ray.archive import s3
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.ranges import BLOCK_BYTES
from mri_ray.archive.storage import Location, StorageConfig
from mri_ray.errors import ArchiveUnreachable

KINDS = ("slow_down", "reset", "cut")
CAUSES = {
    "slow_down": "asks for fewer requests|not available|SERVICE_UNAVAILABLE|SLOW_DOWN",
    "reset": "no answer from the server|answer broke off|NETWORK_CONNECTION",
    "cut": "no answer from the server|answer broke off|NETWORK_CONNECTION",
}


@pytest.fixture
def prefix(s3_server, request: pytest.FixtureRequest) -> str:
    """A URI with nothing below it that is the same in every session, since which requests go wrong follows from it."""
    name = re.sub(r"\W", "-", request.node.name)
    return f"s3://{s3_server.bucket}/faults/{name}"


@pytest.fixture
def through(proxy, prefix) -> Callable[..., tuple[Location, Callable[[], dict[str, int]]]]:
    """The place as it is reached through a proxy that goes wrong as told, and what that counts."""

    def start(*, retries: int = 3, **faults):
        started = proxy(**faults)
        return Location.of(prefix, StorageConfig(endpoint=started.endpoint, retries=retries)), started.counts

    return start


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """What each gives, or raises; the pauses between their tries pass side by side."""

    def outcome(task: Callable[[], Any]) -> Any:
        try:
            return task()
        except Exception as exc:
            return exc

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(outcome, tasks))


def whole(place: Location, key: str) -> bytes:
    with place.open(key) as source:
        return source.read()


def test_everything_gets_through_heavy_faults(through, prefix):
    faulty, counts = through(seed=3, slow_down=0.1, reset=0.2, cut=0.2, most=2)
    plain = Location.of(prefix)
    content = {f"images/{i:02d}.png": os.urandom(20_000) for i in range(24)} | {
        "volume": os.urandom(2 * BLOCK_BYTES + 9)
    }
    table = pa.table({"a": list(range(5000)), "b": [f"row {i}" for i in range(5000)]})
    written = at_once(
        *(partial(faulty.write, key, data, if_absent=True) for key, data in content.items()),
        lambda: faulty.write_table("t.parquet", table, if_absent=True),
    )
    assert written == [True] * 26
    assert {key: plain.read(key) for key in content} == content

    keys = sorted(content)
    many, listed, names, opened, columns, batches, absent, *others = at_once(
        lambda: list(faulty.read_many(keys)),
        lambda: pa.Table.from_batches((faulty / "images").list()),
        lambda: (faulty / "images").keys(),
        lambda: whole(faulty, "volume"),
        lambda: faulty.read_table("t.parquet", columns=["b"]),
        lambda: pa.Table.from_batches(faulty.read_batches("t.parquet", 1000)),
        lambda: list(faulty.read_many(["absent"])),
        *(partial(faulty.read, key) for key in keys),
        *(partial(faulty.write, key, b"", if_absent=True) for key in keys[:4]),
    )
    assert many == others[: len(keys)] == list(content.values())
    assert others[len(keys) :] == [False] * 4
    assert listed.equals(pa.Table.from_batches((plain / "images").list()))
    assert names == (plain / "images").keys()
    assert opened == content["volume"]
    assert columns.equals(table.select(["b"]))
    assert batches.equals(table)
    assert isinstance(absent[0], FileNotFoundError)

    assert at_once(*(partial(faulty.delete, key) for key in keys[:4])) == [None] * 4
    assert at_once(*(partial(faulty.exists, key) for key in keys[:6])) == [False] * 4 + [True] * 2
    (faulty / "images").delete_all()
    assert plain.keys() == ["t.parquet", "volume"]
    done = counts()
    assert all(done[kind] > 5 for kind in (*KINDS, "late")), done


@pytest.mark.parametrize("kind", KINDS)
def test_a_lasting_fault_is_told_and_no_part_of_a_body_is_taken_for_it(through, prefix, kind):
    plain = Location.of(prefix)
    plain.write("x", b"x" * 300_000)
    plain.write_table("t.parquet", pa.table({"a": [1, 2], "b": [3, 4]}))
    faulty, counts = through(retries=1, only="GET", **{kind: 1.0})
    *read, (many,) = at_once(
        lambda: faulty.read("x"),
        lambda: faulty.open("x"),
        lambda: faulty.read_table("t.parquet"),
        lambda: faulty.read_table("t.parquet", columns=["a"]),
        lambda: list(faulty.read_batches("t.parquet", 1)),
        lambda: list(faulty.read_many(["x"])),
    )
    assert all(isinstance(error, OSError) and re.search(CAUSES[kind], str(error)) for error in (*read, many)), read
    assert isinstance(many, ConnectionError)
    assert f"{prefix}/x" in str(many)
    listed = at_once(faulty.keys, lambda: list(faulty.list()), faulty.check)
    assert all(isinstance(error, ArchiveUnreachable) for error in listed), listed
    assert all(re.search(rf"({CAUSES[kind]}).*{prefix}", str(error)) for error in listed), listed
    assert counts()[kind] >= 2 * 9, "not all was tried again"


def test_an_answer_whose_text_breaks_off_is_asked_for_again(through, prefix):
    plain = Location.of(prefix)
    names = [f"images/{i}.png" for i in range(3)]
    for name in names:
        plain.write(name, b"x")
    faulty, counts = through(only="GET", cut=1.0, most=2)
    absent, listed, size = at_once(
        lambda: faulty.read("absent"), faulty.keys, lambda: pa.Table.from_batches(faulty.list()).num_rows
    )
    assert isinstance(absent, FileNotFoundError), absent
    assert listed == names
    assert size == 3
    assert counts()["cut"] >= 4, "two of the listing, two of the error"


@pytest.mark.parametrize("kind", ["slow_down", "reset"])
def test_a_write_whose_answer_is_lost_knows_its_own_object(through, prefix, tmp_path, kind):
    (tmp_path / "file").write_bytes(b"from disk")
    faulty, counts = through(only="PUT|POST", late=1.0, most=1, **{kind: 1.0})
    plain = Location.of(prefix)
    assert faulty.write("mine", b"data", if_absent=True)
    assert faulty._store.write_file("file", str(tmp_path / "file"), if_absent=True)
    assert [plain.read(key) for key in ("mine", "file")] == [b"data", b"from disk"]
    assert not faulty.write("mine", b"data", if_absent=True)
    plain.write("theirs", b"data")
    assert not faulty.write("theirs", b"data", if_absent=True)
    assert faulty.write("any", b"data")
    assert plain.read("any") == b"data"
    done = counts()
    assert done[kind] == done["late"] == 4


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_so_does_one_that_goes_in_parts(through, prefix, kind, monkeypatch):
    monkeypatch.setattr(s3, "_PART_BYTES", 10 * 2**20)  # of two times the least that S3 takes
    faulty, counts = through(only="POST .*uploadId", late=1.0, most=1, **{kind: 1.0})
    data = os.urandom(11 * 2**20)
    assert faulty.write("large", data, if_absent=True)
    assert not faulty.write("large", data[1:], if_absent=True)
    assert Location.of(prefix).read("large") == data
    assert counts()[kind] == 2


def test_a_listing_whose_commit_was_answered_by_a_fault_counts_what_it_added(through, tmp_path):
    archive = Location.of(str(tmp_path))
    for i in range(10):
        (Path(tmp_path) / f"{i}.png").write_bytes(bytes([i]))
    faulty, counts = through(only="PUT", late=1.0, most=1, slow_down=1.0)
    manifest = Manifest(faulty)
    update = manifest.update(archive.list(), shard_objects=5)
    assert (update.listing, update.new, update.known, len(update.shards)) == (1, 10, 0, 2)
    ids = manifest.read_shard(update.shards[1])["version_id"]
    assert [shard.objects for shard in manifest.add_retry(ids)] == [5]
    assert counts()["late"] == 5
