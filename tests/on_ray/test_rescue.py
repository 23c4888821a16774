"""Objects that end whatever process looks at them cost themselves, and nothing else."""

import io
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import ArchiveDenied, Reason, RunError
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import ingest, score_shards
from mri_ray.on_ray.rescue import rescue
from mri_ray.on_ray.settings import ShardSettings
from mri_ray.on_ray.work import ONE_CPU, Recipe
from mri_ray.predict import snapshot

POISON = ("poison-a.png", "zz-poison.png")


@pytest.fixture
def poisoned(archive, tmp_path) -> Path:
    """The archive with two objects more, in different shards."""
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    some = sorted(path for path in folder.rglob("*") if path.is_file())[0].read_bytes()
    for name in POISON:
        (folder / name).write_bytes(some)
    return folder


def task(folder: Path, trained: dict, output: Path, kind: type) -> tuple[score_shards.Task, Manifest]:
    archive, root = Location.of(str(folder)), Location.of(str(output))
    manifest = Manifest(root / "manifest")
    manifest.update(archive.list(), shard_objects=40)
    place = Location.of(trained["bundle"])
    source = kind(
        archive=archive,
        manifest=manifest.pinned(),
        decode=DecodeConfig(),
        prepare=bundles.load(place).prepare,
        identifiers=Identifiers(),
        links=root / "links",
    )
    return score_shards.Task(source=source, bundle=place, results=root / "results", run_id="test"), manifest.pinned()


def deadly() -> type:
    """Made here, so that it travels to workers with its code: they do not import tests."""

    @dataclass(frozen=True, kw_only=True)
    class Deadly(ingest.FromArchive):
        """Ends its process at some objects, as a decoder does that writes where it must not."""

        def _rows(self, objects, *, crashed=False, members=None):
            if not crashed and any("poison" in key for key in objects["key"].to_pylist()):
                os._exit(7)
            return super()._rows(objects, crashed=crashed, members=members)

    return Deadly


