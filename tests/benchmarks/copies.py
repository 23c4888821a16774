"""Copies that are found in the public sets, against what is known of these.

    python -m tests.benchmarks.copies

in the project's folder, with MRI_DATA set. Pairs of slices: of one `duplicate_group` of `kaggle.csv`, found and missed;
joined though of two `leak_free_group`s; of LGG joined though of two patients. Patients are not told to the search.
"""

import os
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.leaks import Archive


def pairs(number: np.ndarray) -> np.ndarray:
    """Which of the pairs of N rows have the same number, bool (N, N), each pair once."""
    return np.triu(number[:, None] == number[None], 1)


def beyond(found: np.ndarray, known: np.ndarray) -> set[tuple[str, str]]:
    """Pairs of known groups that are joined by what was found."""
    rows = np.nonzero(pairs(found) & ~pairs(known))
    return {(min(pair), max(pair)) for pair in zip(*(known[ends].tolist() for ends in rows), strict=True)}


def main() -> None:
    folder = Path(os.environ["MRI_DATA"])
    for name, same, apart in (("kaggle", "duplicate_group", "leak_free_group"), ("lgg", None, "patient_id")):
        archive = Archive.load(folder, name)
        started = time.process_time()
        near = archive.near()
        seconds = time.process_time() - started
        found = archive.groups(near, patients=False)
        if same is not None:
            known = pairs(archive.told[same])
            print(f"{name}: {known.sum():,} pairs of one {same}, {(known & ~pairs(found)).sum():,} missed")
        wrong = (pairs(found) & ~pairs(archive.told[apart])).sum()
        joined = len(beyond(found, archive.told[apart]))
        print(
            f"{name}: {wrong:,} pairs of two {apart}s joined, from {joined:,} pairs of these; {seconds:.0f} s of a core"
        )


if __name__ == "__main__":
    main()
