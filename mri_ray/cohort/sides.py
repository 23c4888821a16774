"""Which pictures a bundle has seen, and on which side: kept beside it, so that a later scoring can say so."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.storage import Location
from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.split import SIDES

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
