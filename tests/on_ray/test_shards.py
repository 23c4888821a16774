"""How work is spread: the same table whoever decodes, and another try for what died of something else."""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.exceptions import ObjectLostError

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import ingest, score_shards
from mri_ray.on_ray.settings import ShardSettings


@dataclass(frozen=True, kw_only=True)
class DeadOnce(ingest.FromArchive):
    """Ends the first process that looks at a shard, as a node does that is taken away."""

    marks: str

    def _rows(self, objects, *, crashed=False, members=None):
        mark = Path(self.marks) / objects["object_id"][0].as_py()
        if not mark.exists():
            mark.touch()
            os._exit(9)
        return super()._rows(objects, crashed=crashed, members=members)


@dataclass(frozen=True, kw_only=True)
class LostOnce(DeadOnce):
    """Says of each shard once what Ray says when a node has left with rows that were decoded there."""

    def _rows(self, objects, *, crashed=False, members=None):
        mark = Path(self.marks) / objects["object_id"][0].as_py()
        if not mark.exists():
            mark.touch()
            raise ObjectLostError("00" * 28, None, "")
        return super()._rows(objects, crashed=crashed, members=members)


def scored(archive: Path, trained: dict, output: Path, settings: ShardSettings, kind=ingest.FromArchive, **more):
    place, root = Location.of(trained["bundle"]), Location.of(str(output))
    manifest = Manifest(root / "manifest")
    manifest.update(Location.of(str(archive)).list(), shard_objects=40)
    source = kind(
        archive=Location.of(str(archive)),
        manifest=manifest.pinned(),
        decode=DecodeConfig(),
        prepare=bundles.load(place).prepare,
        identifiers=Identifiers(),
        links=None,
        **more,
    )
    task = score_shards.Task(source=source, bundle=place, results=root / "results", run_id="test")
    done = score_shards.score_all(task, manifest.pinned(), settings=settings)
    assert outputs.missing(manifest, task.results) == []
    return done, pq.read_table(output / "results").sort_by("row_id")


def test_a_worker_that_does_not_decode_gives_the_same_table(ray_cluster, archive, trained, tmp_path):
    done, table = scored(archive, trained, tmp_path / "one", ShardSettings(workers=2))
    apart, other = scored(archive, trained, tmp_path / "two", ShardSettings(decode_apart=True))
    assert done["objects"] == apart["objects"] == 120
    assert other.equals(table)


@pytest.mark.parametrize("kind", [DeadOnce, LostOnce])
def test_what_died_of_something_else_is_done_again(ray_cluster, archive, trained, tmp_path, kind):
    _, table = scored(archive, trained, tmp_path / "one", ShardSettings(workers=2))
    for name, settings in {"two": ShardSettings(), "three": ShardSettings(decode_apart=True)}.items():
        marks = tmp_path / f"marks-{name}"
        marks.mkdir()
        done, again = scored(archive, trained, tmp_path / name, settings, kind, marks=str(marks))
        assert len(list(marks.iterdir())) >= 3  # shards
        assert done["objects"] == 120
        assert done["quarantined"] == 0
        assert again.equals(table)
