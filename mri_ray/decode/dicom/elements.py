"""The elements of a DICOM data set, found by their structure and without recursion.

pydicom takes a file that ends early for a whole one, and reads sequences within sequences by recursion. Here the bytes
are walked first, element by element: a data set that does not end where it should is called so, and no value is
converted before it is asked for. Source: DICOM PS3.5, chapter 7 (data sets) and A.4 (encapsulated pixels).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pydicom.datadict import dictionary_VR, tag_for_keyword

from mri_ray.decode.dicom.heads import (
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    KINDS,
    SEQUENCE_END,
    UNDEFINED,
    Syntax,
    head,
    truncated,
)
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # as floats, doubles, integers
MOST_BYTES = 2**20  # of a value that is no pixels; those read here are far shorter
_MAX_DEPTH = 64
_MAX_ELEMENTS = 2_000_000
_MOST_ELEMENTS = 16_000_000  # of the largest files: seconds of work
_MAX_ON_A_LEVEL = 65_536
_NOTHING = bytes(8)


class Element(NamedTuple):
    """Where a value stands, and the next element. vr: the kind of value, empty where the file does not tell."""

    tag: int
    vr: str
    start: int
    end: int
    following: int
    undefined: bool  # its length is not given


@dataclass(slots=True)
class Budget:
    """How many elements of one object may still be looked at."""

    left: int = _MAX_ELEMENTS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: more elements than an object of its size can have")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set, or an item of a sequence.

    end: where in `data` it ends. fault: why it was not read to its end. cut: its pixels reach beyond the end of the
    file; what is there of them is among the elements.
    """

    data: bytes
    syntax: Syntax
    elements: dict[int, Element]
    end: int
    fault: Refused | None = None
    cut: bool = False
    budget: Budget = field(default_factory=Budget)

    def __contains__(self, name: str | int) -> bool:
        return tag_of(name) in self.elements

    def raw(self, name: str | int, most: int = MOST_BYTES) -> bytes | None:
        """The first `most` bytes of a value as they stand; None without the element."""
        element = self.elements.get(tag_of(name))
        return None if element is None else self.data[element.start : min(element.end, element.start + most)]

    def kind(self, name: str | int) -> str:
        """The kind of a value (VR): by the file, else by the dictionary, else UN."""
        tag = tag_of(name)
        element = self.elements.get(tag)
        if element is not None and element.vr not in ("", "UN"):
            return element.vr
        try:
            return dictionary_VR(tag)
        except KeyError:
            return "UN"

    def items(self, name: str | int) -> "Iterator[DataSet]":
        """The items of a sequence, none without the element. Raises Refused at a damaged one."""
        element = self.elements.get(tag_of(name))
        return iter(()) if element is None else _items(self, element)


def tag_of(name: str | int) -> int:
    """A tag by its keyword in DICOM PS3.6."""
    if isinstance(name, int):
        return name
    tag = tag_for_keyword(name)
    assert tag is not None, name
    return tag


