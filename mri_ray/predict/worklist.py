"""Studies -> the order in which a reader would look at them."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mri_ray.cohort.columns import whole
from mri_ray.records import SCHEMA_VERSION

# One row a study, the most suspicious first; those without an answer stand last.
WORKLIST = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("study_key", pa.string(), nullable=False),
        pa.field("patient_key", pa.string()),
        pa.field("acquired", pa.date32()),
        pa.field("probability", pa.float32()),
        pa.field("decision", pa.string()),
        pa.field("slices", pa.int32(), nullable=False),
        pa.field("positive", pa.int32(), nullable=False),  # slices
        pa.field("worst_probability", pa.float32()),  # of the slice that is suspected most
        pa.field("worst_uri", pa.string()),
        pa.field("worst_frame", pa.int32()),
        pa.field("failed", pa.int32(), nullable=False),  # slices that could not be read
        pa.field("flags", pa.list_(pa.string()), nullable=False),
    ],
    metadata={"mri_ray.table": "worklist", "mri_ray.version": str(SCHEMA_VERSION)},
)


def worklist(studies: pa.Table, slices: pa.Table) -> pa.Table:
    """STUDIES and the slices with an answer (row_id, uri, frame) -> WORKLIST. Equal probabilities: by study_key."""
    order = [("probability", "descending"), ("study_key", "ascending")]
    ranked = studies.take(pc.sort_indices(studies, order))  # null stands at the end
    place = pc.index_in(whole(ranked["worst_row_id"]), value_set=whole(slices["row_id"]))
    found: dict[str, Any] = {name: ranked[name] for name in WORKLIST.names if name in ranked.column_names}
    found["rank"] = pa.array(range(1, ranked.num_rows + 1), pa.int32())
    found["worst_uri"] = whole(slices["uri"]).take(place)
    found["worst_frame"] = whole(slices["frame"]).take(place)
    return pa.table([found[name] for name in WORKLIST.names], schema=WORKLIST)


def as_csv(table: pa.Table) -> bytes:
    """A worklist as CSV with a header; flags are parted by blanks."""
    flags = pc.binary_join(whole(table["flags"]), " ")
    plain = table.set_column(table.schema.get_field_index("flags"), "flags", flags)
    sink = io.BytesIO()
    pyarrow.csv.write_csv(plain, sink)
    return sink.getvalue()
