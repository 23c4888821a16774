"""Which pictures a bundle has seen, and on which side: kept beside it, so that a later scoring can say so."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.storage import Location
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.split import SIDES, TRAIN, VALIDATION

NAME = "sides.parquet"  # in the bundle's folder
UNSEEN = "unseen"


def table(cohort: Cohort) -> pa.Table:
    """pixel_digest string, side int8 (position in SIDES): each picture once.

    A picture that stands on several sides counts for the most spoilt: what was trained on is no test.
    """
    sides = pa.table({"pixel_digest": cohort.index["pixel_digest"], "side": pa.array(cohort.side)})
    return sides.group_by("pixel_digest").aggregate([("side", "min")]).rename_columns(["pixel_digest", "side"])


def of_pictures(digests: pa.ChunkedArray, bundle: Location) -> np.ndarray:
    """The side of each picture (N,), `unseen` where the bundle's training did not hold it."""
    if not bundle.exists(NAME):
        return np.full(len(digests), UNSEEN)
    known = bundle.read_table(NAME)
    place = pc.index_in(digests, value_set=known["pixel_digest"]).fill_null(-1).to_numpy()
    codes = np.append(known["side"].to_numpy(), len(SIDES))
    return np.array([*SIDES, UNSEEN])[codes[place]]


def of_groups(side: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The side of each picture (N,), where those unseen take that of a patient's others.

    Whoever learned from some slices of a patient has not been tested on the rest. side: as `of_pictures` gives it.
    group: whose picture each is, int (N,), -1 where it is not known.
    """
    found = side.copy()
    known = group >= 0
    for name in (VALIDATION, TRAIN):  # the most spoilt last
        of_it = np.unique(group[known & (side == SIDES[name])])
        found[np.isin(group, of_it) & (side == UNSEEN)] = SIDES[name]
    return found
