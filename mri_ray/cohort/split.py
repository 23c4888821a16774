"""Which side a row stands on: training, validation or test; and whether a split leaks.

A side follows from a hash of the seed and a name, so rows that are added later move no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.identity import digest
from mri_ray.errors import ConfigError, SplitError

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
_WAY_OUT = "add data, change these fractions, or choose another seed"


def _default_folders() -> dict[str, list[str]]:
    return {
        "train": ["train", "training"],
        "validation": ["val", "valid", "validation"],
        "test": ["test", "testing"],
    }


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How rows are divided. by: "group" (patients and copies stay together), "image" or "folder" (both may leak).

    validation and test are fractions of all groups or images. With "folder" the test side is what lies in its folders,
    and validation is that fraction of the training folders, unless validation has folders with rows of its own.
    folders names them. folds and by_source ask for further trainings, beside the one that is delivered: so many, each
    tested on another part of the groups, and one a source, tested on it alone (`cohort.held_out`).
    """

    by: Literal["group", "image", "folder"] = "group"
    validation: float = 0.15
    test: float = 0.15
    folders: dict[str, list[str]] = field(default_factory=_default_folders)
    folds: int = 0
    by_source: bool = False

    def __post_init__(self) -> None:
        if self.by not in ("group", "image", "folder"):
            raise ConfigError(f"by: must be group, image or folder, got {self.by!r}")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation: must lie between 0 and 1, both excluded, got {self.validation}")
        if not 0 <= self.test < 1:
            raise ConfigError(f"test: must be at least 0 and below 1, got {self.test}")
        if self.validation + self.test >= 1:
            raise ConfigError(f"validation and test: must sum to less than 1, got {self.validation + self.test}")
        if isinstance(self.folds, bool) or not isinstance(self.folds, int) or self.folds not in (0, *range(2, 21)):
            raise ConfigError(f"folds: must be 0 for none, or from 2 to 20, got {self.folds!r}")
        _folder_sides(self.folders)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What a split lets through.

    crossing: groups on more than one side. test_rows_with_copy_in_train: test rows whose group is in training too,
    be it by a copy or by the patient.
    """

    groups: int
    crossing: int
    test_rows: int
    test_rows_with_copy_in_train: int


def assign(
    config: SplitConfig,
    *,
    seed: int,
    keys: pa.Array | Sequence[str],
    row_ids: Sequence[str],
    patients: Sequence[str | None],
    groups: np.ndarray,
    quote: bool = True,
) -> np.ndarray:
    """The side of each of N rows, int8 (N,), as positions in `SIDES`. keys lie below the archive's root.

    quote: whether a message may name a folder. Raises SplitError when rows lie outside the folders of a split by
    folder.
    """
    if config.by == "image":
        return _three_sides(_positions(seed, _plain(row_ids)), config)
    position = group_positions(seed, row_ids, patients, groups)
    if config.by == "group":
        return _three_sides(position, config)
    sides = _by_folder(keys, config, quote)
    if not np.any(sides == VALIDATION):
        sides[(sides == TRAIN) & (position < config.validation)] = VALIDATION
    return sides


def sides_told(config: SplitConfig, words: pa.ChunkedArray) -> np.ndarray | None:
    """The sides that a labels file tells in the words of `split.folders`, int8 (N,), -1 where it tells none.

    None where it tells none at all. Raises SplitError for another word.
    """
    found = pc.utf8_lower(pc.utf8_trim_whitespace(words)).combine_chunks().dictionary_encode()
    known = _folder_sides(config.folders) | {name: code for code, name in enumerate(SIDES)}
    if not len(found.dictionary):
        return None
    codes = [known.get(word, len(SIDES)) for word in found.dictionary.to_pylist()]
    side = pa.array(codes, pa.int8()).take(found.indices).fill_null(-1).to_numpy()
    if other := int(np.sum(side == len(SIDES))):
        raise SplitError(
            f"labels: split must be one of {', '.join(sorted(known))} (see split.folders) or empty, got another word "
            f"for {other} of {len(side)} slices"
        )
    return side


def group_positions(
    seed: int, row_ids: Sequence[str], patients: Sequence[str | None], groups: np.ndarray
) -> np.ndarray:
    """Where the group of each of N rows falls on [0, 1], float64 (N,): by the seed and the group's name alone."""
    return _positions(seed, _group_names(row_ids, patients, groups))[groups]


def leakage(sides: np.ndarray, groups: np.ndarray) -> Leakage:
    """Count groups that stand on several sides, and the test rows they spoil. Both arguments are (N,)."""
    present = np.zeros((int(groups.max(initial=-1)) + 1, len(SIDES)), bool)
    present[groups, sides] = True
    test = sides == TEST
    return Leakage(
        groups=len(present),
        crossing=int(np.sum(present.sum(axis=1) > 1)),
        test_rows=int(test.sum()),
        test_rows_with_copy_in_train=int(np.sum(present[groups[test], TRAIN])),
    )


