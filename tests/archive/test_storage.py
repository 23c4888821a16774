"""The same promises on local disk and on an S3 server (fixture `root`), then what each kind can do wrong."""

import errno
import io
import itertools
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mri_ray.archive.ranges import BLOCK_BYTES, RangedReader
from mri_ray.archive.storage import Location, StorageConfig
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveNotFound, ArchiveUnreachable, ConfigError
from mri_ray.records import LISTING

ODD_KEYS = [
    "plain.png",
    "a b/c d.png",
    "a-b/x",
    "a/x",
    "a.txt",
    "Ärzte/Prüfung é.png",
    "日本/\U0001d518.png",
    "\uff5e",
    "with#hash?query&and=more.png",
    "50%/%20+plus.png",
    ".hidden/.file",
    "quote'\"<>.png",
    "q?versionId=3",
    "with\ttab",
]


def fill(root: Location, keys: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda key: root.write(key, key.encode()), keys))


def listed(root: Location) -> list[str]:
    return [key for batch in root.list() for key in batch.column("key").to_pylist()]


class TestBothKinds:
    def test_odd_names_come_back_in_the_order_of_their_bytes(self, root: Location) -> None:
        fill(root, ODD_KEYS)
        assert listed(root) == root.keys() == sorted(ODD_KEYS, key=str.encode)
        assert list(root.read_many(ODD_KEYS)) == [key.encode() for key in ODD_KEYS]
        assert [root.read(key) for key in ODD_KEYS] == [key.encode() for key in ODD_KEYS]
        assert all(root.exists(key) for key in ODD_KEYS)

    def test_listing_over_many_pages(self, root: Location) -> None:
        keys = [f"{i % 3}/{i:05d}.png" for i in range(600)] + [f"{i}.png" for i in range(450)]
        fill(root, keys)
        batches = list(root.list())
        assert len(batches) > 1
        assert all(batch.schema.equals(LISTING, check_metadata=True) for batch in batches)
        table = pa.Table.from_batches(batches)
        assert table.column("key").to_pylist() == sorted(keys, key=str.encode)
        assert table.column("size").to_pylist() == [len(key) for key in sorted(keys, key=str.encode)]
        assert len(root.keys("1/")) == 200
        assert len(root.keys("1")) == 200 + sum(str(i).startswith("1") for i in range(450))
        assert root.keys("nothing/") == []
        root.delete_all()
        assert root.keys() == []

    def test_etag_follows_the_content(self, root: Location) -> None:
        root.write("a", b"1")
        root.write("b", b"1")
        before = pa.Table.from_batches(root.list()).to_pylist()
        assert before == pa.Table.from_batches(root.list()).to_pylist()
        root.write("a", b"2")
        after = pa.Table.from_batches(root.list()).to_pylist()
        assert before[1] == after[1]
        assert before[0]["etag"] != after[0]["etag"]

    def test_read_many_yields_errors_in_their_place(self, root: Location) -> None:
        keys = [f"{i}.png" for i in range(100)]
        fill(root, [key for key in keys if key != "50.png"])
        got = list(root.read_many(keys, threads=4))
        assert isinstance(got[50], FileNotFoundError)
        assert "50.png" in str(got[50])
        assert got[:50] + got[51:] == [key.encode() for key in keys if key != "50.png"]

    def test_read_many_runs_ahead_by_a_bounded_number(self, root: Location) -> None:
        fill(root, ["a"])
        asked = []
        answers = root.read_many((asked.append(i) or "a" for i in range(1000)), threads=2)
        assert next(answers) == b"a"
        assert len(asked) <= 5
        answers.close()

    def test_missing_objects(self, root: Location) -> None:
        root.write("there", b"")
        assert root.read("there") == b""
        with pytest.raises(FileNotFoundError, match="absent"):
            root.read("absent")
        assert not root.exists("absent")
        root.delete("absent")
        root.delete("there")
        assert not root.exists("there")

    def test_overwrite_and_write_if_absent(self, root: Location) -> None:
        assert root.write("deep/er/key", b"1", if_absent=True)
        assert not root.write("deep/er/key", b"2", if_absent=True)
        assert root.read("deep/er/key") == b"1"
        assert root.write("deep/er/key", b"3")
        assert root.read("deep/er/key") == b"3"

    def test_of_writers_at_once_one_wins(self, root: Location) -> None:
        gate = threading.Barrier(8)

        def attempt(writer: int) -> bool:
            gate.wait()
            return root.write("shard", bytes([writer]) * 100_000, if_absent=True)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(attempt, range(8)))
        assert sum(won) == 1
        assert root.read("shard") == bytes([won.index(True)]) * 100_000
        assert listed(root) == ["shard"]

    def test_readers_never_see_half_an_object(self, root: Location) -> None:
        whole = [bytes([value]) * 300_000 for value in b"ab"]
        root.write("key", whole[0])
        done = threading.Event()

        def overwrite() -> None:
            for i in range(40):
                root.write("key", whole[i % 2])
            done.set()

        writer = threading.Thread(target=overwrite)
        writer.start()
        while not done.is_set():
            assert root.read("key") in whole
            assert all(data in whole for data in root.read_many(["key"] * 4, threads=4))
        writer.join()

    def test_a_large_object_goes_in_parts(self, root: Location) -> None:
        data = os.urandom(1024) * (70 * 1024) + b"end"
        assert root.write("large", data, if_absent=True)
        assert not root.write("large", data[1:], if_absent=True)
        assert root.read("large") == data
        assert next(root.read_many(["large"])) == data
        assert next(root.list()).column("size").to_pylist() == [len(data)]

    def test_delete_all_stays_below_its_location(self, root: Location) -> None:
        fill(root, ["a/1", "a/2/3", "ab/1", "a.txt"])
        (root / "a").delete_all()
        assert listed(root) == ["a.txt", "ab/1"]
        (root / "never there").delete_all()

    def test_tables(self, root: Location) -> None:
        table = pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({"k": "v"})
        assert root.write_table("t/x=1.parquet", table, if_absent=True)
        assert not root.write_table("t/x=1.parquet", table, if_absent=True)
        assert root.read_table("t/x=1.parquet").equals(table, check_metadata=True)
        assert root.read_table("t/x=1.parquet", columns=["b"]).equals(table.select(["b"]))
        assert (root / "t/x=1.parquet").read_table().equals(table)
        with pytest.raises(FileNotFoundError):
            root.read_table("absent.parquet")

    def test_a_location_may_be_one_object(self, root: Location) -> None:
        root.write("folder/labels.csv", b"path,label\n")
        one = root / "folder" / "labels.csv"
        one.check()
        assert one.name == "labels.csv"
        assert one.read() == b"path,label\n"
        assert one.exists()
        assert one.uri_of("") == root.uri_of("folder/labels.csv") == one.uri
        with pytest.raises(ArchiveNotFound, match=r"labels\.csv"):
            list(one.list())

    def test_check_tells_missing_from_not_yet_there(self, root: Location) -> None:
        root.write("there/x", b"")
        (root / "there").check()
        missing = root / "the" / "re"
        missing.check(must_exist=False)
        for attempt in (missing.check, lambda: list(missing.list())):
            with pytest.raises(ArchiveNotFound) as caught:
                attempt()
            assert missing.uri in str(caught.value)

    def test_pyarrow_reads_the_same(self, root: Location) -> None:
        root.write("a/b", b"data")
        filesystem, path = root.arrow()
        with filesystem.open_input_file(f"{path}/a/b") as file:
            assert file.read() == b"data"

    def test_a_pickle_works_elsewhere_and_holds_no_credentials(self, root: Location) -> None:
        root.write("a", b"data")
        assert next(root.read_many(["a"])) == b"data"
        pickled = pickle.dumps((root, root.arrow()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            secret = os.environ.get(name, "no such name")
            assert len(secret) < 6 or secret.encode() not in pickled
        assert pickle.loads(pickled)[0] == root  # noqa: S301 - our own
        program = "import pickle, sys; r, _ = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(r.read('a'))"
        run = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, check=True)
        assert run.stdout == b"data"


CONTENT = os.urandom(2 * BLOCK_BYTES + 12_345)


class TestOpen:
    def test_reads_and_seeks_are_those_of_memory(self, root: Location) -> None:
        root.write("key", CONTENT)
        model = io.BytesIO(CONTENT)
        draw = random.Random(0)  # noqa: S311 - no secret
        with root.open("key") as source:
            assert source.read() == model.read() == CONTENT
            for _ in range(300):
                whence = draw.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
                base = {io.SEEK_SET: 0, io.SEEK_CUR: model.tell(), io.SEEK_END: len(CONTENT)}[whence]
                near = draw.choice([0, BLOCK_BYTES, 2 * BLOCK_BYTES, len(CONTENT)]) + draw.randint(-50, 50)
                assert source.seek(max(0, near) - base, whence) == model.seek(max(0, near))
                length = draw.choice([0, 1, 22, 4096, 300_000, BLOCK_BYTES + 1, -1])
                assert source.read(length) == model.read(length)
                assert source.tell() == model.tell()
            assert source.seekable()
            with pytest.raises(OSError, match=r"Invalid argument|negative"):
                source.seek(-1)

    def test_empty_missing_and_oddly_named_objects(self, root: Location) -> None:
        for key in ODD_KEYS:
            root.write(key, key.encode())
            with root.open(key) as source:
                assert source.read(1000) == key.encode()
        root.write("empty", b"")
        with root.open("empty") as source:
            assert (source.read(), source.seek(0, io.SEEK_END)) == (b"", 0)
        with pytest.raises(FileNotFoundError, match="absent"):
            root.open("absent")
        with (root / "empty").open() as source:
            assert source.read() == b""

    def test_an_object_put_in_its_place_is_never_mixed_with_it(self, root: Location) -> None:
        root.write("key", CONTENT)
        for other in (CONTENT[:100], CONTENT[::-1]):
            root.write("key", CONTENT)
            with root.open("key") as source:
                assert source.read(100) == CONTENT[:100]
                root.write("key", other)
                source.seek(BLOCK_BYTES)
                if root.uri.startswith("file:"):
                    assert source.read() == CONTENT[BLOCK_BYTES:]
                    continue
                for _ in range(2):
                    with pytest.raises(OSError, match="changed while it was read") as caught:
                        source.read(10)
                    assert caught.value.errno == errno.ESTALE

    def test_an_object_that_is_deleted_while_it_is_read(self, root: Location) -> None:
        root.write("key", CONTENT)
        with root.open("key") as source:
            root.delete("key")
            assert source.read(BLOCK_BYTES) == CONTENT[:BLOCK_BYTES]
            if root.uri.startswith("s3:"):
                with pytest.raises(FileNotFoundError, match="key"):
                    source.read(10)

    def test_a_file_that_is_written_to_while_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        for change in (
            lambda: path.write_bytes(CONTENT[:BLOCK_BYTES]),
            lambda: path.open("ab").close() or os.utime(path),
        ):
            path.write_bytes(CONTENT)
            with Location.of(str(tmp_path)).open("key") as source:
                source.read(10)
                change()
                with pytest.raises(OSError, match="changed while it was read"):
                    source.read(BLOCK_BYTES)

    def test_a_stream_costs_a_request_a_block_and_a_zip_its_directory_one(self) -> None:
        asked: list[tuple[int, int]] = []

        def fetch(offset: int, length: int) -> bytes:
            asked.append((offset, length))
            return CONTENT[offset : offset + length]

        reader = io.BufferedReader(RangedReader(len(CONTENT), CONTENT[:BLOCK_BYTES], fetch), 4096)
        for offset in (len(CONTENT) - 22, len(CONTENT) - 42, len(CONTENT) - 12_000, 0, 10_000, 0):
            reader.seek(offset)
            assert reader.read(5) == CONTENT[offset : offset + 5]
        assert asked == [(2 * BLOCK_BYTES, 12_345)]
        reader.seek(0)
        while reader.read(512):
            pass
        assert asked[1:] == [(BLOCK_BYTES, BLOCK_BYTES), (2 * BLOCK_BYTES, 12_345)]


class TestNames:
    @pytest.mark.parametrize(
        ("given", "uri"),
        [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("S3://bucket/a%20b#c", "s3://bucket/a%20b#c"),
            ("file:///data/x/", "file:///data/x"),
            ("/data//x/../y", "file:///data/y"),
            ("/", "file:///"),
        ],
    )
    def test_normal_form(self, given: str, uri: str) -> None:
        assert Location.of(given).uri == uri
        assert Location.of(uri).uri == uri

    def test_relative_paths_and_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/someone")
        assert Location.of("x").uri == f"file://{tmp_path}/x"
        assert Location.of("~/x").uri == "file:///home/someone/x"

    def test_parts_and_uris(self) -> None:
        assert (Location.of("s3://b") / "a" / "c").uri == "s3://b/a/c"
        assert Location.of("s3://b/a").uri_of("c#d") == "s3://b/a/c#d"
        assert Location.of("/").uri_of("x") == "file:///x"

    @pytest.mark.parametrize("wrong", ["", "s3://", "s3:///x", "gs://b/x", "https://host/x", "file://host/x"])
    def test_other_schemes_are_refused(self, wrong: str) -> None:
        with pytest.raises(ConfigError, match=f"got '{wrong}'"):
            Location.of(wrong)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("endpoint", "localhost:9000"),
            ("endpoint", "ftp://x"),
            ("endpoint", "http://user:pw@host"),
            ("retries", -1),
            ("threads", 0),
            ("connect_timeout_s", 0),
            ("read_timeout_s", float("nan")),
        ],
    )
    def test_settings_check_themselves(self, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=f"^{field}: ") as caught:
            StorageConfig(**{field: value})
        assert "pw" not in str(caught.value)

    def test_the_environment_fills_what_the_settings_leave_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        assert Location.of("s3://b").config == StorageConfig(endpoint="http://general", region="eu-central-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special")
        assert Location.of("s3://b").config.endpoint == "http://special"
        assert Location.of("s3://b", StorageConfig(endpoint="http://mine")).config.endpoint == "http://mine"


