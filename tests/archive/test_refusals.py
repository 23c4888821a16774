"""What storage refuses: folders that may not be looked into, places that are full or read-only, files that change."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mri_ray.archive.listing import lies_below
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveFull, ArchiveNotFound

SCHEMA = pa.schema([pa.field("data", pa.binary())])


def write(folder: Path, *keys: str) -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(key.encode())


def listed(root: Location) -> tuple[list[str], list[str]]:
    """The keys, and what could not be looked into."""
    denied: list[str] = []
    keys = [key for batch in root.list(denied.append) for key in batch.column("key").to_pylist()]
    return keys, denied


class TestPermissions:
    def test_a_folder_that_may_not_be_listed_costs_itself_only(self, tmp_path: Path, permissions_bind: None) -> None:
        write(tmp_path, "a/1", "b/inner/2", "b/3", "b-c/4", "c/deep/er/5", "c/6", "7")
        (tmp_path / "b").chmod(0)
        (tmp_path / "c/deep").chmod(0o600)  # names may be read, and nothing be known of them
        root = Location.of(str(tmp_path))
        assert listed(root) == (["7", "a/1", "b-c/4", "c/6"], ["b", "c/deep"])
        with pytest.raises(ArchiveDenied, match=r"listing needs permission: file://.*/b/: Permission denied"):
            list(root.list())
        (tmp_path / "b").chmod(0o700)
        (tmp_path / "c/deep").chmod(0o700)
        assert listed(root)[1] == []

    def test_a_link_to_what_may_not_be_seen(self, tmp_path: Path, permissions_bind: None) -> None:
        write(tmp_path, "root/a", "closed/file", "closed/folder/x")
        for name in ("file", "folder"):
            (tmp_path / "root" / name).symlink_to(tmp_path / "closed" / name)
        (tmp_path / "closed").chmod(0)
        assert listed(Location.of(str(tmp_path / "root"))) == (["a"], ["file", "folder"])
        (tmp_path / "closed").chmod(0o700)
        assert listed(Location.of(str(tmp_path / "root"))) == (["a", "file", "folder/x"], [])

    def test_a_root_that_may_not_be_listed_is_an_error(self, tmp_path: Path, permissions_bind: None) -> None:
        write(tmp_path, "root/a")
        for mode in (0, 0o600, 0o100):
            (tmp_path / "root").chmod(mode)
            with pytest.raises(ArchiveDenied, match=r"file://.*/root"):
                listed(Location.of(str(tmp_path / "root")))
        (tmp_path / "root").chmod(0o700)

    def test_what_may_be_listed_and_not_read(self, tmp_path: Path, permissions_bind: None) -> None:
        write(tmp_path, "a", "b")
        (tmp_path / "a").chmod(0)
        root = Location.of(str(tmp_path))
        assert listed(root) == (["a", "b"], [])
        denied, there = root.read_many(["a", "b"])
        assert isinstance(denied, PermissionError)
        assert there == b"b"
        with pytest.raises(PermissionError):
            root.open("a")

    def test_every_way_in_and_out_of_a_closed_folder(self, tmp_path: Path, permissions_bind: None) -> None:
        (tmp_path / "closed").mkdir(mode=0)
        root = Location.of(str(tmp_path))
        for attempt in (
            (root / "closed").check,
            (root / "closed/out").check,
            lambda: (root / "closed").check(must_exist=False),
            lambda: (root / "closed/out").check(must_exist=False),
            lambda: root.write("closed/x", b""),
        ):
            with pytest.raises(ArchiveDenied, match=r"permission.*file:///.*closed"):
                attempt()
        (tmp_path / "closed").chmod(0o700)

    def test_an_output_must_be_a_folder_that_may_be_written_in(self, tmp_path: Path, permissions_bind: None) -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        write(tmp_path, "file")
        root = Location.of(str(tmp_path))
        (root / "closed").check()
        with pytest.raises(ArchiveDenied, match="no permission to write in"):
            (root / "closed").check(must_exist=False)
        with pytest.raises(ArchiveNotFound, match="must be a folder to be written to"):
            (root / "file").check(must_exist=False)
        root.check(must_exist=False)

    def test_a_folder_that_is_closed_between_two_writes(self, tmp_path: Path, permissions_bind: None) -> None:
        root = Location.of(str(tmp_path / "out"))
        assert root.write("a/1", b"1")
        (tmp_path / "out/a").chmod(0o500)
        with pytest.raises(ArchiveDenied, match=r"writing needs permission: file://.*/out/a/2: Permission denied"):
            root.write("a/2", b"2")
        (tmp_path / "out/a").chmod(0o700)
        assert os.listdir(tmp_path / "out/a") == ["1"]

    def test_credentials_that_may_read_some_prefixes(self, s3_prefix: str, request: pytest.FixtureRequest) -> None:
        root = Location.of(s3_prefix)
        for key in ("closed/x", "open/y"):
            root.write(key, key.encode())
        request.getfixturevalue("s3_reader")
        assert listed(root) == (["closed/x", "open/y"], [])
        denied, there = root.read_many(["closed/x", "open/y"])
        assert isinstance(denied, PermissionError)
        assert there == b"open/y"
        with pytest.raises(PermissionError):
            root.open("closed/x")
        for key in ("open/z", "closed/z"):
            with pytest.raises(ArchiveDenied, match="permission denied to these credentials: s3://"):
                root.write(key, b"", if_absent=True)


def test_what_lies_below_a_place() -> None:
    places = {"a/b", "c", "é"}
    for key in ("a/b", "a/b/c", "a/b/c/d", "c/x", "é/1"):
        assert lies_below(key, places)
    for key in ("a", "a/bc", "a/c/b", "a-b", "cc/x", "x/c", ""):
        assert not lies_below(key, places)


class TestFull:
    def test_a_write_that_finds_no_space_leaves_nothing(self, tmpfs: Callable[[str], Path]) -> None:
        place = tmpfs("size=256k")
        root = Location.of(str(place))
        assert root.write("out/1", bytes(100_000))
        for write_it in (
            lambda: root.write("out/2", bytes(400_000)),
            lambda: root.write("out/1", bytes(400_000)),
            lambda: root.write("out/2", bytes(400_000), if_absent=True),
        ):
            with pytest.raises(
                ArchiveFull, match=r"^writing needs space; .*: file://.*/small/out/[12]: No space left on device$"
            ):
                write_it()
        assert root.read("out/1") == bytes(100_000)
        assert os.listdir(place / "out") == ["1"]
        assert root.write("out/2", bytes(100_000))

    def test_a_read_only_place(self, tmpfs: Callable[[str], Path]) -> None:
        place = tmpfs("size=256k")
        root = Location.of(str(place))
        root.write("out/1", b"1")
        root.check(must_exist=False)
        tmpfs("remount,ro")
        root.check()
        for output in (root, root / "out", root / "out" / "new"):
            with pytest.raises(ArchiveDenied, match="no permission to write in"):
                output.check(must_exist=False)
        for attempt in (lambda: root.write("out/2", b""), lambda: root.write("new/2", b"")):
            with pytest.raises(ArchiveDenied, match=r"writing needs permission: .*/(2|new): Read-only"):
                attempt()
        with pytest.raises(ArchiveDenied, match="deleting needs permission"):
            root.delete("out/1")
        assert root.keys() == ["out/1"]

    def test_no_space_to_gather_a_table(
        self, tmpfs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmpfs("size=256k")
        monkeypatch.setattr("tempfile.tempdir", str(place))
        root = Location.of(str(tmp_path / "out"))
        noise = (pa.RecordBatch.from_pydict({"data": [os.urandom(2**20)]}, schema=SCHEMA) for _ in range(3))
        with pytest.raises(ArchiveFull, match=rf"gathering t.parquet needs space .* TMPDIR .*: {place}: No space left"):
            root.write_batches("t.parquet", SCHEMA, noise)
        assert root.keys() == os.listdir(place) == []


class TestChanging:
    def test_a_file_is_not_read_while_it_is_written_to(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(bytes(64 * 2**20))
        done = threading.Event()

        def write() -> None:
            with path.open("r+b", buffering=0) as file:
                while not done.wait(0.001):
                    file.seek(0)
                    file.write(b"new")

        writer = threading.Thread(target=write)
        writer.start()
        answers = list(Location.of(str(tmp_path)).read_many(["key"] * 4, threads=1))
        done.set()
        writer.join()
        assert [answer.errno for answer in answers if isinstance(answer, OSError)] == [errno.ESTALE] * 4

    def test_what_is_put_in_its_place_is_read_whole(self, tmp_path: Path) -> None:
        root = Location.of(str(tmp_path))
        root.write("key", b"a" * 100)
        with root.open("key") as source:
            root.write("key", b"b" * 200)
            assert source.read() == b"a" * 100
        assert root.read("key") == b"b" * 200


def test_other_errors_stay_what_they_were(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(ArchiveError, match=r"writing failed: .*File exists") as caught:
        Location.of(str(tmp_path)).write("file/x", b"")
    assert type(caught.value) is ArchiveError
