"""Which class an object has: told by the name of a folder around it, or by a labels file.

A labels table holds key string (below the archive's root), label int8 (the position in `CLASSES`), patient string or
null, study_date string or null.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError, LabelError

CLASSES = ("normal", "tumor")

# The folder names of the public brain tumor sets. Case, blanks, "_" and "-" do not count.
DEFAULT_CLASSES: dict[str, list[str]] = {
    "tumor": [
        *("yes", "positive", "tumor", "tumors", "tumour", "tumours", "brain_tumor", "brain_tumour", "with_tumor"),
        *("glioma", "meningioma", "pituitary", "brain_glioma", "brain_menin"),
        *("glioma_tumor", "meningioma_tumor", "pituitary_tumor"),
        *("glioma_tumour", "meningioma_tumour", "pituitary_tumour", "pituitary_adenoma"),
    ],
    "normal": [
        *("no", "negative", "normal", "healthy", "normal_brain", "healthy_brain", "brain_normal", "brain_healthy"),
        *("no_tumor", "no_tumour", "no_brain_tumor", "non_tumor", "non_tumour", "not_tumor", "without_tumor"),
    ],
}

LABELS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("patient", pa.string()),
        pa.field("study_date", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Labels brought to the order of an archive's keys. label: int8 (N,), -1 where there is none."""

    label: np.ndarray
    patient: list[str | None]
    unlabelled: int
    labels_without_file: int


