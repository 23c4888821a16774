"""What came, changed and went between two listings, held against the archives themselves."""

import uuid

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri_ray.archive import changes, listing
from mri_ray.archive.changes import Changes
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.storage import Location

archives = st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)), min_size=1, max_size=5)


def update(manifest: Manifest, archive: dict[str, int]) -> None:
    pages = [listing.batch((key, size, f"etag-{size}") for key, size in sorted(archive.items()))]
    manifest.update(pages, shard_objects=2, shard_bytes=100)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(archives)
def test_between_any_two_listings(tmp_path, steps):
    manifest = Manifest(Location.of(str(tmp_path / uuid.uuid4().hex)))
    seen: list[tuple[int, dict[str, int]]] = [(0, {})]
    for archive in steps:
        update(manifest, archive)
        if archive:
            ids = pa.array(manifest.read_shard(manifest.shards()[-1])["version_id"].to_pylist(), pa.string())
            manifest.add_retry(ids, shard_objects=2, shard_bytes=100)  # those are neither new nor changed
        seen.append((manifest.number, archive))
    for number, before in seen:
        assert changes.between(manifest.at(number), manifest) == Changes(
            new=len(archive.keys() - before.keys()),
            changed=sum(before[key] != archive[key] for key in before.keys() & archive.keys()),
            deleted=len(before.keys() - archive.keys()),
        )