def refuse(config: SplitConfig, sides: np.ndarray, groups: np.ndarray, label: np.ndarray) -> None:
    """Raise SplitError when training or validation is empty, training of one class, or a split by group crosses.

    All arguments are (N,); label: 1 for tumor, 0 for normal.
    """
    found = leakage(sides, groups)
    for side in (TRAIN, VALIDATION):
        if not np.any(sides == side):
            raise SplitError(_empty_side(config, side, len(sides), found.groups))
    held = label[sides == TRAIN]
    if np.all(held == held[0]):
        raise SplitError(
            f"split: the train side must hold both classes, but all of its {len(held)} rows are "
            f"{'tumor' if held[0] else 'normal'} ({_shares(config, found.groups)}); {_WAY_OUT}"
        )
    if config.by == "group" and found.crossing:
        raise SplitError(
            f"split.by=group: each group must stand on one side, but {found.crossing} cross; split with `assign` over "
            "these very groups, or accept the leak with split.by=image"
        )


def _empty_side(config: SplitConfig, side: int, rows: int, groups: int) -> str:
    what = f"split: the {SIDES[side]} side must not be empty, but none of {rows} rows"
    if config.by == "folder" and side == TRAIN:
        return (
            f"{what} lies in a training folder ({', '.join(config.folders['train'])}); name it in split.folders.train"
        )
    return f"{what} ({_shares(config, groups)}) falls there; {_WAY_OUT}"


def _shares(config: SplitConfig, groups: int) -> str:
    return f"{groups} groups, split.by={config.by}, split.validation={config.validation}, split.test={config.test}"


def _group_names(row_ids: Sequence[str], patients: Sequence[str | None], groups: np.ndarray) -> list[str]:
    """The name of each group, in the order of their numbers: its least patient, else its least row.

    It depends neither on where the archive lies nor on the order of its rows.
    """
    patient = pc.binary_join_element_wise("patient:", pa.array(patients, pa.string()), "")
    row = pc.binary_join_element_wise("row:", pa.array(row_ids, pa.string()), "")
    name = pc.coalesce(patient, row)
    order = pc.sort_indices(
        pa.table({"group": groups, "name": name}), sort_keys=[("group", "ascending"), ("name", "ascending")]
    )
    number, first = np.unique(groups[order], return_index=True)
    if len(number) and number[-1] != len(number) - 1:
        raise ValueError(f"groups: must be numbered from 0 without gaps, got {len(number)} up to {number[-1]}")
    return name.take(order.take(pa.array(first))).to_pylist()


def _positions(seed: int, names: Sequence[str]) -> np.ndarray:
    """Where each name falls on [0, 1], float64 (N,): 64 bits of its hash."""
    salt = str(seed)
    heads = "".join(digest("split", salt, name)[:16] for name in names)
    return np.frombuffer(bytes.fromhex(heads), ">u8") / 2.0**64


def _three_sides(position: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Test lowest, then validation, then training."""
    beyond_test = position >= config.test
    beyond_validation = position >= config.test + config.validation
    return np.where(beyond_validation, TRAIN, np.where(beyond_test, VALIDATION, TEST)).astype(np.int8)


def _folder_sides(folders: dict[str, list[str]]) -> dict[str, int]:
    if "train" not in folders or not set(folders) <= set(SIDES):
        raise ConfigError(
            f"folders: must name train, and may name validation and test, got {', '.join(folders) or 'none'}"
        )
    sides: dict[str, int] = {}
    for name, words in folders.items():
        if isinstance(words, str):
            raise ConfigError(f"folders.{name}: must be a list of folder names, got {words!r}")
        for word in words:
            if not word.strip() or "/" in word:
                raise ConfigError(f"folders.{name}: must hold names of single folders, got {word!r}")
            side = SIDES.index(name)
            if sides.setdefault(word.casefold(), side) != side:
                raise ConfigError(
                    f"folders.{name}: {word!r} is already a {SIDES[sides[word.casefold()]]} folder; "
                    "a folder has one side"
                )
    return sides


def _by_folder(keys: Any, config: SplitConfig, quote: bool) -> np.ndarray:
    """The side of the outermost folder around each key that `split.folders` names."""
    known = _folder_sides(config.folders)
    folders = pc.replace_substring_regex(pa.array(_plain(keys), pa.string()), "[^/]+$", "").dictionary_encode()
    of_folder = [
        next((known[part] for part in folder.casefold().split("/") if part in known), -1)
        for folder in folders.dictionary.to_pylist()
    ]
    sides = np.array(of_folder, np.int8)[folders.indices.to_numpy()]
    outside = np.flatnonzero(sides < 0)
    if len(outside):
        first = folders.dictionary[folders.indices[int(outside[0])].as_py()].as_py()
        example = f", such as those in {first or 'the root of the archive'}" if quote else ""
        raise SplitError(
            f"split.by=folder: every row must lie in a folder that split.folders names ({', '.join(known)}), but "
            f"{len(outside)} do not{example}; name their folder there, or use split.by=group"
        )
    return sides


def _plain(values: Any) -> Any:
    return values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values
