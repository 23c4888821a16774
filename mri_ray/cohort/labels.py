"""Which class an object has: told by the name of a folder around it, or by a labels file.

A labels table holds key string, label int8 (the position in `CLASSES`), patient string or null, study_date string or
null, and level string, the same for all rows: whether keys are paths below the archive's root, or the keys of studies,
series or instances that results have in place of UIDs. Where a file tells it, also lesion_px double: pixels of the
lesion on a slice, of the picture as it is stored; and split string: the side on which it says that an object stands.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.storage import Location
from mri_ray.cohort.columns import floats, whole
from mri_ray.cohort.label_columns import KEYS, LESION, read
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


class Level(StrEnum):
    """What a label is of."""

    PATH = "path"  # an object; a pack's label is that of all its members
    INSTANCE = "instance"
    SERIES = "series"
    STUDY = "study"


_SIGNED = re.compile(r"[-+]\s*\d")
_LEVELS = dict(zip(KEYS, Level, strict=True))
_PLURAL = {Level.INSTANCE: "instances", Level.SERIES: "series", Level.STUDY: "studies"}
# The columns of results that hold those keys.
ROW_KEYS = {Level.INSTANCE: "instance_key", Level.SERIES: "series_key", Level.STUDY: "study_key"}

LABELS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("patient", pa.string()),
        pa.field("study_date", pa.string()),
        pa.field("level", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Labels brought to the order of an archive's rows. label: int8 (N,), -1 where there is none.

    weak: rows called tumor by a label that covers several rows (a study, a series, a volume): the lesion need not be
    on each of them, so figures by slice are worth less. lesion_px: float64 (N,), NaN where it is not known. split: the
    side that labels tell, None where they tell none.
    """

    label: np.ndarray
    patient: list[str | None]
    study_date: list[str | None]
    unlabelled: int
    labels_without_file: int
    lesion_px: np.ndarray
    split: list[str | None]
    weak: int = 0


