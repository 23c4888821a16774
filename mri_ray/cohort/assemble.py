"""Prepared rows and labels -> the cohort: which rows are learned from, on which side, and what would leak."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.identity import digest
from mri_ray.cohort import shortcuts
from mri_ray.cohort.columns import flagged
from mri_ray.cohort.groups import contradicting, group
from mri_ray.cohort.labels import Matched
from mri_ray.cohort.lesions import Lesions
from mri_ray.cohort.sources import sources
from mri_ray.cohort.split import (
    SIDES,
    TRAIN,
    VALIDATION,
    Leakage,
    SplitConfig,
    assign,
    group_positions,
    leakage,
    refuse,
)
from mri_ray.records import Flag

# What `assemble` reads of prepared rows, and what labels are matched by.
INDEX = [
    *("row_id", "object_id", "version_id", "uri", "reason", "flags", "pixel_digest"),
    *("patient_key", "study_key", "series_key", "instance_key", "modality", "acquired"),
    *shortcuts.INDEX,
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """The labelled rows: `index` with part and place, and arrays (N,) label int8, group int32, side int8.

    position: where the row's group falls on [0, 1], by the seed and its name. source: position in `sources`. lesion_px:
    float64, pixels of the lesion on the slice, NaN where that is not known; mask_known: bool, whether its mask can be
    learned from. masks_told: what masks told that is wrong.
    The index also tells of each row picture int32 (copies share a number), owner int32 (of known patients and studies,
    else null), path, below the archive's root, whether or not paths may be written anywhere, and told_split, the side
    that labels tell.
    """

    index: pa.Table
    label: np.ndarray
    group: np.ndarray
    side: np.ndarray
    position: np.ndarray
    source: np.ndarray
    sources: list[str]
    lesion_px: np.ndarray
    leakage: Leakage
    unlabelled: int
    labels_without_file: int
    weak: int
    nameless: int
    mask_known: np.ndarray
    masks_told: tuple[str, ...] = ()

    def only(self, kept: np.ndarray, side: np.ndarray) -> "Cohort":
        """Some of the rows, bool (N,), on sides of their own."""
        every = {item.name: getattr(self, item.name) for item in fields(self)}
        arrays = {name: value[kept] for name, value in every.items() if isinstance(value, np.ndarray)} | {"side": side}
        index = self.index.filter(pa.array(kept))
        return replace(self, index=index, leakage=leakage(side, arrays["group"]), **arrays)

    def counts(self) -> dict[str, dict[str, int]]:
        """By side: rows, tumor rows, groups."""
        return {
            name: {
                "rows": int((self.side == code).sum()),
                "tumor": int(self.label[self.side == code].sum()),
                "groups": len(np.unique(self.group[self.side == code])),
            }
            for code, name in enumerate(SIDES)
        }

    def digest(self) -> str:
        """Names the rows, their labels and their sides."""
        row_ids = self.index["row_id"].to_pylist()
        return digest("cohort", *row_ids, self.label.tobytes(), self.side.tobytes(), self.lesion_px.tobytes())

    def with_lesions(self, found: Lesions) -> "Cohort":
        """What masks tell of sizes goes before what labels do."""
        lesion_px = np.where(np.isnan(found.px), self.lesion_px, found.px)
        return replace(self, lesion_px=lesion_px, mask_known=found.known, masks_told=tuple(found.warnings))

    def warnings(self) -> list[str]:
        """What a reader of the figures must know: rows without label, labels without rows, and what leaks."""
        found = []
        if self.unlabelled:
            found.append(f"{self.unlabelled:,} slices have no label and are left out")
        if self.labels_without_file:
            found.append(f"{self.labels_without_file:,} labels name nothing that could be read in the archive")
        if self.nameless:
            found.append(
                f"{self.nameless:,} slices come from DICOM, but neither headers (see `identifiers`) nor labels tell "
                "whose they are: a patient may stand on several sides"
            )
        if self.weak:
            found.append(
                f"{self.weak:,} slices are called tumor by a label of their whole study, series or volume: some may "
                "show none, so figures by slice are worth less"
            )
        found.extend(self.masks_told)
        both = contradicting(self.index["picture"].to_numpy(), self.label)
        if len(both):
            one, other = self.index["uri"].take(pa.array(both[0])).to_pylist()
            found.append(
                f"{len(both):,} pictures are called normal and tumor, such as {one} (normal) and its copy {other} "
                "(tumor); one of these labels is wrong (audit.contradictions in run.json)"
            )
        for code, name in enumerate(SIDES):
            if len(np.unique(self.label[self.side == code])) == 1:
                found.append(f"the {name} side holds one class only: its AUROC cannot be estimated")
        if np.any(self.side == VALIDATION) and not self.leakage.test_rows:
            found.append("the test side is empty: validation chose the bundle, and no figure tells what it is worth")
        if self.leakage.crossing:
            found.append(
                f"this split leaks: {self.leakage.crossing:,} of {self.leakage.groups:,} groups (a patient, or copies "
                f"of one picture) stand on several sides, and {self.leakage.test_rows_with_copy_in_train:,} of "
                f"{self.leakage.test_rows:,} test slices have their group in training; its test figures are no evidence"
            )
        return found


def assemble(
    rows: pa.Table,
    *,
    paths: pa.ChunkedArray,
    matched: Matched,
    key_of: Callable[[str], str | None],
    near: Sequence[tuple[str, str]],
    split: SplitConfig | None,
    seed: int,
    no_sources: Collection[str] = (),
    quote: bool = True,
) -> Cohort:
    """Group and split rows that have a slice (columns INDEX, part, place).

    paths: of the rows, below the archive's root. matched: their labels; rows without one are left out. Rows of one
    patient are those that either the labels or the headers say so of; key_of: what stands in headers' columns for a
    patient that labels tell. near: see `groups.group`. split: None leaves all on one side. no_sources: as of the
    function of that name. quote: whether a message may name a folder.
    Raises SplitError (see `split.refuse`).
    """
    chosen = np.flatnonzero(matched.label >= 0)
    rows, paths = rows.take(chosen), paths.take(chosen)
    told = [matched.patient[i] for i in chosen.tolist()]
    by_header = rows["patient_key"].to_pylist()
    patients = [one or other for one, other in zip(told, by_header, strict=True)]
    keys = {patient: key_of(patient) or patient for patient in set(told) if patient is not None}
    owners = (
        ([None if patient is None else keys[patient] for patient in told], by_header),
        (rows["study_key"].to_pylist(),),
    )
    digests, row_ids = rows["pixel_digest"].to_pylist(), rows["row_id"].to_pylist()
    joinable = ~flagged(rows["flags"], [Flag.BLANK])  # blank pictures are alike without being copies
    groups = group(digests, joinable, *owners, near=near)
    unknown = np.array([name is None for name in patients]) & pc.is_null(rows["study_key"]).to_numpy()
    owner = group([None] * len(digests), joinable, *owners)
    copied = _between(near, digests, np.where(unknown, -1, owner))
    rows = rows.append_column("picture", pa.array(group(digests, joinable, near=copied)))
    rows = rows.append_column("owner", pa.array(owner, mask=unknown))
    rows = rows.append_column("path", paths)
    rows = rows.append_column("told_split", pa.array([matched.split[i] for i in chosen.tolist()], pa.string()))
    source, names = sources(paths, groups, no_sources)
    side = np.full(rows.num_rows, TRAIN, np.int8)
    if split is not None:
        side = assign(
            split,
            seed=seed,
            keys=paths.to_pylist(),
            row_ids=row_ids,
            patients=patients,
            groups=groups,
            quote=quote,
        )
        refuse(split, side, groups, matched.label[chosen])
    found = leakage(side, groups)
    return Cohort(
        index=rows,
        label=matched.label[chosen],
        group=groups,
        side=side,
        position=group_positions(seed, row_ids, patients, groups),
        source=source,
        sources=names,
        lesion_px=matched.lesion_px[chosen],
        leakage=found,
        unlabelled=matched.unlabelled,
        labels_without_file=matched.labels_without_file,
        weak=matched.weak,
        nameless=sum(
            patient is None and modality is not None
            for patient, modality in zip(patients, rows["modality"].to_pylist(), strict=True)
        ),
        mask_known=np.zeros(rows.num_rows, bool),
    )


def _between(near: Sequence[tuple[str, str]], digests: Sequence[str], owner: np.ndarray) -> list[tuple[str, str]]:
    """The near pairs but those within one patient or study, whose slices side by side are alike without being copies.

    owner: (N,), -1 where it is not known.
    """
    whose: dict[str, int] = {}
    for one, number in zip(digests, owner.tolist(), strict=True):
        if whose.setdefault(one, number) != number:
            whose[one] = -1
    return [(one, other) for one, other in near if whose.get(one, -1) < 0 or whose[one] != whose.get(other, -1)]
