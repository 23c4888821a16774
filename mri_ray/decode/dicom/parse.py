"""Bytes -> the data set and its transfer syntax: declared, or settled by the content when only one can be meant.

Source: DICOM PS3.10, chapter 7 (meta header), PS3.5, chapter 10 and annex A (transfer syntaxes).
"""

import zlib
from dataclasses import dataclass

from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.elements import DataSet, fragments, walk, walk_meta
from mri_ray.decode.dicom.heads import BIG, EXPLICIT, IMPLICIT
from mri_ray.decode.dicom.pixels import pixels_in
from mri_ray.decode.dicom.recognise import MARK, MARK_AT, opens
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

_NATIVE = {EXPLICIT: ExplicitVRLittleEndian, IMPLICIT: ImplicitVRLittleEndian, BIG: ExplicitVRBigEndian}
_HEAD_BYTES = 4096
_OF_GE = UID("1.2.840.113619.5.2")  # implicit little endian, but for its pixels, which are big endian
_OF_PHILIPS = UID("1.3.46.670589.33.1.4.1")  # explicit little endian
_SOF = {0xC0: JPEGBaseline8Bit, 0xC1: JPEGExtended12Bit, 0xC3: JPEGLossless, 0xF7: JPEGLSLossless}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """dataset: walked, values not yet read. syntax: the transfer syntax of its pixels. meta: None without one."""

    dataset: DataSet
    syntax: UID
    meta: DataSet | None


def parse(data: bytes, config: DecodeConfig) -> Parsed:
    """Raises Refused: TRUNCATED, DAMAGED_HEADER, UNCERTAIN_SYNTAX or, for what inflates too far, TOO_MANY_BYTES."""
    start = MARK_AT + len(MARK) if data[MARK_AT : MARK_AT + len(MARK)] == MARK else 0
    meta = walk_meta(data, start) if data[start : start + 2] == b"\x02\0" else None
    declared = None
    if meta is not None:
        if meta.fault is not None:
            raise meta.fault
        start = meta.end
        name = values.uid(meta, "TransferSyntaxUID")
        declared = uid_of(name) if name else None
    if declared == DeflatedExplicitVRLittleEndian and not opens(data[start : start + _HEAD_BYTES], EXPLICIT):
        data, start = _inflate(data[start:], config.max_bytes), 0
    if start >= len(data):
        raise Refused(Reason.TRUNCATED, "DICOM: nothing follows its meta header")
    dataset = _settled(data, start) if declared is None else _declared(data, start, declared)
    if not dataset.elements and dataset.fault is None:
        raise Refused(Reason.TRUNCATED, "DICOM: an empty data set")
    if dataset.fault is not None and not dataset.cut:
        raise dataset.fault
    return Parsed(dataset=dataset, syntax=_of_pixels(dataset, declared), meta=meta)


def uid_of(name: str) -> UID:
    """pydicom's form of a unique identifier, unchecked: it would warn of any that breaks a rule."""
    return UID(name, validation_mode=IGNORE)


def _declared(data: bytes, start: int, declared: UID) -> DataSet:
    """The data set as its meta header has it; but where the first elements can only be read otherwise, as they are."""
    syntax = {ImplicitVRLittleEndian: IMPLICIT, ExplicitVRBigEndian: BIG}.get(declared, EXPLICIT)
    head = data[start : start + _HEAD_BYTES]
    if not opens(head, syntax):
        others = [other for other in _NATIVE if other != syntax and opens(head, other)]
        if len(others) == 1:
            return walk(data, start, others[0])
    return walk(data, start, syntax)


