"""The functional groups of enhanced multi-frame images: what is said once for all frames, and of each frame.

Source: DICOM PS3.3, C.7.6.16.
"""

from dataclasses import dataclass

from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

_SHARED = "SharedFunctionalGroupsSequence"
_PER_FRAME = "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """shared, per_frame: items of groups; empty for images that are not enhanced."""

    shared: DataSet | None
    per_frame: tuple[DataSet, ...]

    def find(self, frame: int, keyword: str) -> DataSet | None:
        """The item of a frame's macro: the frame's own, else the shared one. Raises Refused for a damaged one."""
        own = self.per_frame[frame] if frame < len(self.per_frame) else None
        for group in (own, self.shared):
            if group is not None and (item := next(group.items(keyword), None)) is not None:
                return item
        return None

    def check(self, frame: int) -> None:
        """Raises Refused for a frame of which nothing is said while something is said of others."""
        if self.per_frame and frame >= len(self.per_frame):
            raise Refused(Reason.DAMAGED_HEADER, f"DICOM: functional groups of {len(self.per_frame)} frames only")


def groups_of(dataset: DataSet, frames: int) -> Groups:
    """At most as many items as there are frames. Raises Refused for a damaged sequence."""
    shared = next(dataset.items(_SHARED), None)
    items = dataset.items(_PER_FRAME)
    return Groups(shared=shared, per_frame=tuple(item for _, item in zip(range(frames), items, strict=False)))
