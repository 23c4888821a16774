"""Archives of which only a part may be read, as their users meet them: all else is scored, and it comes when it may."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mri_ray.archive.storage import Location

pytestmark = pytest.mark.slow


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def states(output: Path) -> dict[str, tuple[str, str | None]]:
    table = pq.read_table(record(output)["results"].removeprefix("file://"), columns=["uri", "state", "reason"])
    return {row["uri"]: (row["state"], row["reason"]) for row in table.to_pylist()}


@pytest.fixture
def some(phantoms: Path) -> list[Path]:
    return sorted(path for path in phantoms.rglob("*") if path.is_file())[:60]


def test_credentials_that_may_read_some_prefixes(jobs, some, bundle, s3_prefix, tmp_path):
    archive = Location.of(s3_prefix)
    keys = [f"{'closed' if number % 3 else 'open'}/{path.name}" for number, path in enumerate(some)]
    for key, path in zip(keys, some, strict=True):
        archive.write(key, path.read_bytes())
    given = [f"archive={s3_prefix}", f"bundle={bundle}", f"output={tmp_path}", "shards.objects=10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "reader")
        code, printed = jobs.run("score", *given)
    assert code == 3
    last = printed.strip().splitlines()[-1]
    assert "max_quarantined_fraction: at most 0.1" in last
    assert "got 0.6667: 40 of 60; storage.denied: 40" in last
    assert states(tmp_path) == {
        archive.uri_of(key): ("scored", None) if key.startswith("open/") else ("quarantined", "storage.denied")
        for key in keys
    }
    code, printed = jobs.run("score", *given)
    assert code == 0, printed
    assert record(tmp_path)["this_run"]["objects"] == 40
    assert record(tmp_path)["counts"] == {"objects": 60, "scored": 60, "quarantined": 0, "duplicate": 0, "skipped": 0}


def test_an_output_on_s3_that_is_full(jobs, some, bundle, proxy, s3_prefix):
    """Such a server refuses what is to be stored, wherever the run has got to."""
    root = Location.of(s3_prefix)
    for path in some:
        root.write(f"archive/{path.name}", path.read_bytes())
    given = [f"archive={root}/archive", f"bundle={bundle}", f"output={root}/out", "shards.objects=5"]
    full = proxy(seed=1, full=0.5, only="^(PUT|POST) .*/out/results/")
    code, printed = jobs.run("score", *given, f"storage.endpoint={full.endpoint}")
    assert code == 2, printed
    last = printed.strip().splitlines()[-1]
    assert "the server has no space left; make some there, and the same line does the rest: s3://" in last
    told = json.loads(root.read("out/run.json"))
    assert (told["state"], told["error"]["kind"], told["complete"]) == ("failed", "ArchiveFull", None)
    tables = [key for key in root.keys("out/results/") if key.endswith(".parquet")]
    assert len(tables) < 12  # which of them are refused is chance
    there = sum(len({row["uri"] for row in root.read_table(key, ["uri"]).to_pylist()}) for key in tables)
    assert there == 5 * len(tables)  # whole, or not there

    code, printed = jobs.run("score", *given)
    assert code == 0, printed
    told = json.loads(root.read("out/run.json"))
    assert told["this_run"]["objects"] == 60 - there
    assert told["counts"] == {"objects": 60, "scored": 60, "quarantined": 0, "duplicate": 0, "skipped": 0}


def test_files_of_which_none_may_be_read(jobs, some, bundle, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in some:
        (archive / path.name).write_bytes(path.read_bytes())
        (archive / path.name).chmod(0)
    given = [f"archive={archive}", f"bundle={bundle}", f"output={tmp_path}/out", "shards.objects=10"]
    code, printed = jobs.run("score", *given, bound=True)
    assert code == 3, printed
    assert "got 1: 60 of 60; storage.denied: 60" in printed.strip().splitlines()[-1]
    assert record(tmp_path / "out")["counts"]["quarantined"] == 60
    assert (tmp_path / "out/report.html").exists()
    for path in archive.iterdir():
        path.chmod(0o600)
    code, printed = jobs.run("score", *given, bound=True)
    assert code == 0, printed
    assert record(tmp_path / "out")["counts"]["scored"] == 60
