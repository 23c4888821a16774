"""The walk over a data set's elements: it ends where the data set ends, says what is wrong, and never takes long."""

import struct
import time

import pytest

from mri_ray.decode.dicom.elements import walk
from mri_ray.decode.dicom.heads import BIG, EXPLICIT, IMPLICIT, Syntax
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

UNDEFINED = 0xFFFFFFFF
SEQUENCE = 0x00081140
SYNTAXES = [IMPLICIT, EXPLICIT, BIG]


def tag(syntax: Syntax, number: int, length: int = 0) -> bytes:
    return struct.pack(syntax.order + "HHI", number >> 16, number & 0xFFFF, length)


def body(dicom, syntax: Syntax, *elements: tuple[int, str, bytes]) -> bytes:
    return b"".join(
        dicom.element(number, vr, value, order=syntax.order, implicit=not syntax.explicit)
        for number, vr, value in elements
    )


def item(syntax: Syntax, content: bytes, *, delimited: bool) -> bytes:
    if not delimited:
        return tag(syntax, 0xFFFEE000, len(content)) + content
    return tag(syntax, 0xFFFEE000, UNDEFINED) + content + tag(syntax, 0xFFFEE00D)


def sequence(dicom, syntax: Syntax, items: bytes, *, delimited: bool, vr: str = "SQ") -> bytes:
    kind = {"order": syntax.order, "implicit": not syntax.explicit}
    if not delimited:
        return dicom.element(SEQUENCE, vr, items, **kind)
    end = tag(IMPLICIT if vr == "UN" else syntax, 0xFFFEE0DD)
    return dicom.element(SEQUENCE, vr, items + end, length=UNDEFINED, **kind)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=str)
def test_elements_are_found_with_their_values(dicom, syntax):
    data = body(
        dicom, syntax, (0x00080005, "CS", b"ISO_IR 100"), (0x00091001, "UN", b"xy"), (0x00280010, "US", b"\1\0")
    )
    found = walk(data, 0, syntax)
    assert found.fault is None
    assert found.end == len(data)
    assert [found.raw(number) for number in found.elements] == [b"ISO_IR 100", b"xy", b"\1\0"]
    assert found.kind("SpecificCharacterSet") == "CS"
    assert "Rows" in found
    assert "Columns" not in found
    assert found.raw("Columns") is None


@pytest.mark.parametrize("syntax", SYNTAXES, ids=str)
@pytest.mark.parametrize("outer", [True, False], ids=["delimited", "measured"])
@pytest.mark.parametrize("inner", [True, False], ids=["delimited items", "measured items"])
def test_sequences_give_their_items_however_they_end(dicom, syntax, outer, inner):
    first = body(dicom, syntax, (0x00081150, "UI", b"1.2"), (0x00081155, "UI", b"1.23"))
    within = sequence(dicom, syntax, item(syntax, first, delimited=inner), delimited=outer)
    items = item(syntax, first, delimited=inner) + item(syntax, within, delimited=inner)
    after = body(dicom, syntax, (0x00100010, "PN", b"A^B "))
    found = walk(sequence(dicom, syntax, items, delimited=outer) + after, 0, syntax, strict=True)
    assert found.fault is None
    one, two = found.items(SEQUENCE)
    assert one.raw("ReferencedSOPInstanceUID") == b"1.23"
    (deepest,) = two.items(SEQUENCE)
    assert deepest.raw("ReferencedSOPClassUID") == b"1.2"
    assert found.raw("PatientName") == b"A^B "
    assert list(found.items("OtherPatientIDsSequence")) == []


def test_a_sequence_of_unknown_kind_is_implicit_within(dicom):
    inner = body(dicom, IMPLICIT, (0x00081155, "UI", b"1.23"))
    for delimited in (True, False):
        data = sequence(dicom, EXPLICIT, item(IMPLICIT, inner, delimited=delimited), delimited=delimited, vr="UN")
        found = walk(data + body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0")), 0, EXPLICIT)
        assert found.fault is None
        assert [part.raw("ReferencedSOPInstanceUID") for part in found.items(SEQUENCE)] == [b"1.23"]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=str)
def test_a_data_set_cut_anywhere_is_truncated_or_ends_with_an_element(dicom, syntax):
    items = item(syntax, body(dicom, syntax, (0x00081155, "UI", b"1.23")), delimited=True)
    parts = [
        body(dicom, syntax, (0x00080016, "UI", b"1.2.3 ")),
        sequence(dicom, syntax, items, delimited=True),
        body(dicom, syntax, (0x00100010, "PN", b"A^B ")),
        body(dicom, syntax, (0x7FE00010, "OW", bytes(range(40)))),
    ]
    whole = b"".join(parts)
    ends = {0, *(len(b"".join(parts[: count + 1])) for count in range(len(parts)))}
    for size in range(len(whole)):
        found = walk(whole[:size], 0, syntax)
        if size in ends:
            assert found.fault is None
            continue
        # A rest of zeros that is shorter than an element may be filling.
        rest = whole[max(end for end in ends if end <= size) : size]
        assert (found.fault is not None and found.fault.reason is Reason.TRUNCATED) or not rest.strip(b"\0")
        assert found.cut == (size >= len(whole) - 40)


