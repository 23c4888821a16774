"""A leak detector: labels that mean nothing are learned only from copies.

    python -m tests.benchmarks.leaks

in the project's folder, with MRI_DATA set. Labels are permuted over what truly belongs together (`leak_free_group` of
`kaggle.csv`), many times; a model that remembers pictures (the nearest neighbours of a thumbnail) is tested on splits.
Where a split is honest, its AUROC is 0.5 on average. Prints mean and 99 % interval for the naive split (slice by
slice), a split by exact copies and patients only, and one by the groups that mri_ray finds.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mri_ray import metrics
from mri_ray.cohort import copies, thumbnails
from mri_ray.cohort.groups import group
from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.prepare.evidence import evidence_of
from mri_ray.prepare.objects import pixel_digest
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import THUMBNAIL_SIDE, Flag, Slice

NEIGHBOURS, TESTED = 3, 0.3
_Z99 = 2.576


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """Slices of the public set `name`, with what is told of each (`told`, by column).

    thumbnails: uint8 (N, side, side). digest, blank: (N,).
    """

    told: dict[str, np.ndarray]
    thumbnails: np.ndarray
    digest: np.ndarray
    blank: np.ndarray

    @classmethod
    def load(cls, folder: Path, name: str) -> "Archive":
        with (folder / f"{name}.csv").open(newline="") as file:
            entries = list(csv.DictReader(file))
        found = [_slice(folder / name / entry["path"]) for entry in entries]
        prepared = [prepare(item, PrepareConfig(size=32)) for item in found]
        small = b"".join(evidence_of(one.whole)["thumbnail"] for one in prepared)
        told = {column: np.array([entry[column] for entry in entries]) for column in entries[0]}
        told |= {"mode": np.array([str(item.mode) for item in found])}
        told |= {"height": np.array([item.pixels.shape[0] for item in found])}
        return cls(
            told=told | {"width": np.array([item.pixels.shape[1] for item in found])},
            thumbnails=np.frombuffer(small, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE),
            digest=np.array([pixel_digest(item) for item in found]),
            blank=np.array([Flag.BLANK in one.flags for one in prepared]),
        )

    @property
    def patients(self) -> list[str | None]:
        return [patient or None for patient in self.told["patient_id"].tolist()]

    def groups(self, near: Sequence[tuple[str, str]] = (), *, patients: bool = True) -> np.ndarray:
        """As a training would find them, int32 (N,); near: see `near`."""
        owners = [(self.patients,)] if patients else []
        return group(self.digest.tolist(), ~self.blank, *owners, near=near)

    def near(self) -> list[tuple[str, str]]:
        """Pairs of digests of near copies."""
        _, first = np.unique(self.digest, return_index=True)
        rows = np.sort(first[~self.blank[first]])
        found = copies.find(self.thumbnails[rows])
        names = self.digest[rows]
        return list(zip(names[found.one].tolist(), names[found.other].tolist(), strict=True))


def areas(
    vectors: np.ndarray, unit: np.ndarray, split: np.ndarray, *, splits: int = 10, permutations: int = 40
) -> np.ndarray:
    """AUROC of nearest neighbours for labels that are permuted over units, float64 (splits, permutations).

    NaN where all that is tested happens to be of one class.
    vectors: float32 (N, K), unit length. unit: (N,), what truly belongs together. split: (N,), what stays on one side.
    """
    names, number = np.unique(unit, return_inverse=True)
    half = np.arange(len(names)) % 2
    found = np.empty((splits, permutations))
    for seed in range(splits):
        rng = np.random.default_rng(seed)
        sets = np.unique(split)
        test = np.isin(split, rng.permutation(sets)[: round(TESTED * len(sets))])
        alike = vectors[test] @ vectors[~test].T
        nearest = np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        weight = 1 / (1.001 - np.take_along_axis(alike, nearest, axis=1))
        for turn in range(permutations):
            label = rng.permutation(half)[number]
            score = (weight * label[~test][nearest]).sum(axis=1) / weight.sum(axis=1)
            found[seed, turn] = metrics.auroc(label[test], score)
    return found


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over all permutations, and its 99 % interval; (splits, permutations)."""
    values = values[np.isfinite(values)]
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(values.size)
    return float(mean), float(mean - _Z99 * error), float(mean + _Z99 * error)


def _slice(path: Path) -> Slice:
    (item,) = read(io.BytesIO(path.read_bytes()), path.name, DecodeConfig())
    assert isinstance(item, Slice)
    return item


def main() -> None:
    archive = Archive.load(Path(os.environ["MRI_DATA"]), "kaggle")
    vectors = thumbnails.vectors(archive.thumbnails)
    splits = {
        "slice by slice": np.arange(len(vectors)),
        "by exact copies and patients": archive.groups(),
        "by the groups that are found": archive.groups(archive.near()),
    }
    for name, split in splits.items():
        mean, low, high = interval(areas(vectors, archive.told["leak_free_group"], split))
        print(f"{name}: AUROC of permuted labels {mean:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
