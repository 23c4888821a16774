"""Objects of a shard -> prepared rows: fetch, decode and prepare in one pass, the same for training and scoring."""

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.identity import member_id, row_id
from mri_ray.archive.pseudonym import Identifiers, identifying, names_patient
from mri_ray.archive.several import Archive
from mri_ray.decode.read import Window, lost, read
from mri_ray.decode.read import crashed as crashed_failure
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.prepare.effort import FETCH, Effort
from mri_ray.prepare.evidence import evidence_of
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Failure, Flag, Slice, State, prepared_schema

_STREAMED_BYTES = 32 * 2**20  # larger objects are read in ranges, as far as their format allows
BATCH_ROWS = 256
_PROBED_ITEMS = 32  # packs begin with readmes and directories

Place = tuple[str | None, int | None]  # of a slice in an object: member and frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One slice ready for the model, or why there is none.

    columns: those of `records.prepared_schema` without pixels. pixels: uint8 (1, size, size), None for a failure.
    path: the object's, below the archive's root; not among the columns where paths are not kept.
    """

    columns: dict[str, Any]
    pixels: np.ndarray | None
    path: str


def rows(
    objects: pa.Table,
    archive: Archive,
    decode: DecodeConfig,
    settings: PrepareConfig,
    identifiers: Identifiers,
    effort: Effort | None = None,
    *,
    evidence: bool = False,
    window: Window | None = None,
) -> Iterator[Row]:
    """Rows of all objects of a manifest shard (`records.MANIFEST`), in its order; every object gives at least one.

    Members of a pack are objects of their own. Raises IdentifierError where identifiers are met and have no key.
    effort: is told how long objects were waited for, but for large ones, which are read while they are decoded.
    evidence: with the columns that only prepared rows have. window: for a single object, which of its members.
    """
    entries = objects.to_pylist()
    small = archive.read_listed((entry["key"], entry["etag"]) for entry in entries if entry["size"] <= _STREAMED_BYTES)
    bodies = (effort or Effort()).drawing(FETCH, small)
    for entry in entries:
        if entry["size"] <= _STREAMED_BYTES:
            items = _decoded(next(bodies), entry["size"], archive.uri_of(entry["key"]), decode, window)
        else:
            items = _streamed(entry, archive, decode, window)
        for item in items:
            yield _row(entry, archive, item, settings, identifiers, evidence=evidence)


def crashed(objects: pa.Table, archive: Archive, settings: PrepareConfig, identifiers: Identifiers) -> Iterator[Row]:
    """Rows of objects that are not looked at, since doing so ends the process."""
    for entry in objects.to_pylist():
        yield _row(entry, archive, crashed_failure(archive.uri_of(entry["key"])), settings, identifiers)


def members(objects: pa.Table, archive: Archive, decode: DecodeConfig) -> int:
    """How many members the single object of a table has (`decode.read.Window`), 1 of one that cannot be read.

    None is decoded.
    """
    (entry,) = objects.to_pylist()
    window = Window(start=0, stop=0)
    try:
        with archive.open(entry["key"], entry["etag"]) as source:
            for _ in read(source, archive.uri_of(entry["key"]), decode, window=window):
                pass
    except OSError:
        return 1
    return max(window.seen, 1)


def _decoded(
    body: bytes | OSError, size: int, uri: str, decode: DecodeConfig, window: Window | None
) -> Iterator[Slice | Failure]:
    if isinstance(body, OSError):
        yield lost(body, uri)
    elif len(body) != size:
        yield _changed(size, len(body), uri)
    else:
        yield from read(io.BytesIO(body), uri, decode, window=window)


def _streamed(
    entry: dict[str, Any], archive: Archive, decode: DecodeConfig, window: Window | None
) -> Iterator[Slice | Failure]:
    uri = archive.uri_of(entry["key"])
    try:
        with archive.open(entry["key"], entry["etag"]) as source:
            size = source.seek(0, io.SEEK_END)
            if size == entry["size"]:
                yield from read(source, uri, decode, window=window)
            else:
                yield _changed(entry["size"], size, uri)
    except OSError as exc:
        yield lost(exc, uri)


def _changed(listed: int, read: int, uri: str) -> Failure:
    return Failure(reason=Reason.STORAGE_CHANGED, where=uri, detail=f"{listed} bytes listed, {read} read")


def _row(
    entry: dict[str, Any],
    archive: Archive,
    item: Slice | Failure,
    settings: PrepareConfig,
    identifiers: Identifiers,
    *,
    evidence: bool = False,
) -> Row:
    path = entry["key"] if item.member is None else f"{entry['key']}!/{item.member}"
    columns = {name: entry[name] for name in ("object_id", "version_id", "size", "etag")}
    if item.member is not None:
        columns["object_id"] = member_id(entry["key"], item.member, identifiers.id_key())
    columns |= {"row_id": row_id(columns["object_id"], item.frame), "frame": item.frame, "member": item.member}
    columns["uri"] = archive.uri_of(path)
    if identifiers.uris == "pseudonym":
        columns["uri"] = f"object:{columns['object_id']}"
        columns["member"] = item.member and columns["object_id"]
        columns["etag"] = entry["version_id"]  # of a local file it holds the time it was written
    columns |= identifiers.columns(item.header)
    flags: frozenset[Flag] = frozenset()
    if identifying(item.header) and names_patient(path, item.header):
        flags = frozenset({Flag.NAMED_PATH})
    if isinstance(item, Failure):
        columns |= {"reason": item.reason.value, "detail": item.detail, "flags": sorted(flags)}
        columns |= dict.fromkeys(("pixel_digest", "width", "height", "crop"))
        return Row(columns=columns, pixels=None, path=path)
    prepared = prepare(item, settings)
    height, width = item.pixels.shape
    columns |= {"reason": None, "detail": None, "flags": sorted(prepared.flags | flags)}
    columns |= {"pixel_digest": pixel_digest(item), "width": width, "height": height, "crop": prepared.crop}
    if evidence:
        columns |= {"stored": item.stored, "mode": item.mode} | evidence_of(prepared.whole)
    return Row(columns=columns, pixels=prepared.pixels, path=path)


def again(
    archive: Archive, key: str, wanted: Collection[Place], decode: DecodeConfig, settings: PrepareConfig
) -> dict[Place, np.ndarray]:
    """Slices of one object or pack that were prepared before, as people are to see them; without unreadable ones.

    wanted: (member, frame) of each. What is found are heads, uint8 (1, size, size): `slices.seen` gives what the model
    sees of them.
    """
    members = {member for member, _ in wanted}
    only = next(iter(members)) if len(members) == 1 else None
    found: dict[Place, np.ndarray] = {}
    try:
        with archive.open(key) as source:
            for item in read(source, archive.uri_of(key), decode, only=only):
                place = (item.member, item.frame)
                if isinstance(item, Slice) and place in wanted:
                    found[place] = prepare(item, settings).head[np.newaxis]
                    if len(found) == len(wanted):
                        break
    except OSError:
        pass  # gone since, or out of reach: a picture less in the report
    return found


def holds_identifiers(archive: Archive, key: str, decode: DecodeConfig) -> bool:
    """Whether one of an object's first slices, or why there are none, came with identifiers."""
    try:
        with archive.open(key) as source:
            items = islice(read(source, archive.uri_of(key), decode), _PROBED_ITEMS)
            return any(identifying(item.header) for item in items)
    except OSError:
        return False


