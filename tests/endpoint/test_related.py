"""multipart/related, cut anywhere."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.endpoint.related import Limits, Part, RelatedError, boundary_of, parts

BOUNDARY = b"the-boundary"


def body(*contents: bytes, media: bytes = b"application/dicom") -> bytes:
    each = [b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (BOUNDARY, media, data) for data in contents]
    return b"\r\n" + b"".join(each) + b"--%s--" % BOUNDARY


def taken(data: bytes, limits: Limits | None = None, step: int = 7) -> list[Part]:
    async def pieces():
        for start in range(0, len(data), step):
            yield data[start : start + step]

    async def every():
        return [part async for part in parts(pieces(), BOUNDARY, limits or Limits())]

    return asyncio.run(every())


@settings(deadline=None)  # a busy machine is no fault
@given(contents=st.lists(st.binary(max_size=50), min_size=1, max_size=4), step=st.integers(1, 80))
def test_parts_come_back_however_the_body_is_cut(contents, step):
    if any(BOUNDARY in content for content in contents):
        return
    assert [part.data for part in taken(body(*contents), step=step)] == contents


def test_bytes_that_look_like_a_boundary_stay_in_their_part():
    tricky = b"\r\n--the-bound\r\n--\r\n--the-boundarX"
    for step in (1, 5, 1000):
        (part,) = taken(body(tricky), step=step)
        assert part == Part(data=tricky, length=len(tricky), media="application/dicom")


def test_a_part_that_is_too_large_is_told_and_its_siblings_are_kept():
    found = taken(body(b"a", b"b" * 100, b"c"), Limits(part_bytes=99))
    assert [(part.data, part.length) for part in found] == [(b"a", 1), (None, 100), (b"c", 1)]


def test_a_part_is_given_out_before_the_next_is_asked_for():
    """So that a body of any length is in memory one part at a time."""
    asked = []

    async def pieces():
        for number in range(3):
            asked.append(number)
            yield b"--%s\r\n\r\n%d\r\n" % (BOUNDARY, number)
        yield b"--%s--" % BOUNDARY

    async def watched():
        return [(part.data, len(asked)) async for part in parts(pieces(), BOUNDARY, Limits())]

    assert asyncio.run(watched()) == [(b"0", 2), (b"1", 3), (b"2", 3)]


@pytest.mark.parametrize(
    ("data", "limits", "status"),
    [
        (b"", Limits(), 400),
        (body(b"a")[:-3], Limits(), 400),
        (b"no multipart at all", Limits(), 400),
        (body(b"a", b"b"), Limits(parts=1), 413),
        (b"--%s\r\nX: %s\r\n\r\n" % (BOUNDARY, b"y" * 100_000), Limits(), 400),
    ],
)
def test_other_bodies_are_refused(data, limits, status):
    with pytest.raises(RelatedError) as refused:
        taken(data, limits)
    assert refused.value.status == status


def test_the_boundary_is_that_of_the_header():
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert boundary_of("multipart/related; boundary=ab") == b"ab"
    for text, status in {
        None: 415,
        "application/dicom": 415,
        'multipart/form-data; boundary="x"': 415,
        'multipart/related; type="application/dicom+json"; boundary=x': 415,
        "multipart/related": 400,
        "multipart/related; boundary*=a; boundary*0=b": 400,
        f"multipart/related; boundary={'x' * 251}": 400,
    }.items():
        with pytest.raises(RelatedError) as refused:
            boundary_of(text)
        assert refused.value.status == status, text
