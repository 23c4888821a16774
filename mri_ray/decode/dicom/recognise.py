"""Whether bytes open a DICOM data set, told by its first elements: their order, their kinds and their values."""

import re
import struct

from pydicom.datadict import dictionary_VR

from mri_ray.decode.dicom.heads import BIG, EXPLICIT, IMPLICIT, LONG, SHORT, Syntax

MARK_AT = 128  # bytes of preamble
MARK = b"DICM"
_META = 2
_LOOKED_AT = 6  # elements
_NEEDED = 2
_MEMBERS = {  # what a value of a kind is made of
    "AE": rb"[\x20-\x7e]*",
    "CS": rb"[\x20-\x7e]*\0?",
    "DA": rb"[0-9. \0]*",
    "DT": rb"[0-9.+\- \0]*",
    "TM": rb"[0-9.: \0]*",
    "UI": rb"[0-9.\\\0 ]*",
}
_TEXT = rb"[^\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]*\0?"
_SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4}


def recognise(head: bytes) -> bool:
    """Whether an object's first bytes (512 or more, if there are) are those of a DICOM file.

    With preamble and mark; or without, where a meta header or a data set stands at the first byte.
    """
    if head[MARK_AT : MARK_AT + len(MARK)] == MARK or opens(head, EXPLICIT, group=_META):
        return True
    return any(opens(head, syntax) for syntax in (EXPLICIT, IMPLICIT, BIG))


def opens(head: bytes, syntax: Syntax, *, group: int = 8) -> bool:
    """Whether a data set in this syntax begins here: tags of the dictionary, ascending from `group` on, with values
    as their kinds have them.
    """
    position, last, found, told = 0, -1, 0, False
    while found < _LOOKED_AT and position + 8 <= len(head):
        if group == _META and head[position : position + 2] != b"\x02\0":
            break  # the data set proper may be written otherwise
        element = _element(head, position, syntax)
        if element is None:
            return False
        tag, kind, start, end = element
        if tag <= last or (not found and tag >> 16 != group):
            return False
        if end > len(head):
            break
        if not _fits(head[start:end], kind):
            return False
        position, last, found = end, tag, found + 1
        told = told or end > start
    return found >= _NEEDED and told


def _element(head: bytes, position: int, syntax: Syntax) -> tuple[int, str, int, int] | None:
    """Tag, kind, start and end of an element that the dictionary knows."""
    group, number, length = struct.unpack_from(syntax.order + "HHI", head, position)
    kind = _known(group << 16 | number)
    start = position + 8
    if kind is None or not syntax.explicit:
        return None if kind is None else (group << 16 | number, kind, start, start + length)
    vr = head[position + 4 : position + 6].decode("latin-1")
    if vr not in kind and vr != "UN":
        return None
    if vr in SHORT:
        (length,) = struct.unpack_from(syntax.order + "H", head, position + 6)
    elif vr in LONG and position + 12 <= len(head):
        (length,) = struct.unpack_from(syntax.order + "I", head, position + 8)
        start += 4
    else:
        return None
    return group << 16 | number, vr, start, start + length


def _known(tag: int) -> str | None:
    if not tag & 0xFFFF:
        return "UL"  # the length of a group
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None


def _fits(value: bytes, kind: str) -> bool:
    if len(value) % 2:
        return False
    if kind in _SIZES:
        return len(value) % _SIZES[kind] == 0
    if kind in _MEMBERS:
        return re.fullmatch(_MEMBERS[kind], value) is not None
    if kind == "SQ":
        return not value or value[:4] in (b"\xfe\xff\0\xe0", b"\xff\xfe\xe0\0", b"\xfe\xff\xdd\xe0")
    return len(value) <= 1024 and (kind in LONG or re.fullmatch(_TEXT, value) is not None)
