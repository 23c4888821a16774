"""Prepared rows and labels -> the cohort: which rows are learned from, on which side, and what would leak."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.identity import digest
from mri_ray.cohort.groups import group
from mri_ray.cohort.labels import match
from mri_ray.cohort.split import SIDES, Leakage, SplitConfig, assign, leakage, refuse
from mri_ray.prepare.objects import joinable

INDEX = ["row_id", "object_id", "version_id", "uri", "reason", "flags", "pixel_digest"]  # what `assemble` reads


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """The labelled rows: `index` with part and place, and arrays (N,) label int8, group int32, side int8."""

    index: pa.Table
    label: np.ndarray
    group: np.ndarray
    side: np.ndarray
    leakage: Leakage
    unlabelled: int
    labels_without_file: int

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
        return digest("cohort", *row_ids, self.label.tobytes(), self.side.tobytes())

    def warnings(self) -> list[str]:
        """What a reader of the figures must know: rows without label, labels without rows, and what leaks."""
        found = []
        if self.unlabelled:
            found.append(f"{self.unlabelled:,} slices have no label and are left out")
        if self.labels_without_file:
            found.append(f"{self.labels_without_file:,} labels name nothing that could be read in the archive")
        for code, name in enumerate(SIDES):
            if len(np.unique(self.label[self.side == code])) == 1:
                found.append(f"the {name} side holds one class only: its AUROC cannot be estimated")
        if self.leakage.crossing:
            found.append(
                f"this split leaks: {self.leakage.crossing:,} of {self.leakage.groups:,} groups (a patient, or copies "
                f"of one picture) stand on several sides, and {self.leakage.test_rows_with_copy_in_train:,} of "
                f"{self.leakage.test_rows:,} test slices have their group in training; its test figures are no evidence"
            )
        return found


def keys(index: pa.Table, archive_uri: str) -> pa.ChunkedArray:
    """The keys of the rows, below the archive's root."""
    return pc.utf8_slice_codeunits(index["uri"], start=len(archive_uri) + 1)


def assemble(index: pa.Table, *, archive_uri: str, labels: pa.Table, split: SplitConfig, seed: int) -> Cohort:
    """Join rows (columns INDEX, part, place) to labels, group and split them.

    Rows without slice or label are left out. Raises LabelError and SplitError (see `labels.match`, `split.refuse`).
    """
    usable = index.filter(pc.is_null(index["reason"]))
    places = keys(usable, archive_uri)
    matched = match(places, labels)
    chosen = np.flatnonzero(matched.label >= 0)
    rows = usable.take(chosen)
    patients = [matched.patient[i] for i in chosen.tolist()]
    row_ids = rows["row_id"].to_pylist()
    groups = group(patients, rows["pixel_digest"].to_pylist(), joinable(rows["flags"]))
    side = assign(
        split, seed=seed, keys=places.take(chosen).to_pylist(), row_ids=row_ids, patients=patients, groups=groups
    )
    found = leakage(side, groups)
    refuse(split, side, groups)
    return Cohort(
        index=rows,
        label=matched.label[chosen],
        group=groups,
        side=side,
        leakage=found,
        unlabelled=matched.unlabelled,
        labels_without_file=matched.labels_without_file,
    )
