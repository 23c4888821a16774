"""How the head of an element is written: its tag, the kind of its value (VR), its length.

Source: DICOM PS3.5, 7.1.
"""

import struct
from dataclasses import dataclass

from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})  # 32 bits of length
SHORT = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM"}
    | {"UI", "UL", "US"}
)
KINDS = {vr.encode(): (vr, vr in LONG) for vr in LONG | SHORT}
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
_HEADS = {order: struct.Struct(order + "HHI") for order in "<>"}
_LENGTHS = {order: (struct.Struct(order + "H"), struct.Struct(order + "I")) for order in "<>"}


@dataclass(frozen=True, slots=True)
class Syntax:
    """How elements are written. order: of bytes, as `struct` names it."""

    explicit: bool
    order: str


IMPLICIT = Syntax(explicit=False, order="<")
EXPLICIT = Syntax(explicit=True, order="<")
BIG = Syntax(explicit=True, order=">")


def head(data: bytes, position: int, stop: int, syntax: Syntax, *, strict: bool) -> tuple[int, str, int, int]:
    """Tag, kind, length and start of the value of the element at `position`."""
    if position + 8 > stop:
        raise truncated("within an element")
    group, number, length = _HEADS[syntax.order].unpack_from(data, position)
    tag = group << 16 | number
    if not syntax.explicit or group == 0xFFFE:
        return tag, "", length, position + 8
    vr, long = KINDS.get(data[position + 4 : position + 6], ("", False))
    if long:
        if position + 12 > stop:
            raise truncated("within an element")
        return tag, vr, _LENGTHS[syntax.order][1].unpack_from(data, position + 8)[0], position + 12
    if vr:
        return tag, vr, _LENGTHS[syntax.order][0].unpack_from(data, position + 6)[0], position + 8
    if strict:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: a kind of value that the standard does not know")
    return _head_of_unknown(data, position, stop, syntax, tag)


def _head_of_unknown(data: bytes, position: int, stop: int, syntax: Syntax, tag: int) -> tuple[int, str, int, int]:
    """The same where the kind is none of the standard's: its length may stand in three ways, and one must fit."""
    (short,) = struct.unpack_from(syntax.order + "H", data, position + 6)
    (implicit,) = struct.unpack_from(syntax.order + "I", data, position + 4)
    options = {(short, position + 8), (implicit, position + 8)}
    if position + 12 <= stop and short == 0:
        options.add((struct.unpack_from(syntax.order + "I", data, position + 8)[0], position + 12))
    fitting = [option for option in options if _continues(data, sum(option), stop, syntax, tag)]
    if not fitting and _continues(data, position + 8 + implicit, stop, Syntax(explicit=False, order=syntax.order), tag):
        return tag, "UN", implicit, position + 8  # some write all of a sequence without kinds of values
    if len(fitting) != 1:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: an element whose length cannot be told")
    return tag, "UN", *fitting[0]


def _continues(data: bytes, position: int, stop: int, syntax: Syntax, tag: int) -> bool:
    """Whether the data set ends here, or a later element begins: one of a known kind, or of a length that fits."""
    if position == stop:
        return True
    if position + 8 > stop:
        return False
    group, number, length = _HEADS[syntax.order].unpack_from(data, position)
    later = group << 16 | number
    fits = data[position + 4 : position + 6] in KINDS if syntax.explicit else position + 8 + length <= stop
    return later == ITEM_END or (later > tag and fits)


def truncated(where: str) -> Refused:
    return Refused(Reason.TRUNCATED, f"DICOM: it ends {where}")
