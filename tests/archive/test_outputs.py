"""Which try of an object stands."""

import pyarrow as pa
import pytest

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason

LOST, DAMAGED = Reason.STORAGE_FAULT.value, Reason.DAMAGED.value


@pytest.fixture
def tried(tmp_path):
    """Of a manifest of one object: a function that adds a try with these reasons, and tells which rows stand."""
    root = Location.of(str(tmp_path))
    (root / "archive").write("a.zip", b"content")
    manifest, results = Manifest(root / "manifest"), root / "results"
    manifest.update((root / "archive").list())

    def attempt(*reasons: str | None) -> list[str | None]:
        (shard,) = outputs.missing(manifest, results)
        version = manifest.read_shard(shard)["version_id"][0].as_py()
        rows = {"version_id": [version] * len(reasons), "reason": pa.array(reasons, pa.string())}
        results.write_table(outputs.name(shard), pa.table(rows))
        manifest.add_retry(outputs.to_retry(manifest, results))
        finished = [shard for shard in manifest.shards() if results.exists(outputs.name(shard))]
        return outputs.live(manifest, results, ["version_id", "reason"], finished)["reason"].to_pylist()

    return attempt


def test_a_later_try_stands(tried):
    assert tried(LOST) == [LOST]
    assert tried(None, None, DAMAGED) == [None, None, DAMAGED]


def test_a_try_that_goes_worse_takes_nothing_away(tried):
    assert tried(None, None, LOST) == [None, None, LOST]
    assert tried(LOST) == [None, None, LOST]
    assert tried(None, LOST) == [None, None, LOST]
    assert tried(None, None, None, DAMAGED) == [None, None, None, DAMAGED]


def test_of_equal_tries_the_newest_stands(tried):
    assert tried(None, LOST) == [None, LOST]
    assert tried(DAMAGED, LOST) == [DAMAGED, LOST]