def _settled(data: bytes, start: int) -> DataSet:
    """The data set in the one syntax in which it can be read; raises Refused if there is not exactly one."""
    found = [walk(data, start, syntax, strict=True) for syntax in _NATIVE]
    whole = [dataset for dataset in found if dataset.fault is None and _makes_sense(dataset)]
    if len(whole) == 1:
        return whole[0]
    head = data[start : start + _HEAD_BYTES]
    begun = [dataset for dataset in found if opens(head, dataset.syntax) and dataset.fault is not None]
    if not whole and len(begun) == 1 and begun[0].fault is not None:
        if begun[0].cut and _makes_sense(begun[0]):
            return begun[0]
        raise begun[0].fault
    raise Refused(Reason.UNCERTAIN_SYNTAX, f"{len(whole)} of {len(found)} transfer syntaxes fit the content")


def _makes_sense(dataset: DataSet) -> bool:
    """Whether what every object, or every image, must say is there."""
    sop_class = values.uid(dataset, "SOPClassUID")
    if sop_class is not None and uid_of(sop_class).type == "SOP Class":
        return True
    sizes = [values.whole(dataset, name) for name in ("Rows", "Columns", "BitsAllocated")]
    return all(size is not None and 0 < size <= 0xFFFF for size in sizes)


def _of_pixels(dataset: DataSet, declared: UID | None) -> UID:
    """The syntax that the pixels are in, from what is declared and from how they stand there."""
    native = _NATIVE[dataset.syntax]
    element = pixels_in(dataset)
    if declared in (_OF_GE, _OF_PHILIPS) and element is not None and not element.undefined:
        return ExplicitVRBigEndian if declared == _OF_GE else native
    if declared is not None and (element is None or not declared.is_transfer_syntax):
        return declared
    if element is None or not element.undefined:
        return native  # decompressed, perhaps, by something that left the meta header as it was
    return declared if declared is not None and declared.is_compressed else _codec(dataset, element.start, element.end)


def _codec(dataset: DataSet, start: int, stop: int) -> UID:
    """The encoding that the first fragment of encapsulated pixels begins like."""
    found, _, _ = fragments(dataset.data, start, stop)
    if len(found) < 2:
        raise Refused(Reason.TRUNCATED, "DICOM: its pixels hold no fragment")
    begin, end = found[1]
    head = dataset.data[begin : min(end, begin + _HEAD_BYTES)]
    if head.startswith(b"\xff\x4f\xff\x51"):
        return JPEG2000Lossless
    if head.startswith(b"\xff\xd8") and (syntax := _jpeg(head)) is not None:
        return syntax
    if _is_rle(head, end - begin):
        return RLELossless
    raise Refused(Reason.UNCERTAIN_SYNTAX, "its compressed pixels begin like no encoding known here")


def _jpeg(head: bytes) -> UID | None:
    """By the first start-of-frame marker."""
    position = 2
    while position + 4 <= len(head) and head[position] == 0xFF:
        if head[position + 1] in _SOF:
            return _SOF[head[position + 1]]
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None


def _is_rle(head: bytes, length: int) -> bool:
    """Whether a fragment begins with the table of up to 15 ascending offsets (PS3.5, G.5)."""
    table = [int.from_bytes(head[at : at + 4], "little") for at in range(0, 64, 4)]
    count, offsets = table[0], table[1:]
    if len(head) < 64 or not 1 <= count <= 15 or offsets[0] != 64 or any(offsets[count:]):
        return False
    used = offsets[:count]
    return used == sorted(set(used)) and used[-1] < length


def _inflate(packed: bytes, limit: int) -> bytes:
    """A deflated data set, of at most `limit` bytes."""
    fault = None
    for bits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):  # as the standard has it; as some write it, with zlib's header
        inflater = zlib.decompressobj(wbits=bits)
        try:
            data = inflater.decompress(packed, limit + 1)
        except zlib.error as exc:
            fault = fault or exc
            continue
        if len(data) > limit:
            raise Refused(Reason.TOO_MANY_BYTES, f"DICOM: it inflates beyond {limit} bytes, which are allowed")
        if not inflater.eof:
            raise Refused(Reason.TRUNCATED, "DICOM: its deflated data set ends too early")
        return data
    raise Refused(Reason.DAMAGED_HEADER, "DICOM: its deflated data set is damaged") from fault