def test_behind_whole_pixels_nothing_matters(dicom):
    data = body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0"), (0x7FE00010, "OW", b"abcd"))
    for rest in (
        b"",
        bytes(700),
        b"\xfc\xff\xfc\xff",
        b"garbage of any length",
        body(dicom, EXPLICIT, (0x00080016, "UI", b"")),
    ):
        found = walk(data + rest, 0, EXPLICIT)
        assert found.fault is None
        assert found.raw("PixelData") == b"abcd"


def test_filling_at_the_end_is_no_damage_but_zeros_within_are(dicom):
    data = body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0"))
    for rest in (b"\0", b"\0\0", b"\r\n", bytes(8), bytes(1000)):
        assert walk(data + rest, 0, EXPLICIT).fault is None
    fault = walk(data + bytes(16) + data, 0, EXPLICIT).fault
    assert fault is not None
    assert fault.reason is Reason.DAMAGED_HEADER


def test_a_tag_that_stands_twice_must_say_the_same(dicom):
    one, other = ((0x00280010, "US", value) for value in (b"\1\0", b"\2\0"))
    assert walk(body(dicom, EXPLICIT, one, one), 0, EXPLICIT).fault is None
    fault = walk(body(dicom, EXPLICIT, one, other), 0, EXPLICIT).fault
    assert fault is not None
    assert fault.reason is Reason.DAMAGED_HEADER


@pytest.mark.parametrize("kind", [b"??", b"\0\0", b"  ", b"XX", b"us"])
@pytest.mark.parametrize("form", ["short", "long", "implicit"])
@pytest.mark.parametrize("last", [True, False])
def test_a_bad_kind_of_value_costs_no_more_than_itself(dicom, kind, form, last):
    value = b"1234567 "
    head = struct.pack("<HH", 0x0019, 0x1001)
    bad = {
        "short": head + kind + struct.pack("<H", len(value)) + value,
        "long": head + kind + b"\0\0" + struct.pack("<I", len(value)) + value,
        "implicit": head + struct.pack("<I", len(value)) + value,
    }[form]
    after = b"" if last else body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0"))
    data = body(dicom, EXPLICIT, (0x00080016, "UI", b"1.2.3 ")) + bad + after
    found = walk(data, 0, EXPLICIT)
    assert found.fault is None
    assert found.raw(0x00191001) == value
    assert ("Rows" in found) is not last
    assert walk(data, 0, EXPLICIT, strict=True).fault is not None


@pytest.mark.parametrize("delimited", [True, False])
def test_items_written_without_kinds_of_values_in_a_data_set_with(dicom, delimited):
    inner = body(dicom, IMPLICIT, (0x00081150, "UI", b"1.2 "), (0x00081155, "UI", b"1.23"), (0x00200013, "IS", b"7 "))
    data = sequence(dicom, EXPLICIT, item(EXPLICIT, inner, delimited=delimited), delimited=delimited)
    found = walk(data + body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0")), 0, EXPLICIT)
    assert found.fault is None
    (one,) = found.items(SEQUENCE)
    assert [one.raw(number) for number in one.elements] == [b"1.2 ", b"1.23", b"7 "]


def test_strict_walks_want_ascending_tags(dicom):
    data = body(dicom, EXPLICIT, (0x00280010, "US", b"\1\0"), (0x00080016, "UI", b"1.2.3 "))
    assert walk(data, 0, EXPLICIT).fault is None
    assert walk(data, 0, EXPLICIT, strict=True).fault is not None


@pytest.mark.parametrize(
    "items",
    [
        tag(IMPLICIT, 0x00080016, 0),  # no item
        tag(IMPLICIT, 0xFFFEE000, 100) + b"x",  # longer than its sequence
        tag(IMPLICIT, 0xFFFEE000, 9) + tag(IMPLICIT, 0x00080016, 50) + b"x",  # its element is longer than itself
        tag(IMPLICIT, 0xFFFEE000)[:5],
    ],
)
def test_a_damaged_sequence_is_found_when_it_is_read(dicom, items):
    found = walk(sequence(dicom, IMPLICIT, items, delimited=False), 0, IMPLICIT)
    assert found.fault is None
    with pytest.raises(Refused) as caught:
        list(found.items(SEQUENCE))
    assert caught.value.reason in (Reason.DAMAGED_HEADER, Reason.TRUNCATED)


def _deep() -> bytes:
    return (tag(IMPLICIT, SEQUENCE, UNDEFINED) + tag(IMPLICIT, 0xFFFEE000, UNDEFINED)) * 200_000


def _many_items() -> bytes:
    return tag(IMPLICIT, SEQUENCE, UNDEFINED) + tag(IMPLICIT, 0xFFFEE000) * 2_100_000


def _many_elements() -> bytes:
    return b"".join(tag(IMPLICIT, 0x00090000 + number) for number in range(300_000))


def _zeros() -> bytes:
    return tag(IMPLICIT, 0x00080005) + bytes(20_000_000) + b"\1"


def _twins() -> bytes:
    return tag(IMPLICIT, 0x00080005) * 300_000


@pytest.mark.parametrize("make", [_deep, _many_items, _many_elements, _zeros, _twins])
def test_hostile_data_sets_are_given_up_soon(make):
    data = make()
    begin = time.perf_counter()
    found = walk(data, 0, IMPLICIT)
    assert time.perf_counter() - begin < 10
    if make is not _twins:
        assert found.fault is not None
        # A few bytes an element are no more than a file of this length may have, and it ends in the middle.
        assert found.fault.reason is (Reason.TRUNCATED if make is _many_items else Reason.DAMAGED_HEADER)
