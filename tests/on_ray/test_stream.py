"""What an epoch holds does not depend on who reads it, nor on where a run was taken up again."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mri_ray.archive.storage import Location
from mri_ray.learn.plan import CHUNK_ROWS, Rows
from mri_ray.on_ray.stream import Prepared, Stream
from mri_ray.prepare.augment import AugmentConfig
from mri_ray.prepare.masks import SCHEMA, packed
from mri_ray.prepare.objects import Row, to_batches

SIZE = 8
ROWS = 150


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    """Two files of prepared rows whose pixels tell their number; every tenth row is a failure."""
    location = Location.of(str(tmp_path))
    for part in range(2):
        table = pa.Table.from_batches(to_batches((make_row(part * ROWS + i) for i in range(ROWS)), SIZE))
        location.write_table(f"{part}.parquet", table, row_group_size=CHUNK_ROWS)
    return Prepared(location=location, names=("0.parquet", "1.parquet"), size=SIZE)


def make_row(number: int) -> Row:
    failed = number % 10 == 0
    known = {"row_id": str(number), "object_id": str(number), "version_id": str(number), "uri": f"file:///{number}"}
    known |= {"member": None, "frame": 0, "size": 1, "etag": "", "detail": None, "width": SIZE, "height": SIZE}
    pixels = None if failed else np.full((1, SIZE, SIZE), number % 256, np.uint8)
    reason = "damaged.image" if failed else None
    known |= {"flags": (), "reason": reason, "pixel_digest": None if failed else str(number)}
    return Row(columns=known, pixels=pixels, path=str(number))


def usable() -> Rows:
    number = np.array([i for i in range(2 * ROWS) if i % 10])
    return Rows(
        part=(number // ROWS).astype(np.int32),
        place=(number % ROWS).astype(np.int32),
        label=(number % 2).astype(np.int8),
        row_id=number.astype(str),
    )


def test_masks_come_with_their_rows_and_copies_of_a_row_are_changed_in_other_ways(ray_cluster, prepared, tmp_path):
    masks = Location.of(str(tmp_path / "masks"))
    half = np.zeros((SIZE, SIZE), bool)
    half[:, : SIZE // 2] = True
    for part in range(2):
        count = [part * ROWS + i for i in range(ROWS)]
        known = [packed(half) if number % 4 == 1 else None for number in count]
        columns = [[str(number) for number in count], known, [32 if one else None for one in known], [None] * ROWS]
        masks.write_table(f"{part}.parquet", pa.table(columns, schema=SCHEMA), row_group_size=CHUNK_ROWS)
    number = usable().row_id.astype(int)
    rows = replace(usable(), label=(number % 6 == 1).astype(np.int8), known=number % 4 < 2)
    stream = Stream(
        prepared=replace(prepared, masks=masks),
        rows=rows,
        rank=0,
        workers=1,
        window=96,
        seed=1,
        batch=32,
        augment=AugmentConfig(flip=0.0, rotation_deg=0.0, zoom=0.0, brightness=0.5, shift=0.25),
        balanced=True,
    )
    seen: dict[int, list[bytes]] = {}
    for batch in stream.batches(32):
        for pixels, label, row, mask, known in zip(
            *(batch[name] for name in ("pixels", "label", "row", "mask", "known")), strict=True
        ):
            assert known == (number[row] % 4 < 2)
            assert label == (number[row] % 6 == 1)
            assert mask.any() == (label == 1 and number[row] % 4 == 1)
            seen.setdefault(int(row), []).append(pixels.tobytes())
    assert max(len(copies) for copies in seen.values()) >= 2
    assert all(len(set(copies)) == len(copies) for row, copies in seen.items() if number[row] % 256 > 50)


def gather(prepared: Prepared, *, workers: int, first: int = 0, last: int = 2, size: int = 32, **settings) -> list:
    """By epoch: {row id: (label, pixels)} over all workers."""
    rows = usable()
    epochs: list[dict] = [{} for _ in range(first, last)]
    for rank in range(workers):
        stream = Stream(
            prepared=prepared, rows=rows, rank=rank, workers=workers, first=first, last=last, window=96, **settings
        )
        per_epoch = len(stream.order(first)[0])
        seen = 0
        for batch in stream.batches(size // workers):
            for pixels, label, row in zip(batch["pixels"], batch["label"], batch["row"], strict=True):
                epochs[seen // per_epoch][rows.row_id[row]] = (int(label), pixels.tobytes())
                seen += 1
        assert seen == per_epoch * (last - first)
    return epochs


def test_pixels_come_in_the_order_asked_for(prepared):
    rows = usable()
    order = np.random.default_rng(0).permutation(len(rows))[:70]
    pixels = prepared.pixels(rows.take(order))
    assert pixels.shape == (70, 1, SIZE, SIZE)
    assert np.array_equal(pixels[:, 0, 0, 0], rows.row_id[order].astype(int) % 256)


def test_evaluation_sees_every_row_once(ray_cluster, prepared):
    for workers in (1, 2):
        (epoch,) = gather(prepared, workers=workers, last=1)
        assert set(epoch) == set(usable().row_id)
        assert all(label == int(row) % 2 and pixels[0] == int(row) % 256 for row, (label, pixels) in epoch.items())


def test_an_epoch_is_the_same_for_any_number_of_workers_and_after_a_restart(ray_cluster, prepared):
    settings = {"batch": 32, "seed": 4, "augment": AugmentConfig()}
    alone = gather(prepared, workers=1, **settings)
    assert alone[0] != alone[1]
    assert all(len(epoch) == 256 for epoch in alone)
    assert gather(prepared, workers=2, **settings) == alone
    assert gather(prepared, workers=1, first=1, **settings) == alone[1:]