def class_words(classes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The label of every folder word, folded. Raises ConfigError unless each word speaks for one class only."""
    if set(classes) != set(CLASSES):
        raise ConfigError(f"classes: must name exactly {' and '.join(sorted(CLASSES))}, got {sorted(classes)}")
    words: dict[str, int] = {}
    for name in CLASSES:
        if isinstance(classes[name], str) or not classes[name]:
            raise ConfigError(f"classes.{name}: must list at least one folder name, got {classes[name]!r}")
        for word in classes[name]:
            folded, label = _fold(word), CLASSES.index(name)
            if not folded or "/" in folded:
                raise ConfigError(f"classes.{name}: must hold names of single folders, got {word!r}")
            other = words.setdefault(folded, CLASSES.index(folded) if folded in CLASSES else label)
            if other != label:
                raise ConfigError(f"classes.{name}: {word!r} already means {CLASSES[other]}; a word has one class")
    return words


def labels_from_folders(keys: pa.Array | Sequence[str], classes: Mapping[str, Sequence[str]]) -> tuple[pa.Table, int]:
    """Label each key by the nearest folder around it that `classes` names; also the number of keys without one."""
    words = class_words(classes)
    keys = _text(keys)
    folders = pc.replace_substring_regex(_normal(keys), "[^/]+$", "").dictionary_encode()
    of_folder = pa.array([_nearest(folder, words) for folder in folders.dictionary.to_pylist()], pa.int8())
    label = of_folder.take(folders.indices)
    found = label.is_valid()
    count = pc.sum(found).as_py() or 0
    unknown = pa.nulls(count, pa.string())
    return pa.table([keys.filter(found), label.filter(found), unknown, unknown], schema=LABELS), len(keys) - count


def labels_from_file(location: Location, classes: Mapping[str, Sequence[str]]) -> pa.Table:
    """Read a CSV or Parquet file of labels; one row a path, in the file's order.

    Columns: path (below the archive's root), label (a class, a word of `classes`, or 0/1), and optionally patient_id
    and study_date; others are ignored. Raises LabelError naming file, data row (from 1, without the header) and rule,
    but never a patient.
    """
    words = {**{str(code): code for code in range(len(CLASSES))}, **{name: CLASSES.index(name) for name in CLASSES}}
    words |= class_words(classes)
    where = f"labels file {location.uri}"
    columns = _read_columns(location, where)
    path, label = columns["path"], columns["label"]
    if not len(path):
        raise LabelError(f"{where}: must hold at least one row below its header, got none")
    _refuse_empty(path, "path", where)
    _refuse_empty(label, "label", where)
    label = _to_codes(label, words, where)
    key = _normal(path)
    position = key.dictionary_encode()
    at = position.indices.to_numpy()
    parts = [_one_a_key(at, position.dictionary, label, "label", where)]
    for name in ("patient_id", "study_date"):
        column = columns.get(name, pa.nulls(len(key), pa.string()))
        parts.append(_one_a_key(at, position.dictionary, column, name, where))
    return pa.table([position.dictionary, *parts], schema=LABELS)


def match(keys: pa.Array | Sequence[str], labels: pa.Table) -> Matched:
    """Bring labels to the order of `keys`. Raises LabelError when no key, or only one class, is labelled."""
    matched = bring(keys, labels)
    label = matched.label
    found = np.unique(label[label >= 0])
    if not len(found):
        raise LabelError(_nothing_matched(_normal(_text(keys)), _normal(_text(labels["key"]))))
    if len(found) == 1:
        raise LabelError(
            f"labels: both classes must occur, but all {np.sum(label >= 0)} labelled objects are "
            f"{CLASSES[found[0]]}; check `classes` and the archive, or give a labels file"
        )
    return matched


def bring(keys: pa.Array | Sequence[str], labels: pa.Table) -> Matched:
    """Bring labels to the order of `keys`, whether or not any belongs to one."""
    normal, known = _normal(_text(keys)), _normal(_text(labels["key"]))
    place = pc.index_in(normal, value_set=known)
    return Matched(
        label=pc.fill_null(_whole(labels["label"]).take(place), -1).to_numpy(),
        patient=_whole(labels["patient"]).take(place).to_pylist(),
        unlabelled=place.null_count,
        labels_without_file=pc.sum(pc.invert(pc.is_in(known, value_set=normal))).as_py(),
    )


def _fold(word: str) -> str:
    return re.sub(r"[\s_-]+", "", word.casefold())


def _nearest(folder: str, words: Mapping[str, int]) -> int | None:
    parts = map(_fold, reversed(folder.split("/")))
    return next((words[part] for part in parts if part in words), None)


def _whole(column: Any) -> pa.Array:
    """One array, also of a column that came in chunks."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column


def _text(values: Any) -> pa.Array:
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values, pa.string())
    return _whole(values.cast(pa.string()))


def _normal(paths: pa.Array) -> pa.Array:
    """Paths in one spelling: "/" between the parts, no "." parts, no leading "/", composed Unicode."""
    paths = pc.replace_substring(paths, "\\", "/")
    paths = pc.replace_substring_regex(paths, r"/(?:\.?/)+", "/")
    paths = pc.replace_substring_regex(paths, r"^(?:\.?/)+", "")
    return pc.utf8_normalize(paths, form="NFC")  # macOS writes names decomposed


def _read_columns(location: Location, where: str) -> dict[str, pa.Array]:
    try:
        data = location.read()
    except OSError as exc:
        raise LabelError(f"{where}: cannot be read: {exc}") from exc
    try:
        table = _read_parquet(data, where) if data[:4] == b"PAR1" else _read_csv(data, where)
        return {name: _blank_to_null(table[name]) for name in table.column_names}
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as exc:
        raise LabelError(f"{where}: must be CSV (UTF-8, with commas) or Parquet: {exc}") from exc


def _read_parquet(data: bytes, where: str) -> pa.Table:
    source = pq.ParquetFile(pa.BufferReader(data))
    return source.read(columns=_wanted(source.schema_arrow.names, where))


def _read_csv(data: bytes, where: str) -> pa.Table:
    header = next(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")), [])
    wanted = _wanted(header, where)
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


def _wanted(found: Sequence[str], where: str) -> list[str]:
    wanted = [name for name in ("path", "label", "patient_id", "study_date") if name in found]
    if wanted[:2] != ["path", "label"]:
        raise LabelError(f"{where}: must have the columns path and label, found {', '.join(found) or 'none'}")
    for name in wanted:
        if found.count(name) > 1:
            raise LabelError(f"{where}: column {name} must occur once, found {found.count(name)} of it")
    return wanted


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
    text = pc.utf8_trim_whitespace(_text(column))
    return pc.if_else(pc.equal(text, ""), None, text)


def _refuse_empty(column: pa.Array, name: str, where: str) -> None:
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + 1
        raise LabelError(f"{where}: data row {row}: {name} must not be empty; fill it in or take the row out")


def _to_codes(column: pa.Array, words: Mapping[str, int], where: str) -> pa.Array:
    encoded = column.dictionary_encode()
    of_word = pa.array([words.get(_fold(word)) for word in encoded.dictionary.to_pylist()], pa.int8())
    codes = of_word.take(encoded.indices)
    if codes.null_count:
        row = pc.index(codes.is_null(), True).as_py()
        raise LabelError(
            f"{where}: data row {row + 1}: label must be one of {', '.join(sorted(words))} "
            f"(see `classes`), got {column[row].as_py()!r}"
        )
    return codes


def _one_a_key(at: np.ndarray, keys: pa.Array, column: pa.Array, name: str, where: str) -> pa.Array:
    """The value of each key (null where no row tells one); rows that contradict each other are refused."""
    rows = np.flatnonzero(column.is_valid())
    told, first = np.unique(at[rows], return_index=True)
    row_of_key = np.full(len(keys), -1)
    row_of_key[told] = rows[first]
    differs = pc.not_equal(column.take(pa.array(row_of_key[at[rows]])), column.take(pa.array(rows)))
    wrong = pc.index(differs, True).as_py()
    if wrong >= 0:
        one, other = row_of_key[at[rows[wrong]]], rows[wrong]
        values = f" ({CLASSES[column[one].as_py()]}, {CLASSES[column[other].as_py()]})" if name == "label" else ""
        raise LabelError(
            f"{where}: data rows {one + 1} and {other + 1}: {name} of one path must agree, "
            f"got two{values} for {keys[int(at[other])].as_py()}"
        )
    return column.take(pa.array(row_of_key, mask=row_of_key < 0))


def _nothing_matched(keys: pa.Array, known: pa.Array) -> str:
    if not len(keys):
        return "labels: at least one object must have a label, but the archive holds none"
    example = keys[0].as_py()
    if not len(known):
        return (
            f"labels: none of {len(keys)} objects (such as {example}) lies in a folder that `classes` names; "
            "name the folders there, or give a labels file as `labels`"
        )
    return (
        f"labels: none of {len(known)} labelled paths (such as {known[0].as_py()}) is among {len(keys)} objects "
        f"(such as {example}); paths must be written from the archive's root"
    )
