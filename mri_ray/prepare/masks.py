"""Masks of lesions -> what lies beside prepared rows: the same crop and size, packed."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.several import Archive
from mri_ray.decode.member_names import may_be_sidecar
from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.prepare.geometry import Box, fit, squared, squared_shape
from mri_ray.records import Slice

UNREADABLE, OTHER_SIZE = "unreadable", "of another size"

# One row for each prepared row, in its order. mask: size x size bits, row by row, null where nothing is marked or no
# mask was found. lesion_px: marked pixels of the mask as it is stored, null where none was found. fault: why it is not
# used.
SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("mask", pa.binary()),
        pa.field("lesion_px", pa.int64()),
        pa.field("fault", pa.string()),
    ]
)
COLUMNS = ["row_id", "object_id", "frame", "reason", "width", "height", "spacing_mm", "crop"]  # of prepared rows

_Known = tuple[bytes | None, int | None, str | None]  # mask, lesion_px, fault
_EXTENSION = r"(\.nii)?\.[^./0-9][^./]*$"  # a number is none: I.001, 1.2.840.7


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskNames:
    """The masks below a location. keys: string (M,), ascending."""

    keys: pa.Array

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        keys = [key for key in reversed(self.keys.to_pylist()) if not may_be_sidecar(key)]
        return {re.sub(_EXTENSION, "", key): key for key in keys}  # the first of a name counts

    def of_objects(self, keys: Sequence[str]) -> list[str | None]:
        """The mask of each object: of the same name, or with `_mask` behind it; whatever their extensions."""
        stems = [re.sub(_EXTENSION, "", key) for key in keys]
        return [self._by_stem.get(stem) or self._by_stem.get(f"{stem}_mask") for stem in stems]


def masks_of(rows: pa.Table, keys: dict[str, str], masks: Archive, decode: DecodeConfig, size: int) -> pa.Table:
    """What is known of the lesions of prepared rows (COLUMNS) -> SCHEMA.

    keys: by object_id the key of its mask below `masks`. A volume's is that of all its slices.
    """
    found: dict[str, _Known] = dict.fromkeys(rows["row_id"].to_pylist(), (None, None, None))
    by_object: dict[str, list[dict[str, Any]]] = {}
    for row in rows.filter(pc.is_null(rows["reason"])).to_pylist():
        if row["object_id"] in keys:
            by_object.setdefault(row["object_id"], []).append(row)
    bodies = masks.read_many(keys[object_id] for object_id in by_object)
    for (object_id, entries), body in zip(by_object.items(), bodies, strict=True):
        slices = {} if isinstance(body, OSError) else _slices(body, masks.uri_of(keys[object_id]), decode)
        for row in entries:
            found[row["row_id"]] = _one(slices.get(row["frame"]), row, size)
    columns = [list(column) for column in zip(*found.values(), strict=True)] if found else [[], [], []]
    return pa.table([list(found), *columns], schema=SCHEMA)


def _slices(body: bytes, uri: str, decode: DecodeConfig) -> dict[int, np.ndarray]:
    """Where each frame is marked, bool (H, W)."""
    items: Iterator = read(io.BytesIO(body), uri, decode)
    return {item.frame: item.pixels > _dark(item) for item in items if isinstance(item, Slice)}


def _dark(item: Slice) -> float:
    """The level above which a mask marks: 0, but where JPEG has spread its edges half of what it marks with."""
    return float(item.pixels.max()) / 2 if item.stored == "jpeg" else 0.0


def _one(marked: np.ndarray | None, row: dict[str, Any], size: int) -> _Known:
    if marked is None:
        return None, None, UNREADABLE
    if marked.shape != (row["height"], row["width"]):
        return None, None, OTHER_SIZE
    count = int(marked.sum())
    if not count:
        return None, 0, None
    return packed(prepared_mask(marked, row["spacing_mm"], tuple(row["crop"]), size)), count, None


def prepared_mask(
    marked: np.ndarray, spacing_mm: Sequence[float] | None, crop: tuple[int, ...], size: int
) -> np.ndarray:
    """Bool (H, W) -> bool (size, size), as `prepare` has cropped and fitted its slice. crop: of the squared picture."""
    spacing = None if spacing_mm is None else (spacing_mm[0], spacing_mm[1])
    grey = squared(marked.astype(np.uint8) * np.uint8(255), spacing)
    top, left, bottom, right = crop
    return fit(np.ascontiguousarray(grey[top:bottom, left:right]), size) >= 128


def packed(mask: np.ndarray) -> bytes:
    """Bool (size, size) -> its bits."""
    return np.packbits(mask).tobytes()


def unpacked(bits: bytes | None, size: int) -> np.ndarray:
    """uint8 (size, size), 255 where lesion is; None: nowhere."""
    if bits is None:
        return np.zeros((size, size), np.uint8)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=size * size).reshape(size, size) * np.uint8(255)


def pixels_each(crop: Box, width: int, height: int, spacing_mm: Sequence[float] | None, size: int) -> float:
    """How many pixels of a slice one pixel of its prepared picture stands for. crop: of the squared picture."""
    top, left, bottom, right = crop
    stretch = 1.0
    if spacing_mm is not None:
        tall, wide = squared_shape((height, width), (spacing_mm[0], spacing_mm[1]))
        stretch = height * width / (tall * wide)
    return (max(bottom - top, right - left) / size) ** 2 * stretch
