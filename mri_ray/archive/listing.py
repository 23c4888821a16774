"""What a store lists, as Arrow batches in the one order all stores share: ascending by the bytes of the key."""

from collections.abc import Container, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.errors import ArchiveError
from mri_ray.records import LISTING

Entry = tuple[str, int, str]  # key below the root, size in bytes, etag
PAGE = 1000  # what S3 gives in one answer


def batch(entries: Iterable[Entry]) -> pa.RecordBatch:
    columns = list(zip(*entries, strict=True)) or [(), (), ()]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], schema=LISTING
    )


def lies_below(key: str, places: Container[str]) -> bool:
    """Whether a key is one of the places, or lies in one that is a folder."""
    end = len(key)
    while end > 0:
        if key[:end] in places:
            return True
        end = key.rfind("/", 0, end)
    return False


def in_key_order(pages: Iterable[pa.RecordBatch], uri: str) -> Iterator[pa.RecordBatch]:
    """Pages of a server in ascending order of the keys, holding one top-level folder at most.

    S3 lists by bytes ("a-b/x" before "a/x", since "-" < "/"). Servers built on folders list folder by folder
    ("a/x" before "a-b/x"). Both leave a top-level folder or file for good before the next one, so whatever sorts up
    to the name the newest key starts with can be passed on. Raises ArchiveError for a server with another order.
    """
    held: list[pa.RecordBatch] = []
    top: str | None = None
    last = ""
    for page in pages:
        if not page.num_rows:
            continue
        held.append(page)
        newest = page.column("key")[-1].as_py().partition("/")[0]
        if newest == top:
            continue
        top = newest
        ordered = _ordered(held)
        ready = pc.sum(pc.less_equal(ordered.column("key"), top), min_count=0).as_py()
        yield from _pass_on(ordered.slice(0, ready), last, uri)
        last = ordered.column("key")[ready - 1].as_py() if ready else last
        held = ordered.slice(ready).to_batches()
    if held:
        yield from _pass_on(_ordered(held), last, uri)


def _ordered(held: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(held, LISTING).combine_chunks()
    key = table.column("key")
    if pc.all(pc.less(key[:-1], key[1:]), min_count=0).as_py():
        return table
    return table.take(pc.sort_indices(key))


def _pass_on(table: pa.Table, last: str, uri: str) -> Iterator[pa.RecordBatch]:
    if table.num_rows and last and table.column("key")[0].as_py().encode() <= last.encode():
        raise ArchiveError(
            f"the server must list keys in ascending order or folder by folder, got {table.column('key')[0].as_py()!r} "
            f"after {last!r}: {uri}"
        )
    yield from table.to_batches(max_chunksize=PAGE)