def walk(data: bytes, start: int, syntax: Syntax, *, strict: bool = False) -> DataSet:
    """The data set that fills `data` from `start` on. What is wrong in it becomes its `fault`.

    strict: tags ascend, and every kind of value is one of the standard's. Behind whole pixels nothing can be wrong.
    """
    # An element has eight bytes or more, and those in sequences without a length are looked at twice.
    budget = Budget(min(max(_MAX_ELEMENTS, len(data) // 4), _MOST_ELEMENTS))
    return _walk(data, start, len(data), syntax, budget, strict=strict)


def walk_meta(data: bytes, start: int) -> DataSet:
    """The elements of group 2 from `start` on; the data set proper begins at its `end`.

    The length that the group gives itself is often wrong, so that each element is looked at.
    """
    syntax = EXPLICIT if data[start + 4 : start + 6] in KINDS else IMPLICIT
    elements: dict[int, Element] = {}
    position, fault = start, None
    try:
        for element in _elements(data, start, len(data), syntax, Budget(), only_meta=True):
            if element.following > len(data):
                raise truncated("within its meta header")
            _keep(data, elements, element)
            position = element.following
    except Refused as refused:
        fault = refused
    return DataSet(data, syntax, elements, position, fault)


def fragments(data: bytes, start: int, stop: int) -> tuple[list[tuple[int, int]], int, bool]:
    """Where the fragments of encapsulated pixels stand, the table of offsets first; where they end; if they do."""
    found: list[tuple[int, int]] = []
    position = start
    while position + 8 <= stop and len(found) < _MAX_ELEMENTS:
        group, number, length = struct.unpack_from("<HHI", data, position)
        position += 8
        if (tag := group << 16 | number) == SEQUENCE_END:
            return found, position, True
        if not tag and not length and not data[position:stop].strip(b"\0"):
            break
        if tag != ITEM:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: among the fragments of its pixels stands something else")
        if position + length > stop:
            break
        found.append((position, position + length))
        position += length
    return found, stop, False


def _walk(data: bytes, start: int, stop: int, syntax: Syntax, budget: Budget, *, strict: bool = False) -> DataSet:
    elements: dict[int, Element] = {}
    position, last, whole, cut = start, -1, False, False
    fault = None
    try:
        for element in _elements(data, start, stop, syntax, budget, strict=strict):
            if element.tag == ITEM_END:
                position = element.following
                break
            if (strict and element.tag <= last) or len(elements) > _MAX_ON_A_LEVEL:
                fault = Refused(Reason.DAMAGED_HEADER, "DICOM: its tags do not ascend, or are far too many")
                break
            if element.following > stop:
                cut = element.tag in PIXELS and element.tag not in elements
                if cut:
                    elements[element.tag] = element._replace(end=min(element.end, stop))
                fault = truncated("within its pixels" if cut else "within an element")
                break
            _keep(data, elements, element)
            position, last = element.following, element.tag
            whole = whole or element.tag in PIXELS
    except Refused as refused:
        fault = refused
    if whole:
        fault, cut = None, False
    return DataSet(data, syntax, elements, position, fault, cut, budget)


def _elements(
    data: bytes, start: int, stop: int, syntax: Syntax, budget: Budget, *, strict: bool = False, only_meta: bool = False
) -> Iterator[Element]:
    """Elements up to `stop`, or of the meta header alone; the last may reach beyond it."""
    position = start
    while position < stop:
        if only_meta and not _is_meta(data, position, syntax):
            return
        if (stop - position < 8 or data[position : position + 8] == _NOTHING) and _is_padding(data, position, stop):
            return
        budget.spend()
        tag, vr, length, value = head(data, position, stop, syntax, strict=strict)
        end = position = value + length
        if undefined := length == UNDEFINED:
            end, position = _undefined(data, tag, vr, value, stop, syntax, budget)
        yield Element(tag, vr, value, end, position, undefined)


def _is_meta(data: bytes, position: int, syntax: Syntax) -> bool:
    """Whether an element of group 2 stands here; a deflated data set may begin with the same two bytes."""
    if data[position : position + 2] != b"\x02\0":
        return False
    return not syntax.explicit or data[position + 4 : position + 6] in KINDS


def _is_padding(data: bytes, position: int, stop: int) -> bool:
    """Whether nothing but filling follows."""
    if stop - position < 8:
        return not data[position:stop].strip(b"\0 \r\n")
    if data[position:stop].strip(b"\0"):
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: zeros where an element should stand")
    return True


def _undefined(
    data: bytes, tag: int, vr: str, start: int, stop: int, syntax: Syntax, budget: Budget
) -> tuple[int, int]:
    """Where a value of undefined length ends, and where the next element begins."""
    if tag in PIXELS or vr in ("OB", "OW"):
        found, end, complete = fragments(data, start, stop)
        if complete:
            return end - 8, end
        behind = found[-1][1] if found else start
        return (behind, stop) if len(found) == 2 and not data[behind:stop].strip(b"\0") else (stop, stop + 1)
    levels = [IMPLICIT if vr == "UN" else syntax]  # PS3.5 6.2.2, note 4
    position, in_item = start, False
    while levels:
        budget.spend()
        tag, vr, length, value = head(data, position, stop, levels[-1], strict=False)
        position = value if length == UNDEFINED else value + length
        if not in_item:
            if tag == SEQUENCE_END:
                levels.pop()
                in_item = True
            elif tag != ITEM:
                raise Refused(Reason.DAMAGED_HEADER, "DICOM: in a sequence stands something else than items")
            else:
                in_item = length == UNDEFINED
        elif tag == ITEM_END:
            in_item = False
        elif length == UNDEFINED and (tag in PIXELS or vr in ("OB", "OW")):
            _, position, complete = fragments(data, position, stop)
            if not complete:
                raise truncated("within a sequence")
        elif length == UNDEFINED:
            if len(levels) == _MAX_DEPTH:
                raise Refused(Reason.DAMAGED_HEADER, f"DICOM: sequences deeper than {_MAX_DEPTH}")
            levels.append(IMPLICIT if vr == "UN" else levels[-1])
            in_item = False
    return position - 8, position


def _items(parent: DataSet, element: Element) -> Iterator[DataSet]:
    syntax = IMPLICIT if element.vr == "UN" else parent.syntax
    position, stop = element.start, element.end
    while position < stop:
        parent.budget.spend()
        tag, _, length, value = head(parent.data, position, stop, syntax, strict=False)
        if tag == SEQUENCE_END:
            return
        end = stop if length == UNDEFINED else value + length
        if tag != ITEM or end > stop:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: a sequence whose items cannot be told apart")
        item = _walk(parent.data, value, end, syntax, parent.budget)
        if item.fault is not None:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: a damaged item of a sequence")
        yield item
        position = item.end if length == UNDEFINED else end


def _keep(data: bytes, elements: dict[int, Element], element: Element) -> None:
    before = elements.setdefault(element.tag, element)
    if element.tag >> 16 & 1:
        return  # private: of no meaning here but for a few, whose first counts
    if before is not element and data[before.start : before.end] != data[element.start : element.end]:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: one tag stands twice, with different values")
