"""Look-up tables of DICOM: of the modality, and of palettes, plain and segmented.

Source: DICOM PS3.3, C.11.1 (modality LUT), C.7.6.3.1.5 and C.7.9.2 (palettes).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """entries: what stored values from `first` on become; those below and above become the first and the last."""

    entries: np.ndarray
    first: int

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        places = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


def modality_table(item: DataSet, *, signed: bool) -> Table:
    """The table of an item of the Modality LUT Sequence; entries are uint16. Raises Refused for a damaged one."""
    count, first, _ = _descriptor(item, "LUTDescriptor", signed=signed)
    return Table(entries=_entries(item, "LUTData", count), first=first)


def palette(dataset: DataSet, *, signed: bool) -> Table:
    """The palette of an image; entries are uint8 (n, 3). Raises Refused for a damaged or missing one.

    Of 16 bits the upper 8 count, unless no entry uses them: then they were meant to be 8.
    """
    columns = []
    first = 0
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        count, first, bits = _descriptor(dataset, f"{name}Descriptor", signed=signed)
        segmented = dataset.raw(f"Segmented{name}Data")
        if segmented:
            entries = _segments(segmented, count, bits, dataset.syntax.order)
        else:
            entries = _entries(dataset, f"{name}Data", count)
        columns.append(entries)
    if len({len(column) for column in columns}) != 1:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a palette with colours of different lengths")
    wide = np.stack(columns, axis=-1)
    return Table(entries=(wide >> 8 if wide.max() > 0xFF else wide).astype(np.uint8), first=first)


def _descriptor(dataset: DataSet, keyword: str, *, signed: bool) -> tuple[int, int, int]:
    """Number of entries, the stored value of the first, bits of an entry."""
    raw = dataset.raw(keyword)
    if raw is None or len(raw) != 6:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {keyword} is {'absent' if raw is None else 'damaged'}")
    count, _, bits = struct.unpack(dataset.syntax.order + "3H", raw)
    (first,) = struct.unpack_from(dataset.syntax.order + ("h" if signed else "H"), raw, 2)
    return count or 0x10000, first, bits


def _entries(dataset: DataSet, keyword: str, count: int) -> np.ndarray:
    """uint16 (count,); entries of 8 bits are packed, or stand in 16."""
    raw = dataset.raw(keyword) or b""
    order = dataset.syntax.order
    if len(raw) >= 2 * count:
        return np.frombuffer(raw, order + "u2", count).astype(np.uint16)
    if len(raw) < count:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {keyword} holds {len(raw)} bytes for {count} entries")
    packed = np.frombuffer(raw, np.uint8)
    if order == ">" and dataset.kind(keyword) != "OB" and not len(packed) % 2:
        packed = packed.reshape(-1, 2)[:, ::-1].ravel()  # the bytes of each word stand swapped
    return packed[:count].astype(np.uint16)


def _segments(raw: bytes, count: int, bits: int, order: str) -> np.ndarray:
    """uint16 (count,) from segments: lists, straight lines, and copies of segments before."""
    wide = bits > 8
    words = np.frombuffer(raw[: len(raw) & ~1], order + "u2") if wide else np.frombuffer(raw, np.uint8)
    pieces: list[np.ndarray] = []
    total = position = last = 0
    while total < count:
        kind, length = _opening(words, position)
        if kind == _INDIRECT:
            places = _places(words, _offset(words, position + 2, wide=wide), length)
            position += 4 if wide else 6
        else:
            places, position = iter((position,)), _behind(words, position)
        for place in places:
            piece = _segment(words, place, last, begun=bool(pieces))
            pieces.append(piece)
            total, last = total + len(piece), int(piece[-1])
            if total >= count:
                break
    return np.concatenate(pieces)[:count].astype(np.uint16)


def _opening(words: np.ndarray, position: int) -> tuple[int, int]:
    """Kind and length of the segment at `position`; each yields something, so that no palette takes for ever."""
    if position + 2 > len(words):
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a segmented palette that ends too early")
    kind, length = int(words[position]), int(words[position + 1])
    if kind not in (_DISCRETE, _LINEAR, _INDIRECT) or not length:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a segmented palette that is damaged")
    return kind, length


def _behind(words: np.ndarray, position: int) -> int:
    kind, length = _opening(words, position)
    if kind == _INDIRECT:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a segmented palette that copies copies")
    return position + 2 + (length if kind == _DISCRETE else 1)


def _places(words: np.ndarray, start: int, number: int) -> Iterator[int]:
    for _ in range(number):
        yield start
        start = _behind(words, start)


def _offset(words: np.ndarray, position: int, *, wide: bool) -> int:
    """Where the copied segments begin, in words; the file counts bytes."""
    parts = words[position : position + (2 if wide else 4)]
    offset = sum(int(part) << (number * (16 if wide else 8)) for number, part in enumerate(parts))
    return offset // 2 if wide else offset


def _segment(words: np.ndarray, position: int, last: int, *, begun: bool) -> np.ndarray:
    """The entries of a list or a line; a line goes on from the last entry."""
    kind, length = _opening(words, position)
    values = words[position + 2 : _behind(words, position)]
    if len(values) < (length if kind == _DISCRETE else 1) or (kind == _LINEAR and not begun):
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a segmented palette that is damaged")
    if kind == _DISCRETE:
        return values
    return np.rint(np.linspace(last, int(values[0]), length + 1)[1:])