def class_words(classes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The label of every folder word, folded. Raises ConfigError unless each word speaks for one class only."""
    if set(classes) != set(CLASSES):
        raise ConfigError(f"classes: must name exactly {' and '.join(sorted(CLASSES))}, got {sorted(classes)}")
    words: dict[str, int] = {}
    for name in CLASSES:
        if isinstance(classes[name], str) or not classes[name]:
            raise ConfigError(f"classes.{name}: must list at least one folder name, got {classes[name]!r}")
        for word in classes[name]:
            folded, label = fold_word(word), CLASSES.index(name)
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
    unknown, level = pa.nulls(count, pa.string()), pa.repeat(Level.PATH.value, count)
    columns = [keys.filter(found), label.filter(found), unknown, unknown, level]
    return pa.table(columns, schema=LABELS), len(keys) - count


def labels_from_file(
    location: Location,
    classes: Mapping[str, Sequence[str]],
    key_of: Callable[[str, str], str | None] | None = None,
    *,
    quote: bool = True,
) -> pa.Table:
    """Read a CSV or Parquet file of labels; one row a path, study, series or instance, in the file's order.

    Columns: path (below the archive's root; in a pack `pack.zip!/path/in/pack`) or, without it, the first there is of
    sop_uid, series_uid and study_uid; label (a class, a word of `classes`, or 0/1); and optionally patient_id,
    study_date, split, and lesion_px (or mask_pixels). Others are ignored. key_of: (level, UID) -> the key that results
    have in place of the UID. quote: whether a message may repeat a label that has no class; one in a file of UIDs never
    does.
    Raises LabelError naming file, data row (from 1, without the header) and rule, but never a UID or a patient.
    """
    words = {**{str(code): code for code in range(len(CLASSES))}, **{name: CLASSES.index(name) for name in CLASSES}}
    words |= class_words(classes)
    where = f"labels file {location.uri}"
    columns = read(location, where)
    name = next(name for name in KEYS if name in columns)
    key, label = columns[name], columns["label"]
    if not len(key):
        raise LabelError(f"{where}: must hold at least one row below its header, got none")
    _refuse_empty(key, name, where)
    _refuse_empty(label, "label", where)
    label = _to_codes(label, words, where, quote=quote and name == "path")
    key = _normal(key) if name == "path" else _keys_of(key, name, key_of, where)
    position = key.dictionary_encode()
    at, count = position.indices.to_numpy(), len(position.dictionary)
    parts = [_one_a_key(at, count, label, "label", name, where)]
    for other in ("patient_id", "study_date"):
        column = columns.get(other, pa.nulls(len(key), pa.string()))
        parts.append(_one_a_key(at, count, column, other, name, where))
    table = pa.table([position.dictionary, *parts, pa.repeat(_LEVELS[name].value, count)], schema=LABELS)
    if "split" in columns:
        table = table.append_column("split", _one_a_key(at, count, columns["split"], "split", name, where))
    lesion = next((other for other in LESION if other in columns), None)
    if lesion is None:
        return table
    pixels = _one_a_key(at, count, columns[lesion], lesion, name, where)
    return table.append_column("lesion_px", _numbers(pixels, lesion, where))


def match(
    keys: pa.Array | Sequence[str],
    labels: pa.Table,
    rows: pa.Table | None = None,
    *,
    quote: bool = True,
    alone: bool = True,
) -> Matched:
    """`bring`; raises LabelError when no row is labelled, or, alone, only one class.

    quote: whether its message may give paths as examples. alone: whether these are all rows that are learned from.
    """
    matched = bring(keys, labels, rows)
    if not np.any(matched.label >= 0):
        raise LabelError(_nothing_matched(_normal(_text(keys)), labels, quote))
    if alone:
        refuse_one_class(matched.label)
    return matched


def refuse_one_class(label: np.ndarray) -> None:
    """Raise LabelError unless both classes occur. label: int8 (N,), -1 where there is none."""
    found = np.unique(label[label >= 0])
    if len(found) == 1:
        raise LabelError(
            f"labels: both classes must occur, but all {np.sum(label >= 0)} labelled objects are "
            f"{CLASSES[found[0]]}; check `classes` and the archive, or give a labels file"
        )


def together(parts: Sequence[tuple[np.ndarray, Matched]], count: int) -> Matched:
    """What was matched apart, as one of `count` rows. Each part: the positions of its rows, and their labels."""
    if len(parts) == 1:
        return parts[0][1]
    label = np.full(count, -1, np.int8)
    patient: list[str | None] = [None] * count
    study_date: list[str | None] = [None] * count
    split: list[str | None] = [None] * count
    lesion_px = np.full(count, np.nan)
    for mine, matched in parts:
        label[mine], lesion_px[mine] = matched.label, matched.lesion_px
        told = zip(mine.tolist(), matched.patient, matched.study_date, matched.split, strict=True)
        for place, *values in told:
            patient[place], study_date[place], split[place] = values
    return Matched(
        label=label,
        patient=patient,
        study_date=study_date,
        unlabelled=sum(matched.unlabelled for _, matched in parts),
        labels_without_file=sum(matched.labels_without_file for _, matched in parts),
        lesion_px=lesion_px,
        split=split,
        weak=sum(matched.weak for _, matched in parts),
    )


def shared_patients(patient: Sequence[str | None], source: np.ndarray) -> int:
    """How many patients are told by the labels of several archives. patient, source: of each row."""
    pairs = {pair for pair in zip(patient, source.tolist(), strict=True) if pair[0] is not None}
    return sum(number > 1 for number in Counter(name for name, _ in pairs).values())


def bring(keys: pa.Array | Sequence[str], labels: pa.Table, rows: pa.Table | None = None) -> Matched:
    """Bring labels to the order of N rows, whether or not any belongs to one.

    keys: (N,), paths below the archive's root. rows: the rows themselves, with the columns ROW_KEYS; only labels by
    UID need them.
    """
    level = _level(labels)
    known = _text(labels["key"])
    if level == Level.PATH:
        known = _normal(known)
        place = _place(_normal(_text(keys)), known)
    else:
        assert rows is not None, "labels by UID are matched by the columns of rows"
        place = pc.index_in(_text(rows[ROW_KEYS[level]]), value_set=known)
    label = pc.fill_null(whole(labels["label"]).take(place), -1).to_numpy()
    # A key that occurs twice among the known ones (a volume, labelled by its folder) is found at its first place.
    covered = np.bincount(place.drop_null().to_numpy(), minlength=len(known))
    covered = covered[pc.index_in(known, value_set=known).to_numpy()]
    shared = (covered > 1) & (whole(labels["label"]).to_numpy() == CLASSES.index("tumor"))
    return Matched(
        label=label,
        patient=whole(labels["patient"]).take(place).to_pylist(),
        study_date=whole(labels["study_date"]).take(place).to_pylist(),
        unlabelled=place.null_count,
        labels_without_file=int((covered == 0).sum()),
        lesion_px=_lesions(labels, place, covered),
        split=whole(labels["split"]).take(place).to_pylist() if "split" in labels.column_names else [None] * len(place),
        weak=int(np.isin(place.fill_null(-1).to_numpy(), np.flatnonzero(shared)).sum()),
    )


def _lesions(labels: pa.Table, place: pa.Array, covered: np.ndarray) -> np.ndarray:
    """Of each row; not known where a label is that of several rows. covered: rows of each label."""
    if "lesion_px" not in labels.column_names:
        return np.full(len(place), np.nan)
    sizes = floats(labels["lesion_px"])
    return np.append(np.where(covered > 1, np.nan, sizes), np.nan)[place.fill_null(-1).to_numpy()]


def _numbers(column: pa.Array, name: str, where: str) -> pa.Array:
    plain = pc.match_substring_regex(column, r"^\d+(\.\d+)?$")
    if not pc.all(plain.drop_null()).as_py():
        raise LabelError(f"{where}: {name} must be a number of pixels, from 0, or empty, got another text")
    return column.cast(pa.float64())


def _level(labels: pa.Table) -> Level:
    levels = pc.unique(labels["level"]).to_pylist()
    assert len(levels) <= 1, "a labels table is of one level"
    return Level(levels[0]) if levels else Level.PATH


def _place(keys: pa.Array, known: pa.Array) -> pa.Array:
    """Where each key, or the innermost pack around it that has a label, stands among the known ones; null nowhere."""
    place = pc.index_in(keys, value_set=known)
    inside = pc.and_(pc.is_null(place), pc.match_substring(keys, "!/"))
    if not pc.any(inside).as_py():
        return place
    around = pc.replace_substring_regex(keys.filter(inside), "^(.*)!/.*$", "\\1")
    return pc.replace_with_mask(place, inside, _place(around, known))


def fold_word(word: str) -> str:
    """A folder's name as it is compared: case, blanks, "_" and "-" do not count."""
    return re.sub(r"[\s_-]+", "", word.casefold())


def _nearest(folder: str, words: Mapping[str, int]) -> int | None:
    parts = map(fold_word, reversed(folder.split("/")))
    return next((words[part] for part in parts if part in words), None)


def _text(values: Any) -> pa.Array:
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values, pa.string())
    return whole(values.cast(pa.string()))


def _normal(paths: pa.Array) -> pa.Array:
    """Paths in one spelling: "/" between the parts, no "." parts, no leading "/", composed Unicode."""
    paths = pc.replace_substring(paths, "\\", "/")
    paths = pc.replace_substring_regex(paths, r"/(?:\.?/)+", "/")
    paths = pc.replace_substring_regex(paths, r"^(?:\.?/)+", "")
    return pc.utf8_normalize(paths, form="NFC")  # macOS writes names decomposed


def _refuse_empty(column: pa.Array, name: str, where: str) -> None:
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + 1
        raise LabelError(f"{where}: data row {row}: {name} must not be empty; fill it in or take the row out")


def _keys_of(uids: pa.Array, name: str, key_of: Callable[[str, str], str | None] | None, where: str) -> pa.Array:
    encoded = uids.dictionary_encode()
    level = _LEVELS[name].value
    keys = [key_of(level, uid) if key_of else None for uid in encoded.dictionary.to_pylist()]
    if None in keys:
        raise LabelError(
            f"{where}: labels by {name} are matched by the keys that results have in place of UIDs; they need "
            "`identifiers: pseudonym` with a site key, or `identifiers: keep`"
        )
    return pa.array(keys, pa.string()).take(encoded.indices)


def _to_codes(column: pa.Array, words: Mapping[str, int], where: str, *, quote: bool) -> pa.Array:
    encoded = column.dictionary_encode()
    told = encoded.dictionary.to_pylist()
    folded = [word if _SIGNED.match(word) else fold_word(word) for word in told]  # -1 is often "not known", never 1
    # 1.0 is 1: so pandas writes whole numbers of a column that has gaps.
    of_word = pa.array([words.get(word, words.get(word.removesuffix(".0"))) for word in folded], pa.int8())
    codes = of_word.take(encoded.indices)
    if codes.null_count:
        row = pc.index(codes.is_null(), True).as_py()
        raise LabelError(
            f"{where}: data row {row + 1}: label must be one of {', '.join(sorted(words))} "
            f"(see `classes`), got {repr(column[row].as_py()) if quote else 'another'}"
        )
    return codes


def _one_a_key(at: np.ndarray, count: int, column: pa.Array, name: str, key: str, where: str) -> pa.Array:
    """The value of each key (null where no row tells one); rows that contradict each other are refused."""
    rows = np.flatnonzero(column.is_valid())
    told, first = np.unique(at[rows], return_index=True)
    row_of_key = np.full(count, -1)
    row_of_key[told] = rows[first]
    differs = pc.not_equal(column.take(pa.array(row_of_key[at[rows]])), column.take(pa.array(rows)))
    wrong = pc.index(differs, True).as_py()
    if wrong >= 0:
        one, other = row_of_key[at[rows[wrong]]], rows[wrong]
        values = f" ({CLASSES[column[one].as_py()]}, {CLASSES[column[other].as_py()]})" if name == "label" else ""
        raise LabelError(
            f"{where}: data rows {one + 1} and {other + 1}: {name} of one {key} must agree, got two{values}"
        )
    return column.take(pa.array(row_of_key, mask=row_of_key < 0))


def _nothing_matched(keys: pa.Array, labels: pa.Table, quote: bool) -> str:
    if not len(keys):
        return "labels: at least one object must have a label, but the archive holds none"
    known, level = labels["key"], _level(labels)
    if level != Level.PATH:
        return (
            f"labels: none of {len(known)} labelled {_PLURAL[level]} is that of any of {len(keys)} slices; check that "
            "they are of this archive, and that the site key is the one that its identifiers were replaced with"
        )
    example = f" (such as {keys[0].as_py()})" if quote else ""
    if not len(known):
        return (
            f"labels: none of {len(keys)} objects{example} lies in a folder that `classes` names; "
            "name the folders there, or give a labels file as `labels`"
        )
    other = f" (such as {_normal(_text(known))[0].as_py()})" if quote else ""
    return (
        f"labels: none of {len(known)} labelled paths{other} is among {len(keys)} objects{example}; "
        "paths must be written from the archive's root"
    )