def pixel_digest(item: Slice) -> str:
    """Names the decoded picture (shape, values, and whether they are windowed), however it was encoded."""
    height, width = item.pixels.shape
    values = _narrowed(np.ascontiguousarray(item.pixels))
    state = sha256(f"{height}x{width} {'8' if item.bits == 8 else 'deep'} {values.dtype.name} ".encode())
    state.update(values.data)
    return state.hexdigest()[:32]


def _narrowed(pixels: np.ndarray) -> np.ndarray:
    """The same values in the smallest type that holds them: a quarter of the bytes to go through."""
    if pixels.dtype == np.uint8:
        return pixels
    with np.errstate(invalid="ignore"):  # what a type cannot hold is found by comparing
        for kind in (np.uint8, np.int16):
            narrow = pixels.astype(kind)
            if np.array_equal(narrow, pixels):
                return narrow
    return pixels


def states(rows: pa.Table) -> pa.Array:
    """The state of each row's object, from the columns object_id and reason (N,): string (N,).

    `scored` when it has at least one slice, `skipped` when all it holds is no MR image, else `quarantined`.
    """
    code = rows["object_id"].combine_chunks().dictionary_encode()
    place = code.indices.to_numpy()
    skips = pa.array([reason.value for reason in Reason if reason.skips])
    scored = np.zeros(len(code.dictionary), bool)
    faulty = np.zeros(len(code.dictionary), bool)
    scored[place[pc.is_null(rows["reason"]).to_numpy()]] = True
    faulty[place[~pc.is_in(rows["reason"], value_set=skips).to_numpy()]] = True
    state = np.where(scored, State.SCORED, np.where(faulty, State.QUARANTINED, State.SKIPPED))
    return pa.array(state[place].astype(str), pa.string())


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of parts of a shard, each once: what is wrong with all of a pack, every part of it may tell."""
    rows = pa.concat_tables(parts)
    _, first = np.unique(rows["row_id"].to_numpy(zero_copy_only=False), return_index=True)
    return rows if len(first) == rows.num_rows else rows.take(pa.array(np.sort(first)))


def to_batches(items: Iterable[Row], size: int) -> Iterator[pa.RecordBatch]:
    """Rows -> batches of `records.prepared_schema(size)`."""
    schema = prepared_schema(size)
    for chunk in batched(items):
        entries = [row.columns | {"pixels": None if row.pixels is None else row.pixels.tobytes()} for row in chunk]
        yield pa.RecordBatch.from_pylist(entries, schema=schema)


def batched(items: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of at most 256: what is held as Python objects at a time."""
    iterator = iter(items)
    while chunk := list(islice(iterator, BATCH_ROWS)):
        yield chunk


def from_batches(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[Row]:
    """The inverse of `to_batches`; where paths were not kept, `path` is the URI."""
    for batch in batches:
        for entry in batch.to_pylist():
            raw = entry.pop("pixels")
            pixels = None if raw is None else np.frombuffer(raw, np.uint8).reshape(1, size, size)
            yield Row(columns=entry, pixels=pixels, path=entry["uri"])
