"""Objects of a shard -> prepared rows: fetch, decode and prepare in one pass, the same for training and scoring."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mri_ray.archive.identity import digest, row_id
from mri_ray.archive.storage import Location
from mri_ray.decode.read import oversized, read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Failure, Flag, Slice, prepared_schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One slice ready for the model, or why there is none.

    pixels: uint8 (1, size, size), None for a failure. The other fields are columns of `records.prepared_schema`.
    """

    row_id: str
    object_id: str
    version_id: str
    uri: str
    member: str | None
    frame: int | None
    size: int
    etag: str
    reason: str | None
    detail: str | None
    flags: Sequence[str]
    pixel_digest: str | None
    width: int | None
    height: int | None
    pixels: np.ndarray | None


COLUMNS = tuple(name for name in Row.__slots__ if name != "pixels")


def rows(objects: pa.Table, archive: Location, decode: DecodeConfig, settings: PrepareConfig) -> Iterator[Row]:
    """Rows of all objects of a manifest shard (`records.MANIFEST`), in its order; every object gives at least one."""
    listed = [(entry, archive.uri_of(entry["key"])) for entry in objects.to_pylist()]
    refused = {uri: oversized(entry["size"], uri, decode) for entry, uri in listed}
    bodies = archive.read_many(entry["key"] for entry, uri in listed if refused[uri] is None)
    for entry, uri in listed:
        failure = refused[uri]
        for item in [failure] if failure else _decoded(next(bodies), entry["size"], uri, decode):
            yield _row(entry, uri, item, settings)


def _decoded(body: bytes | OSError, size: int, uri: str, decode: DecodeConfig) -> Iterator[Slice | Failure]:
    if isinstance(body, OSError):
        yield Failure(reason=_storage_reason(body), where=uri, detail=type(body).__name__)
    elif len(body) != size:
        detail = f"{size} bytes listed, {len(body)} read"
        yield Failure(reason=Reason.STORAGE_CHANGED, where=uri, detail=detail)
    else:
        yield from read(io.BytesIO(body), uri, decode)


def _storage_reason(error: OSError) -> Reason:
    if isinstance(error, FileNotFoundError):
        return Reason.STORAGE_MISSING
    if isinstance(error, PermissionError):
        return Reason.STORAGE_DENIED
    return Reason.STORAGE_FAULT


def _row(entry: dict[str, Any], uri: str, item: Slice | Failure, settings: PrepareConfig) -> Row:
    known = {name: entry[name] for name in ("object_id", "version_id", "size", "etag")}
    known |= {
        "uri": uri,
        "member": item.member,
        "frame": item.frame,
        "row_id": row_id(entry["object_id"], item.member, item.frame),
    }
    if isinstance(item, Failure):
        return Row(
            **known,
            reason=item.reason.value,
            detail=item.detail,
            flags=(),
            pixel_digest=None,
            width=None,
            height=None,
            pixels=None,
        )
    prepared = prepare(item, settings)
    height, width = item.pixels.shape
    return Row(
        **known,
        reason=None,
        detail=None,
        flags=sorted(flag.value for flag in prepared.flags),
        pixel_digest=pixel_digest(item),
        width=width,
        height=height,
        pixels=prepared.pixels,
    )


def pixel_digest(item: Slice) -> str:
    """Names the decoded picture (shape, values, and whether they are windowed), however it was encoded."""
    height, width = item.pixels.shape
    return digest(f"{height}x{width}", "deep" if item.bits > 8 else "8", np.ascontiguousarray(item.pixels).tobytes())


def joinable(flags: pa.ChunkedArray) -> np.ndarray:
    """Whether rows may be matched by their pixels, bool (N,): blank pictures are alike without being copies."""
    return np.array([Flag.BLANK.value not in (row or ()) for row in flags.to_pylist()], dtype=bool)


def to_table(items: Iterable[Row], size: int) -> pa.Table:
    """Rows -> a table of `records.prepared_schema(size)`."""
    gathered = list(items)
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in gathered] for name in COLUMNS}
    columns["pixels"] = [None if row.pixels is None else row.pixels.tobytes() for row in gathered]
    return pa.table(columns, schema=prepared_schema(size))


def from_table(table: pa.Table, size: int) -> Iterator[Row]:
    """The inverse of `to_table`, batch by batch."""
    for batch in table.to_batches(max_chunksize=256):
        for entry in batch.to_pylist():
            raw = entry.pop("pixels")
            pixels = None if raw is None else np.frombuffer(raw, np.uint8).reshape(1, size, size)
            yield Row(**entry, pixels=pixels)
