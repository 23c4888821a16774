"""A labels file -> its columns as text: CSV or Parquet, told by its content."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mri_ray.archive.storage import Location
from mri_ray.cohort.columns import whole
from mri_ray.errors import LabelError

KEYS = ("path", "sop_uid", "series_uid", "study_uid")  # what a label may be of: a file goes by the first that it has
LESION = ("lesion_px", "lesion_pixels", "mask_pixels")  # how large the lesion on a slice is: by any of these names
OPTIONAL = ("patient_id", "study_date", "split", *LESION)


def read(location: Location, where: str) -> dict[str, pa.Array]:
    """By name the columns that are used, null where empty: one of KEYS, label, and those of OPTIONAL that there are.

    Case and blanks around the names in the file do not count.
    Raises LabelError, which calls the file `where`.
    """
    try:
        data = location.read()
    except OSError as exc:
        raise LabelError(f"{where}: cannot be read: {exc}") from exc
    try:
        table = _read_parquet(data, where) if data[:4] == b"PAR1" else _read_csv(data, where)
        return {_folded(name): _blank_to_null(table[name]) for name in table.column_names}
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as exc:
        raise LabelError(f"{where}: must be CSV (UTF-8, with commas) or Parquet: {exc}") from exc


def _read_parquet(data: bytes, where: str) -> pa.Table:
    source = pq.ParquetFile(pa.BufferReader(data))
    return source.read(columns=_wanted(source.schema_arrow.names, where, quote=True))


def _read_csv(data: bytes, where: str) -> pa.Table:
    header = next(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")), [])
    words = {_folded(word) for name in header for word in re.split(r"[;,\t]", name)}
    wanted = _wanted(header, where, quote=not words.isdisjoint({*KEYS, "label", *OPTIONAL}))
    invalid: list[Any] = []

    def note(row: Any) -> str:
        invalid.append(row)  # Arrow's own message would quote the row, and with it the patient
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        pyarrow.csv.ReadOptions(use_threads=False),  # rows are numbered only so
        pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())),
    )
    if invalid:
        row = invalid[0]
        raise LabelError(
            f"{where}: data row {row.number - 1}: must have {row.expected_columns} columns, got {row.actual_columns}"
        )
    return table


def _wanted(found: Sequence[str], where: str, quote: bool) -> list[str]:
    """Of the file's columns those that are used, by the names that they have there."""
    folded = [_folded(name) for name in found]
    key = next((name for name in KEYS if name in folded), None)
    if key is None or "label" not in folded:
        # Without a header the first row would stand in the message, and with it a patient.
        told = f"found {', '.join(found) or 'none'}" if quote or not found else "but its first line names no column"
        raise LabelError(f"{where}: must have the columns path (or {', '.join(KEYS[1:])}) and label, {told}")
    wanted = [name for name in (key, "label", *OPTIONAL) if name in folded]
    for name in wanted:
        if folded.count(name) > 1:
            raise LabelError(f"{where}: column {name} must occur once, found {folded.count(name)} of it")
    return [found[folded.index(name)] for name in wanted]


def _folded(name: str) -> str:
    return name.strip().casefold()


def _blank_to_null(column: pa.ChunkedArray) -> pa.Array:
    """A column as text; null where it is empty or no number."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.date32())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_floating(column.type):  # whole numbers with gaps, as pandas writes them
        column = pc.if_else(pc.is_nan(column), None, column)
        if pc.all(pc.equal(pc.trunc(column), column)).as_py():
            column = column.cast(pa.int64())
    text = pc.utf8_trim_whitespace(whole(column.cast(pa.string())))
    return pc.if_else(pc.equal(text, ""), None, text)
