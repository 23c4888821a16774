"""Several archives are listed and read as one, and every key leads back to its own."""

import pyarrow as pa
import pytest

from mri_ray.archive.manifest import Manifest
from mri_ray.archive.several import Archives, archive_of, keys_of, source_of, titles, within_source
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveNotFound


@pytest.fixture
def two(tmp_path) -> Archives:
    for name, keys in {"one": ["b.png", "a/x.png"], "two": ["a/x.png", "z.png"]}.items():
        for key in keys:
            Location.of(str(tmp_path / name)).write(key, f"{name} {key}".encode())
    found = archive_of([str(tmp_path / "one"), str(tmp_path / "two")])
    assert isinstance(found, Archives)
    return found


def keys(archive: Archives) -> list[str]:
    return [key for batch in archive.list() for key in batch["key"].to_pylist()]


def test_each_archive_is_a_folder(two):
    assert keys(two) == ["0/a/x.png", "0/b.png", "1/a/x.png", "1/z.png"]
    assert [data.decode() for data in two.read_many(keys(two))] == [
        "one a/x.png",
        "one b.png",
        "two a/x.png",
        "two z.png",
    ]
    with two.open("1/a/x.png") as source:
        assert source.read() == b"two a/x.png"
    (error,) = two.read_many(["1/gone.png"])
    assert isinstance(error, FileNotFoundError)


def test_uris_lead_back_to_keys_and_sources(two):
    listed = pa.chunked_array([keys(two)])
    uris = pa.chunked_array([[two.uri_of(key) for key in keys(two)]])
    assert uris[0].as_py() == two.parts[0].uri_of("a/x.png")
    assert keys_of(two, uris).to_pylist() == listed.to_pylist()
    assert source_of(two, listed).to_pylist() == [0, 0, 1, 1]
    assert within_source(two, listed).to_pylist() == ["a/x.png", "b.png", "a/x.png", "z.png"]


def test_sources_are_called_by_their_folders_and_numbered_where_those_are_alike(two, tmp_path):
    assert titles(two, ["0", "1"]) == ["one", "two"]
    alike = Archives((Location.of(str(tmp_path / "one")), None, Location.of("s3://bucket/one"), two.parts[1]))
    assert titles(alike, ["0", "2", "3"]) == ["one (1)", "one (3)", "two"]
    assert titles(two.parts[0], ["a", ""]) == ["a", ""]


def test_one_archive_is_itself(tmp_path):
    alone = archive_of([str(tmp_path)])
    assert alone == archive_of(str(tmp_path)) == Location.of(str(tmp_path))
    uris = pa.chunked_array([[alone.uri_of("12/x.png")]])
    assert keys_of(alone, uris).to_pylist() == ["12/x.png"]
    assert source_of(alone, keys_of(alone, uris)).to_pylist() == [0]
    assert within_source(alone, keys_of(alone, uris)).to_pylist() == ["12/x.png"]


def test_more_than_ten_are_listed_in_the_order_of_their_keys(tmp_path):
    for number in range(12):
        Location.of(str(tmp_path / f"{number}")).write("x", b"1")
    found = keys(archive_of([str(tmp_path / f"{number}") for number in range(12)]))
    assert found == sorted(found)
    assert found[0] == "00/x"
    assert len(found) == 12


def test_a_part_that_is_not_there_is_refused_and_a_missing_one_is_empty(two, tmp_path):
    with pytest.raises(ArchiveNotFound, match="three"):
        archive_of([str(tmp_path / "one"), str(tmp_path / "three")]).check()
    some = archive_of([None, str(tmp_path / "two")])
    some.check()
    assert keys(some) == ["1/a/x.png", "1/z.png"]


def test_a_manifest_of_several_knows_what_is_new(two, tmp_path):
    manifest = Manifest(Location.of(str(tmp_path / "manifest")))
    assert manifest.update(two.list(), shard_objects=3).new == 4
    two.parts[1].write("new.png", b"new")
    assert manifest.update(two.list(), shard_objects=3).new == 1
