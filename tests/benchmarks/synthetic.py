"""An archive of any size that is only told of: its listing, and results as the scoring would have written them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive import outputs
from mri_ray.archive.identity import row_id
from mri_ray.archive.listing import PAGE
from mri_ray.archive.manifest import Manifest, Shard
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason
from mri_ray.records import LISTING, RESULTS, Flag, State

_SLICES = 20  # a study
_STUDIES = 2  # a patient


@dataclass(frozen=True, kw_only=True)
class Archive:
    """objects: how many keys there were on the first day. Every day since then, one in a thousand of them has changed,
    one in a thousand is gone, and as many have come.
    """

    objects: int
    day: int = 0

    def pages(self) -> Iterator[pa.RecordBatch]:
        """The listing (`records.LISTING`), a thousand keys at a time."""
        total = self.objects + self.day * (self.objects // 1000)
        for start in range(0, total, PAGE):
            number = np.arange(start, min(start + PAGE, total))
            gone = (number < self.objects) & (number % 1000 > 0) & (number % 1000 <= self.day)
            number = number[~gone]
            changed = (number % 1000 > 500) & (number % 1000 <= 500 + self.day)
            size = 20_000 + number * 7919 % 4096
            etag = pc.binary_join_element_wise(_digits(number, 16), _digits(changed.astype(int), 1), "-")
            yield pa.RecordBatch.from_arrays([_keys(number), pa.array(size), etag], schema=LISTING)


def write_results(manifest: Manifest, results: Location, archive: str) -> int:
    """Tables for all shards that have none; returns how many."""
    todo = outputs.missing(manifest, results)
    with ThreadPoolExecutor(8) as pool:
        for done in pool.map(lambda shard: _write(manifest, results, archive, shard), todo):
            assert done
    return len(todo)


def _write(manifest: Manifest, results: Location, archive: str, shard: Shard) -> bool:
    return results.write_table(outputs.name(shard), _scored(manifest.read_shard(shard), archive), if_absent=True)


def _scored(objects: pa.Table, archive: str) -> pa.Table:
    """One row an object: one in 50 blank, one in 100 a copy, one in 500 damaged, one in 10,000 lost to the storage."""
    count = objects.num_rows
    number = pc.utf8_slice_codeunits(objects["key"], -12, -4).cast(pa.int64()).to_numpy()
    damaged, lost = number % 500 == 250, number % 10_000 == 5000
    failed = damaged | lost
    reason = np.where(lost, Reason.STORAGE_FAULT.value, Reason.DAMAGED.value)
    picture = np.where(number % 100 == 50, number - 1, number)
    study, patient = number // _SLICES, number // (_SLICES * _STUDIES)
    logit = np.where(failed, np.nan, np.sin(number * 12.9898) * 6).astype(np.float32)
    probability = 1 / (1 + np.exp(-logit))
    held = (number % 50 == 7) & ~failed
    flags = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(held)]), pa.int32()), pa.array([Flag.BLANK.value] * int(held.sum()))
    )
    columns = {
        **{name: objects[name] for name in ("object_id", "version_id", "size", "etag")},
        "row_id": [row_id(name, 0) for name in objects["object_id"].to_pylist()],
        "uri": pc.binary_join_element_wise(archive, objects["key"], "/"),
        "frame": np.zeros(count, np.int32),
        "reason": pa.array(reason, mask=~failed),
        "detail": pa.array(np.full(count, "a made-up fault"), mask=~failed),
        "flags": flags,
        "pixel_digest": _unless(failed, _names(picture, 1)),
        "width": pa.array(np.full(count, 256), pa.int32(), mask=failed),
        "height": pa.array(np.full(count, 256), pa.int32(), mask=failed),
        "patient_key": _names(patient, 2),
        "study_key": _names(study, 3),
        "series_key": _names(study, 4),
        "instance_key": _names(number, 5),
        "instance_number": (number % _SLICES).astype(np.int32),
        "position_mm": 5.0 * (number % _SLICES),
        "normal": pa.array([[0.0, 0.0, 1.0]] * count, pa.list_(pa.float32())),
        "spacing_mm": pa.array([[0.5, 0.5]] * count, pa.list_(pa.float32())),
        "modality": ["MR"] * count,
        "state": np.where(failed, State.QUARANTINED.value, State.SCORED.value),
        "logit": pa.array(logit, from_pandas=True),
        "probability": pa.array(probability, from_pandas=True),
        "decision": pa.array(np.where(probability >= 0.5, "positive", "negative"), mask=failed),
        **dict.fromkeys(("bundle_digest", "prepare_digest", "run_id"), ["0" * 32] * count),
    }
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count) for field in RESULTS]
    return pa.Table.from_arrays(
        [pa.chunked_array(_cast(a, f.type)) for a, f in zip(arrays, RESULTS, strict=True)], schema=RESULTS
    )


def _cast(values: object, kind: pa.DataType) -> list[pa.Array]:
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    column = column.cast(kind)
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _keys(number: np.ndarray) -> pa.Array:
    """Ascending as the numbers are: 61 characters, as hospitals' paths are long."""
    patient, study = number // (_SLICES * _STUDIES), number // _SLICES
    parts = [
        "patient-",
        _digits(patient, 8),
        "/study-",
        _digits(study, 8),
        "/series-001/slice-",
        _digits(number, 8),
        ".dcm",
    ]
    return pc.binary_join_element_wise(*parts, "")


def _digits(number: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(number).cast(pa.string()), width, "0")


def _names(number: np.ndarray, kind: int) -> pa.Array:
    """32 hex digits for each number that do not compress, as digests do not."""
    words = np.stack([number, number + 2**40], axis=1).astype(np.uint64) + np.uint64(kind * 2**48)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    text = (words ^ (words >> np.uint64(31))).tobytes().hex()
    return pa.array([text[at : at + 32] for at in range(0, len(text), 32)], pa.string())


def _unless(mask: np.ndarray, values: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(mask), None, values)