class TestLocal:
    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        (tmp_path / "root/a/b").mkdir(parents=True)
        (tmp_path / "other").mkdir()
        (tmp_path / "other/x").write_bytes(b"x")
        (tmp_path / "root/a/b/up").symlink_to(tmp_path / "root/a")
        (tmp_path / "root/other").symlink_to(tmp_path / "other")
        (tmp_path / "root/x").symlink_to(tmp_path / "other/x")
        (tmp_path / "root/nowhere").symlink_to(tmp_path / "absent")
        (tmp_path / "root/self").symlink_to(tmp_path / "root/self")
        os.mkfifo(tmp_path / "root/pipe")
        root = Location.of(str(tmp_path / "root"))
        assert listed(root) == ["nowhere", "other/x", "self", "x"]
        got = list(root.read_many(["nowhere", "other/x", "self", "x"]))
        assert isinstance(got[0], FileNotFoundError)
        assert isinstance(got[2], OSError)
        assert got[1::2] == [b"x", b"x"]

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        root = Location.of(str(tmp_path))
        root.write("key", b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ArchiveError, match="No space left"):
            root.write("key", b"new")
        assert root.read("key") == b"old"
        assert os.listdir(tmp_path) == ["key"]

    def test_writes_under_way_are_not_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        root = Location.of(str(tmp_path))
        replace = os.replace
        monkeypatch.setattr(
            os, "replace", lambda *pair: (seen.append((len(os.listdir(tmp_path)), root.keys())), replace(*pair))
        )
        root.write("key", b"data")
        assert seen == [(1, [])]
        assert root.keys() == ["key"]

    def test_names_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")).write_bytes(b"")
        with pytest.raises(ArchiveError, match=r"UTF-8, got b'caf\\xe9.png' in file://"):
            listed(Location.of(str(tmp_path)))

    def test_names_that_are_no_text_keep_nothing_else_from_being_listed(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for name in (b"/in/caf\xe9.png", b"/in/good.png", b"/caf\xe9s", b"/one.png"):
            Path(os.fsdecode(bytes(tmp_path) + name)).write_bytes(b"")
        told: list[str] = []
        found = pa.Table.from_batches(Location.of(str(tmp_path)).list(told.append))
        assert found["key"].to_pylist() == ["in/good.png", "one.png"]
        assert sorted(told) == ["caf\\xe9s", "in/caf\\xe9.png"]

    @pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/./b", "nul\0"])
    def test_keys_never_lead_out(self, tmp_path: Path, key: str) -> None:
        (tmp_path / "x").write_bytes(b"secret")
        root = Location.of(str(tmp_path / "root"))
        assert isinstance(next(root.read_many([key])), OSError)
        with pytest.raises(OSError, match="relative path"):
            root.write(key, b"")

    def test_a_file_in_the_way_of_an_output(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ArchiveNotFound, match="is a file"):
            Location.of(str(tmp_path / "file/out")).check(must_exist=False)

    def test_a_whole_file_system_is_not_deleted(self) -> None:
        with pytest.raises(ArchiveError, match="not a whole file system"):
            Location.of("/").delete_all()


def everything(root: Location) -> list[Callable[[], object]]:
    return [root.check, lambda: list(root.list()), lambda: root.write("x", b""), lambda: root.exists("x")]


class TestS3:
    def refused(self, root: Location, kind: type[ArchiveError], cause: str) -> None:
        """Every way in tells the same kind and cause, and names the URI."""
        for attempt in everything(root):
            with pytest.raises(kind) as caught:
                attempt()
            assert root.uri in str(caught.value)
            assert attempt.__name__ == "<lambda>" or cause in str(caught.value)
        answers = [next(root.read_many(["x"]))]
        with pytest.raises(OSError, match=r"s3://") as caught:
            root.read("x")
        for answer in (*answers, caught.value):
            assert (
                type(answer)
                is {
                    ArchiveNotFound: FileNotFoundError,
                    ArchiveDenied: PermissionError,
                    ArchiveUnreachable: ConnectionError,
                }[kind]
            )

    def test_wrong_secret(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        self.refused(Location.of(s3_prefix), ArchiveDenied, "secret key does not belong")

    def test_unknown_key(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
        self.refused(Location.of(s3_prefix), ArchiveDenied, "does not know the access key")

    def test_anonymous(self, s3_prefix: str) -> None:
        self.refused(Location.of(s3_prefix, StorageConfig(anonymous=True)), ArchiveDenied, "anonymous access")

    def test_no_credentials(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        self.refused(Location.of(s3_prefix), ArchiveDenied, "no usable credentials")

    def test_unknown_profile(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        self.refused(Location.of(s3_prefix), ArchiveDenied, "no-such-profile")

    def test_right_credentials_after_wrong_ones(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        root = Location.of(s3_prefix)
        with monkeypatch.context() as wrong:
            wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
            with pytest.raises(ArchiveDenied):
                root.check()
        assert root.write("x", b"")

    def test_missing_bucket(self, s3_server) -> None:
        root = Location.of("s3://no-such-bucket/prefix")
        for must_exist in (True, False):
            with pytest.raises(ArchiveNotFound, match=r"no such bucket: s3://no-such-bucket/prefix"):
                root.check(must_exist=must_exist)
        with pytest.raises(ArchiveNotFound, match="no such bucket"):
            list(root.list())
        assert isinstance(next(root.read_many(["x"])), FileNotFoundError)

    def test_closed_port(self, s3_prefix: str) -> None:
        root = Location.of(s3_prefix, StorageConfig(endpoint="http://127.0.0.1:1"))
        start = time.monotonic()
        with pytest.raises(ArchiveUnreachable, match=r"no answer.*s3://.*http://127.0.0.1:1") as caught:
            root.check()
        assert time.monotonic() - start < 15
        assert root.uri in str(caught.value)
        once = Location.of(s3_prefix, StorageConfig(endpoint="http://127.0.0.1:1", retries=0))
        assert isinstance(next(once.read_many(["x"])), ConnectionError)

    def test_an_impossible_endpoint_of_the_environment(self, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
        with pytest.raises(ConfigError, match=r"endpoint: .*'localhost:9000'"):
            Location.of(s3_prefix)

    def test_folder_markers_are_no_objects(self, s3_prefix: str) -> None:
        root = Location.of(s3_prefix)
        store = root._store
        store._put(store._key("folder/"), b"", {}, if_absent=False)
        assert listed(root) == root.keys() == []
        root.write("folder/x", b"")
        assert listed(root) == root.keys() == ["folder/x"]
        root.delete_all()
        assert next(store._pages("")) == []

    def test_a_whole_bucket_is_not_deleted(self, s3_server) -> None:
        with pytest.raises(ArchiveError, match="not a whole bucket"):
            Location.of(f"s3://{s3_server.bucket}").delete_all()


Answer = Callable[[str, int], tuple[int, bytes] | None]  # method and number of the request -> status and body


@pytest.fixture
def faulty(s3_server) -> Iterator[Callable[[Answer], Location]]:
    """Starts a server that answers as told, for faults that a good server does not show."""
    servers = []

    def start(answer: Answer) -> Location:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                requests.append(self.command)
                status, body = answer(self.command, len(requests))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("x-amz-bucket-region", "eu-west-3")
                self.end_headers()
                if self.command != "HEAD":
                    with suppress(BrokenPipeError):  # the client has given up
                        self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = reply  # noqa: N815 - the base class asks for these names

            def log_message(self, *arguments: object) -> None:
                pass

        requests: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = StorageConfig(endpoint=f"http://127.0.0.1:{server.server_port}", read_timeout_s=1.0, retries=2)
        return Location.of("s3://bucket/prefix", config)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told so</Message></Error>".encode()


class TestFaultyServer:
    @pytest.mark.parametrize(
        ("status", "code", "kind", "cause"),
        [
            (400, "ExpiredToken", ArchiveDenied, "the session token has expired"),
            (403, "RequestTimeTooSkewed", ArchiveDenied, "clock"),
            (403, "AccessDenied", ArchiveDenied, "permission denied"),
            (503, "ServiceUnavailable", ArchiveUnreachable, "not available"),
            (400, "Curious", ArchiveError, r"refused \(Curious: told so\)"),
        ],
    )
    def test_answers_get_a_cause(self, faulty, status: int, code: str, kind: type[ArchiveError], cause: str) -> None:
        root = faulty(lambda method, number: (status, refusal(code)))
        with pytest.raises(kind, match=rf"{cause}.*: s3://bucket/prefix at http://127"):
            root.check()
        with pytest.raises(OSError, match=cause):
            root.read("x")
        assert isinstance(next(root.read_many(["x"])), OSError)

    def test_what_is_no_s3_server(self, faulty) -> None:
        root = faulty(lambda method, number: (200, b"<html><p>Welcome"))
        with pytest.raises(ArchiveUnreachable, match="no S3 server"):
            root.check()

    def test_a_short_outage_is_ridden_out(self, faulty) -> None:
        root = faulty(lambda method, number: (503, b"") if number < 3 else (200, b"data"))
        assert list(root.read_many(["x"])) == [b"data"]

    @pytest.mark.parametrize(("today", "taken"), [("listed", True), ("another", False)])
    def test_answers_that_name_versions_unlike_listings_are_held_against_a_new_listing(
        self, faulty, today: str, taken: bool
    ) -> None:
        page = f"""<ListBucketResult><Name>bucket</Name><Prefix>prefix/x</Prefix><IsTruncated>false</IsTruncated>
            <Contents><Key>prefix/x</Key><Size>4</Size><ETag>"{today}"</ETag></Contents></ListBucketResult>""".encode()
        root = faulty(lambda method, number: (200, page))  # whatever is asked for: the object holds that, too
        (found,) = root.read_listed([("x", "listed")])
        if taken:
            assert found == page
        else:
            assert isinstance(found, OSError)
            assert found.errno == errno.ESTALE

    def test_pyarrow_is_told_where_the_bucket_lies(self, faulty) -> None:
        filesystem, _ = faulty(lambda method, number: (200, b"")).arrow()
        assert filesystem.region == "eu-west-3"

    def test_a_server_that_never_answers(self, faulty) -> None:
        def hang(method: str, number: int) -> tuple[int, bytes]:
            time.sleep(3)
            return 200, b""

        root = faulty(hang)
        start = time.monotonic()
        with pytest.raises(ArchiveUnreachable, match="s3://bucket/prefix"):
            root.check()
        assert time.monotonic() - start < 10


Fault = Callable[[str, int], int | str | None]  # its range and number of the request -> status, "cut", "whole", none


@pytest.fixture
def ranged(s3_server) -> Iterator[Callable[[Fault], Location]]:
    """Starts a server of one object, CONTENT, that goes wrong as told."""
    servers = []

    def start(fault: Fault) -> Location:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                first, last = (int(part) for part in re.findall(r"\d+", self.headers["Range"]))
                requests.append(first)
                what = fault(self.headers["Range"], len(requests))
                body = CONTENT if what == "whole" else CONTENT[first : last + 1]
                status = 200 if what == "whole" else 206
                if isinstance(what, int):
                    status, body = what, b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 206:
                    self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(CONTENT)}")
                self.send_header("ETag", '"one"')
                self.end_headers()
                self.close_connection = what == "cut"
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(body[:1000] if what == "cut" else body)

            def log_message(self, *arguments: object) -> None:
                pass

        requests: list[int] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        config = StorageConfig(endpoint=f"http://127.0.0.1:{server.server_port}", read_timeout_s=5.0, retries=1)
        return Location.of("s3://bucket/prefix", config)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestFaultsWhileReading:
    @pytest.mark.parametrize("fault", [500, 503, "cut"])
    def test_a_short_outage_is_ridden_out(self, ranged, fault: int | str) -> None:
        root = ranged(lambda part, number: fault if number in (1, 3, 5) else None)
        with root.open("x") as source:
            assert source.read() == CONTENT

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [(503, ConnectionError), ("cut", OSError), (403, PermissionError), (404, OSError), (416, OSError)],
    )
    def test_a_lasting_one_is_told_and_what_was_read_stays(self, ranged, fault: int | str, kind: type[OSError]) -> None:
        broken = True
        root = ranged(lambda part, number: fault if broken and number > 1 else None)
        with root.open("x") as source:
            assert source.read(BLOCK_BYTES - 10) == CONTENT[: BLOCK_BYTES - 10]
            for _ in range(2):
                with pytest.raises(kind, match="s3://bucket/prefix/x"):
                    source.read(1000)
            broken = False
            source.seek(BLOCK_BYTES - 10)
            assert source.read(1000) == CONTENT[BLOCK_BYTES - 10 :][:1000]

    def test_one_at_the_beginning(self, ranged) -> None:
        for fault, kind in ((503, ConnectionError), (403, PermissionError)):
            with pytest.raises(kind):
                ranged(lambda part, number, fault=fault: fault).open("x")

    def test_a_server_that_knows_no_parts(self, ranged) -> None:
        with pytest.raises(OSError, match="does not give parts of objects"):
            ranged(lambda part, number: "whole").open("x")
        root = ranged(lambda part, number: "whole" if number > 1 else None)
        with root.open("x") as source, pytest.raises(OSError, match="does not give parts of objects"):
            source.seek(BLOCK_BYTES) and source.read(1)


class TestBatches:
    schema = pa.schema([pa.field("number", pa.int64()), pa.field("data", pa.binary())])

    def batches(self, count: int) -> list[pa.RecordBatch]:
        return [
            pa.RecordBatch.from_pydict({"number": [i], "data": [bytes([i % 251]) * 1000]}, schema=self.schema)
            for i in range(count)
        ]

    def test_a_table_written_in_batches_is_read_whole_and_in_batches(self, root: Location) -> None:
        assert root.write_batches("t.parquet", self.schema, iter(self.batches(50)), row_group_size=1)
        whole = root.read_table("t.parquet")
        assert whole.equals(pa.Table.from_batches(self.batches(50)))
        parts = list(root.read_batches("t.parquet", 7))
        assert [part.num_rows for part in parts] == [7] * 7 + [1]
        assert pa.Table.from_batches(parts).equals(whole)

    @pytest.mark.parametrize("sizes", [[1] * 10, [7, 1, 2], [3, 3, 4], [10], [4, 6], [4, 4]])
    def test_all_row_groups_but_the_last_are_whole(self, tmp_path: Path, sizes: list[int]) -> None:
        """Readers find a row by its number: rows by group."""
        whole = pa.Table.from_batches(self.batches(sum(sizes))).combine_chunks()
        ends = list(itertools.accumulate([0, *sizes]))
        parts = (whole.slice(start, stop - start).to_batches()[0] for start, stop in itertools.pairwise(ends))
        Location.of(str(tmp_path)).write_batches("t.parquet", self.schema, parts, row_group_size=4)
        found = pq.ParquetFile(tmp_path / "t.parquet")
        groups = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
        assert groups == [4] * (sum(sizes) // 4) + ([sum(sizes) % 4] if sum(sizes) % 4 else [])
        assert found.read().equals(whole)

    def test_only_if_absent(self, root: Location) -> None:
        assert root.write_batches("t.parquet", self.schema, iter(self.batches(1)), if_absent=True)
        assert not root.write_batches("t.parquet", self.schema, iter(self.batches(2)), if_absent=True)
        assert root.read_table("t.parquet").num_rows == 1
        assert root.write_batches("t.parquet", self.schema, iter(self.batches(2)))
        assert root.read_table("t.parquet").num_rows == 2

    def test_a_large_table_goes_in_parts(self, root: Location) -> None:
        noise = [pa.RecordBatch.from_pydict({"number": [i], "data": [os.urandom(2**21)]}) for i in range(36)]
        noise = [batch.cast(self.schema) for batch in noise]
        assert root.write_batches("t.parquet", self.schema, iter(noise), if_absent=True)
        assert not root.write_batches("t.parquet", self.schema, iter(noise), if_absent=True)
        assert pa.Table.from_batches(root.read_batches("t.parquet", 1)).equals(pa.Table.from_batches(noise))

    def test_what_fails_midway_leaves_nothing(self, root: Location) -> None:
        def broken() -> Iterator[pa.RecordBatch]:
            yield from self.batches(3)
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            root.write_batches("t.parquet", self.schema, broken())
        assert root.keys() == []

    def test_without_batches_there_is_an_empty_table(self, root: Location) -> None:
        root.write_batches("t.parquet", self.schema, iter(()))
        assert root.read_table("t.parquet").num_rows == 0