@pytest.mark.slow
def test_one_among_a_thousand(ray_cluster, trained, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for i, picture in enumerate(np.random.default_rng(1).integers(0, 256, (1000, 40, 40), np.uint8)):
        cv2.imwrite(str(folder / ("poison.png" if i == 617 else f"{i:03d}.png")), picture)
    work, manifest = task(folder, trained, tmp_path / "out", deadly())
    done = score_shards.score_all(work, manifest, settings=ShardSettings(workers=2))
    assert (done["objects"], done["quarantined"], done["shards"]) == (1000, 1, 25)
    found = snapshot.build(manifest, work.results, work.results / "snapshots")
    assert found.counts == {"objects": 1000, "scored": 999, "quarantined": 1, "duplicate": 0, "skipped": 0}
    assert found.reasons == {Reason.CRASHED.value: 1}


@pytest.mark.slow
def test_poison_is_quarantined_and_all_else_is_scored(ray_cluster, poisoned, trained, tmp_path):
    work, manifest = task(poisoned, trained, tmp_path / "out", deadly())
    done = score_shards.score_all(work, manifest, settings=ShardSettings(workers=2))
    assert (done["objects"], done["quarantined"], done["shards"]) == (122, 2, 4)
    found = snapshot.build(manifest, work.results, work.results / "snapshots")
    assert found.counts == {"objects": 122, "scored": 120, "quarantined": 2, "duplicate": 0, "skipped": 0}
    assert found.reasons == {Reason.CRASHED.value: 2}
    filesystem, path = Location.of(found.uri).arrow()
    rows = pc.field("reason") == Reason.CRASHED.value
    bad = pq.read_table(path, filesystem=filesystem, filters=rows)
    assert sorted(uri.rpartition("/")[2] for uri in bad["uri"].to_pylist()) == sorted(POISON)
    linked = sum(work.source.links.read_table(name).num_rows for name in work.source.links.keys())  # noqa: SIM118
    assert linked >= 122

    # What was rescued is what an undisturbed run gives.
    for name in POISON:
        (poisoned / name).unlink()
    plain, manifest = task(poisoned, trained, tmp_path / "plain", ingest.FromArchive)
    score_shards.score_all(plain, manifest, settings=ShardSettings(workers=2))
    columns = ["row_id", "probability", "state", "reason"]
    whole = snapshot.build(manifest, plain.results, plain.results / "snapshots")
    one, other = (
        pq.read_table(location[1], filesystem=location[0], columns=columns).sort_by("row_id")
        for location in (Location.of(found.uri).arrow(), Location.of(whole.uri).arrow())
    )
    assert one.filter(pc.is_null(one["reason"])).equals(other)
    assert outputs.missing(manifest, plain.results) == []


def deadly_decoder() -> type:
    @dataclass(frozen=True, kw_only=True)
    class Deadly(ingest.FromArchive):
        """With a decoder that ends its process at some pictures, wherever they lie."""

        def _rows(self, objects, *, crashed=False, members=None):
            from mri_ray.decode import raster

            good = raster.decode

            def decode(kind, data, *more):
                if data.endswith(b"poison"):
                    os._exit(7)
                return good(kind, data, *more)

            raster.decode = decode
            try:
                yield from super()._rows(objects, crashed=crashed, members=members)
            finally:
                raster.decode = good

    return Deadly


@pytest.mark.slow
def test_members_of_a_pack_that_kill_cost_themselves_only(ray_cluster, trained, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    pictures = np.random.default_rng(1).integers(0, 256, (12, 40, 40), np.uint8)
    inner = io.BytesIO()
    with zipfile.ZipFile(folder / "b.zip", "w") as pack, zipfile.ZipFile(inner, "w") as within:
        for number, picture in enumerate(pictures):
            data = cv2.imencode(".png", picture)[1].tobytes() + (b"poison" if number in (3, 7) else b"")
            place = within if 5 < number < 9 else pack
            place.writestr(f"{number:02}.png", data)
        within.close()
        pack.writestr("within.zip", inner.getvalue())
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(folder / name), pictures[0] ^ ord(name[0]))
    settings = ShardSettings(workers=2)
    work, manifest = task(folder, trained, tmp_path / "out", deadly_decoder())
    done = score_shards.score_all(work, manifest, settings=settings)
    assert (done["objects"], done["quarantined"], done["shards"]) == (14, 2, 1)
    found = snapshot.build(manifest, work.results, work.results / "snapshots")
    rows = pq.read_table(Location.of(found.uri).arrow()[1]).sort_by("row_id").to_pylist()
    bad = {row["member"]: row["reason"] for row in rows if row["reason"]}
    assert bad == {"03.png": Reason.CRASHED.value, "within.zip!/07.png": Reason.CRASHED.value}

    # All else is what an undisturbed run gives.
    plain, manifest = task(folder, trained, tmp_path / "plain", ingest.FromArchive)
    score_shards.score_all(plain, manifest, settings=settings)
    whole = snapshot.build(manifest, plain.results, plain.results / "snapshots")
    undisturbed = pq.read_table(Location.of(whole.uri).arrow()[1]).sort_by("row_id").to_pylist()
    rest = [(row["row_id"], row["probability"]) for row in rows if not row["reason"]]
    assert rest == [(row["row_id"], row["probability"]) for row in undisturbed if row["member"] not in bad]


def test_what_a_worker_raises_ends_the_run_as_it_is(ray_cluster, archive, trained, tmp_path):
    class Denied(ingest.FromArchive):
        def _rows(self, objects, *, crashed=False, members=None):
            raise ArchiveDenied("no permission to write there: s3://bucket")

    work, manifest = task(archive, trained, tmp_path / "out", Denied)
    with pytest.raises(ArchiveDenied, match=r"^no permission to write there: s3://bucket$"):
        score_shards.score_all(work, manifest, settings=ShardSettings(workers=2))


def test_what_nobody_foresaw_ends_the_run_with_its_trace(ray_cluster, archive, trained, tmp_path):
    class Broken(ingest.FromArchive):
        def _rows(self, objects, *, crashed=False, members=None):
            raise ZeroDivisionError("a mistake of ours")

    work, manifest = task(archive, trained, tmp_path / "out", Broken)
    with pytest.raises(RuntimeError, match=r"(?s)a worker raised ZeroDivisionError\n.*in _rows"):
        score_shards.score_all(work, manifest, settings=ShardSettings(workers=2))


def blamed(faults: Path, shards: int, kind: type) -> list[dict]:
    """What is told of shards of two objects after a rescue by a `kind` of `Faulty` work."""
    some = [Shard(digest=f"{i:064x}", objects=2, bytes=0) for i in range(shards)]
    recipe = ray.put(Recipe(make=lambda: kind(faults)))
    return list(rescue(some, recipe, cost=ONE_CPU))


def faulty() -> type:
    class Faulty:
        """Rows say whether they were called crashed; `fault` may raise, and is told how often it was asked before."""

        def __init__(self, faults: Path) -> None:
            self.faults = faults

        def fault(self, start: int, stop: int, before: int) -> None:
            raise NotImplementedError

        def count(self, shard, place):
            return 1

        def part(self, shard, start, stop, *, crashed, members=None):
            if stop > start and not crashed:
                place = self.faults / f"{shard.digest[-4:]}-{start}-{stop}"
                place.mkdir(exist_ok=True)
                before = len(list(place.iterdir()))
                (place / f"{before}").touch()
                self.fault(start, stop, before)
            return pa.table({"crashed": [crashed] * (stop - start)})

        def gather(self, shard, parts):
            return {"parts": len(parts), "crashed": sum(pc.sum(part["crashed"].cast("int8")).as_py() for part in parts)}

    return Faulty


@pytest.mark.parametrize("loss", [ObjectLostError("00" * 28, None, ""), NodeDiedError("taken away")])
def test_lost_nodes_are_no_objects_fault(ray_cluster, tmp_path, loss) -> None:
    class Lost(faulty()):
        def fault(self, start, stop, before):
            if before < 4:
                raise loss

    assert blamed(tmp_path, 2, Lost) == [{"parts": 1, "crashed": 0}] * 2


def test_a_cluster_that_loses_every_node_ends_the_run(ray_cluster, tmp_path) -> None:
    class Lost(faulty()):
        def fault(self, start, stop, before):
            raise NodeDiedError("taken away")

    with pytest.raises(RunError, match=r"nodes are lost faster than work is done: .* begun 11 times"):
        blamed(tmp_path, 1, Lost)


def test_memory_taken_by_others_is_no_objects_fault(ray_cluster, tmp_path) -> None:
    class Crowded(faulty()):
        def fault(self, start, stop, before):
            if stop - start > 1 or before == 0:
                raise OutOfMemoryError("taken by others")

    assert blamed(tmp_path, 3, Crowded) == [{"parts": 2, "crashed": 0}] * 3


def test_an_object_that_takes_all_memory_even_alone_is_blamed(ray_cluster, tmp_path) -> None:
    class Greedy(faulty()):
        def fault(self, start, stop, before):
            if stop == 2:
                raise OutOfMemoryError("too large")

    assert blamed(tmp_path, 2, Greedy) == [{"parts": 2, "crashed": 1}] * 2
