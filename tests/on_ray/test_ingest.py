"""Shards prepared at once, or in pieces after a rescue: the same rows where training looks for them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.pseudonym import SITE_KEY, Identifiers
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn.plan import CHUNK_ROWS
from mri_ray.on_ray.ingest import FromArchive, PrepareShard
from mri_ray.prepare.settings import PrepareConfig

OBJECTS = 2 * CHUNK_ROWS + 30


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A function that makes a PrepareShard of 158 pictures, with a place of its own for what it writes."""
    monkeypatch.setenv(SITE_KEY, "a key of this site, long enough")
    root = Location.of(str(tmp_path))
    for number in range(OBJECTS):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20), np.uint8)).save(out, "PNG")
        (root / "archive").write(f"{number:03d}.png", out.getvalue())
    identifiers = Identifiers(uris="pseudonym")
    manifest = Manifest(root / "manifest", secret=identifiers.id_key())
    manifest.update((root / "archive").list())

    def make(name: str) -> PrepareShard:
        source = FromArchive(
            archive=root / "archive",
            manifest=manifest.pinned(),
            decode=DecodeConfig(),
            prepare=PrepareConfig(size=32),
            identifiers=identifiers,
            links=root / f"links-{name}",
        )
        return PrepareShard(source=source, prepared=root / name)

    return make


def test_pieces_make_the_same_shard(prepare):
    whole, pieces = prepare("whole"), prepare("pieces")
    (shard,) = whole.source.manifest.shards()
    facts = whole(shard)
    assert pieces.part(shard, 0, 0, crashed=False).num_rows == 0  # what tells whether a worker starts
    bounds = [(0, 100), (100, 101), (101, OBJECTS)]
    parts = [pieces.part(shard, start, stop, crashed=False) for start, stop in bounds]
    size = pc.sum(whole.source.manifest.read_shard(shard)["size"]).as_py()
    assert set(facts.pop("stages_s")) == {"fetch", "decode", "write"}
    assert facts == {"listed": OBJECTS, "bytes": size, "objects": OBJECTS, "scored": OBJECTS}
    assert pieces.gather(shard, parts).items() >= facts.items()

    tables = [work.prepared.read_table(outputs.name(shard)) for work in (whole, pieces)]
    assert tables[0].equals(tables[1])
    for work in (whole, pieces):
        path = f"{work.prepared.uri.removeprefix('file://')}/{outputs.name(shard)}"
        found = pq.ParquetFile(path).metadata
        assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [CHUNK_ROWS, CHUNK_ROWS, 30]

    paths = []
    for work in (whole, pieces):
        links = [work.source.links.read_table(name) for name in work.source.links.keys()]  # noqa: SIM118
        paths.append({row["object_id"]: row["path"] for table in links for row in table.to_pylist()})
    assert paths[0] == paths[1]
    assert sorted(paths[0].values()) == [f"{number:03d}.png" for number in range(OBJECTS)]


def test_what_a_first_try_has_linked_does_not_stand_in_the_way(prepare):
    work = prepare("again")
    (shard,) = work.source.manifest.shards()
    first = pa.table({"object_id": ["x"], "path": ["what an earlier try has read"]})
    work.source.links.write_table(outputs.name(shard), first)
    work(shard)
    assert work.source.links.read_table(outputs.name(shard)).num_rows == OBJECTS


def test_an_object_said_to_crash_is_not_looked_at(prepare, monkeypatch):
    work = prepare("crashed")
    (shard,) = work.source.manifest.shards()
    monkeypatch.setattr("mri_ray.prepare.objects.read", lambda *_: pytest.fail("it was read"))
    table = work.part(shard, 3, 4, crashed=True)
    assert table["reason"].to_pylist() == ["crashed.decoder"]
    assert table["pixels"].to_pylist() == [None]
