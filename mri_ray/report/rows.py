"""Passes over the rows of a snapshot, some at a time, however many there are."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as ds

from mri_ray.archive.storage import Location

BATCH_ROWS = 65_536
_FILES_AHEAD, _BATCHES_AHEAD = 4, 2  # object stores are slow to answer; a few files ahead hide that


def scan(
    snapshot: Location, columns: Sequence[str], where: ds.Expression | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Some columns of the rows of a snapshot in their order, or of those rows alone for which `where` is true.

    What is not asked for is not read: end the iteration and the rest is left. Files whose statistics rule `where` out
    are passed over.
    """
    filesystem, path = snapshot.arrow()
    rows = ds.dataset(path, filesystem=filesystem, format="parquet")
    yield from rows.to_batches(
        columns=list(columns),
        filter=where,
        batch_size=batch_rows,
        batch_readahead=_BATCHES_AHEAD,
        fragment_readahead=_FILES_AHEAD,
    )
