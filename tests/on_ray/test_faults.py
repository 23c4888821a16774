"""Scoring where storage refuses: what can be done is done, what was there stays, and the message says what to do."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveDenied, ArchiveFull, ConfigError
from mri_ray.learn import bundle as bundles
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.on_ray import cluster, score
from mri_ray.on_ray.settings import ScoreRun
from mri_ray.prepare.settings import PrepareConfig

SHARDS = {"objects": 5, "workers": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    """One with fresh weights: what it answers does not matter here, only that it is the same each time."""
    model = ModelConfig(input_size=64, width=4, blocks=4, dense=16)
    weights = build(model, seed=1).state_dict()
    place = Location.of(str(tmp_path_factory.mktemp("bundle")))
    bundles.save(bundles.Bundle(model=model, prepare=PrepareConfig(size=64), weights=weights), place)
    return place.uri


def run(archive: Path, bundle: str, output: Path | str, **settings: object) -> dict:
    given = {"archive": str(archive), "bundle": bundle, "output": str(output), "shards": SHARDS}
    return score.run(config.build(ScoreRun, given | settings)).values


def rows(values: dict):
    columns = ["row_id", "uri", "state", "reason", "probability"]
    return pq.read_table(values["results"].removeprefix("file://"), columns=columns).sort_by("row_id")


@pytest.fixture
def pictures(archive: Path, tmp_path: Path) -> Path:
    """A copy of the archive that a test may change, in three folders."""
    for number, path in enumerate(sorted(path for path in archive.rglob("*") if path.is_file())):
        folder = tmp_path / "pictures" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    return tmp_path / "pictures"


def test_a_folder_that_may_not_be_listed_keeps_its_results(ray_cluster, bundle, pictures, tmp_path, permissions_bind):
    first = run(pictures, bundle, tmp_path / "out")
    assert "denied_folders" not in first
    (pictures / "a/new.png").write_bytes(next((pictures / "a").iterdir()).read_bytes() + b"\0")
    next((pictures / "c").iterdir()).unlink()
    (pictures / "b").chmod(0)
    second = run(pictures, bundle, tmp_path / "out")
    assert {name: second["this_run"][name] for name in ("objects", "new", "changed", "deleted")} == {
        "objects": 1,
        "new": 1,
        "changed": 0,
        "deleted": 1,
    }
    assert second["counts"] == {"objects": 120, "scored": 119, "quarantined": 0, "duplicate": 1, "skipped": 0}
    assert second["denied_folders"] == {"number": 1, "kept": 40, "first": [f"file://{pictures}/b"]}
    (warning,) = [text for text in second["warnings"] if "may not be listed" in text]
    assert warning.startswith(
        "1 folders may not be listed, or files have names that are no UTF-8: what is new in them "
    )
    assert "and results of 40 objects" in warning
    assert warning in (tmp_path / "out/report.html").read_text().replace("&#39;", "'")
    (pictures / "b").chmod(0o700)
    third = run(pictures, bundle, tmp_path / "out")
    assert third["this_run"]["objects"] == 0
    assert rows(third).equals(rows(second))
    assert "denied_folders" not in third
    assert third["warnings"] == first["warnings"]


def test_a_denied_folder_is_not_named_where_paths_are_not_kept(
    ray_cluster, bundle, pictures, tmp_path, permissions_bind, monkeypatch, caplog
):
    monkeypatch.setenv("MRI_RAY_SITE_KEY", "a key of this site, long enough")
    (pictures / "b").rename(pictures / "Doe^John")
    (pictures / "Doe^John").chmod(0)
    secret = {"uris": "pseudonym", "linkage": str(tmp_path / "linkage")}
    values = run(pictures, bundle, tmp_path / "out", select={"limit": 20}, **secret)
    assert values["denied_folders"] == {"number": 1, "kept": 0}
    assert "Doe" not in (tmp_path / "out/run.json").read_text() + (tmp_path / "out/report.html").read_text()
    assert "Doe" not in caplog.text


def test_an_archive_of_which_no_folder_may_be_listed(ray_cluster, bundle, pictures, tmp_path, permissions_bind):
    run(pictures, bundle, tmp_path / "out")
    before = told(tmp_path / "out")
    for folder in "abc":
        (pictures / folder).chmod(0)
    for output in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(ArchiveDenied, match=r"at least one object .* none, and 3 folders that may not"):
            run(pictures, bundle, output)
    assert told(tmp_path / "out") == before
    for folder in "abc":
        (pictures / folder).chmod(0o700)
    assert run(pictures, bundle, tmp_path / "out")["this_run"]["deleted"] == 0


@contextmanager
def when(happened: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Does something from another thread once something has happened."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not happened():
            time.sleep(0.002)
        if not over.is_set():
            act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def told(output: Path) -> dict:
    """What run.json says of the last run that was completed."""
    values = json.loads((output / "run.json").read_text())
    return {name: value for name, value in values.items() if name not in ("state", "progress", "error")}


def results(output: Path) -> list[Path]:
    return sorted(output.glob("results/*/*.parquet"))


def fill(place: Path, left: int) -> Path:
    """A file that leaves so many bytes of a small file system."""
    ballast = place / "ballast"
    found = os.statvfs(place)
    ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - left))
    return ballast


def whole(folder: Path) -> None:
    """All that has a final name can be read to its end."""
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


def test_an_output_that_becomes_full_ends_the_run_and_the_next_one_does_the_rest(
    ray_cluster, bundle, pictures, tmp_path, tmpfs
):
    output = tmpfs("size=64m") / "out"
    run(pictures, bundle, output, select={"limit": 20})
    before = told(output)
    shards_before = len(results(output))
    ballast = fill(output.parent, 250_000)
    with pytest.raises(ArchiveFull, match=r"^writing needs space; .*, and the same line does the rest: file://.*/out/"):
        run(pictures, bundle, output)
    assert told(output) == before
    assert shards_before < len(results(output)) < 24 + shards_before
    whole(output)
    assert not [path for path in output.rglob("*") if "partial" in path.name]
    ballast.unlink()
    again = run(pictures, bundle, output)
    assert again["this_run"]["shards_there"] >= 1
    assert rows(again).equals(rows(run(pictures, bundle, tmp_path / "clean")))


def test_an_output_that_becomes_read_only(ray_cluster, bundle, pictures, tmp_path, tmpfs):
    output = tmpfs("size=64m") / "out"
    with (
        when(lambda: len(results(output)) > 3, lambda: tmpfs("remount,ro")),
        pytest.raises(ArchiveDenied, match=r"writing needs permission: file://.*/out/.*: Read-only file system"),
    ):
        run(pictures, bundle, output, shards={"objects": 1, "workers": 2})
    assert told(output)["complete"] is None
    with pytest.raises(ArchiveDenied, match="no permission to write in"):  # before anything is done
        run(pictures, bundle, output)
    tmpfs("remount,rw")
    whole(output)
    assert run(pictures, bundle, output, shards={"objects": 1, "workers": 2})["this_run"]["shards_there"] >= 3


def test_an_output_that_may_only_be_read(ray_cluster, bundle, pictures, s3_prefix, s3_reader):
    with pytest.raises(ArchiveDenied, match=f"permission denied to these credentials.*: {s3_prefix}/out/"):
        run(pictures, bundle, f"{s3_prefix}/out")


def test_a_place_without_room_for_ray(tmpfs, tmp_path):
    place = tmpfs("size=64m")
    cluster.check_room(str(place / "ray"))
    fill(place, 2**20)
    with pytest.raises(ConfigError, match=r"ray.temp_dir: must have 16 MB of space, got 1.0 MB in .*/small/ray"):
        cluster.check_room(str(place / "ray"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"must be a folder that can be made, got .*/file/ray: Not a directory"):
        cluster.check_room(str(tmp_path / "file/ray"))
