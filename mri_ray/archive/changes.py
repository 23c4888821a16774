"""How an archive differs between two listings of its manifest, by object rather than by version."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.manifest import Manifest
from mri_ray.records import MANIFEST

_IDS = ["version_id", "object_id"]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Objects that came, that hold something else than before, and that went."""

    new: int
    changed: int
    deleted: int


def between(before: Manifest, after: Manifest) -> Changes:
    """before, after: two views of one manifest. Reads the ids of all shards where something went or came back."""
    known = before.first_shards()
    was_gone, is_gone = before.gone(), after.gone()
    added = [shard for shard in after.first_shards() if shard not in set(known)]
    if not known:
        return Changes(new=sum(shard.objects for shard in added) - len(is_gone), changed=0, deleted=0)
    went = is_gone.filter(pc.invert(pc.is_in(is_gone, value_set=was_gone)))
    back = was_gone.filter(pc.invert(pc.is_in(was_gone, value_set=is_gone)))
    came, left = [MANIFEST.empty_table().select(_IDS)], [MANIFEST.empty_table().select(_IDS)]
    fresh = after.tables(added, _IDS)
    came += [table.filter(pc.invert(pc.is_in(table["version_id"], value_set=is_gone))) for table in fresh]
    for table in before.tables(known if len(went) or len(back) else [], _IDS):
        left.append(table.filter(pc.is_in(table["version_id"], value_set=went)))
        came.append(table.filter(pc.is_in(table["version_id"], value_set=back)))
    arrived, departed = (pc.unique(pa.concat_tables(tables)["object_id"]) for tables in (came, left))
    changed = pc.sum(pc.is_in(departed, value_set=arrived), min_count=0).as_py()
    return Changes(new=len(arrived) - changed, changed=changed, deleted=len(departed) - changed)
