"""multipart/related as it arrives: one part in memory at a time, however many a body has.

Source: RFC 2387 and RFC 2046; DICOM PS3.18, section 8.6.1.2. The bytes are taken apart by python-multipart, which
bounds the headers of a part.
"""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from email.message import Message

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from mri_ray.errors import UserError

_LONGEST_BOUNDARY = 250  # 70 by RFC 2046, but Orthanc sends 73


class RelatedError(UserError):
    """A body that is no multipart/related of what is asked for. `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """parts: of one body. part_bytes: of one part; a larger one is passed over, and said so. Both at least 1."""

    parts: int = 4096
    part_bytes: int = 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """data: None where the part was larger than it may be, of `length` bytes. media: its media type, or ""."""

    data: bytes | None
    length: int
    media: str = ""


def boundary_of(content_type: str | None, media: str = "application/dicom") -> bytes:
    """The boundary of a multipart/related whose parts are of a media type. Raises RelatedError with 415 or 400."""
    message = Message()
    message["Content-Type"] = content_type or "text/plain"
    if message.get_content_type() != "multipart/related":
        raise RelatedError(f'Content-Type: must be multipart/related; type="{media}", got another', 415)
    try:
        told, boundary = message.get_param("type"), message.get_boundary("")
    except (TypeError, ValueError) as exc:  # of parameters in broken parts
        raise RelatedError("Content-Type: must be well formed, got something else") from exc
    if told is not None and str(told).lower() != media:
        raise RelatedError(f'Content-Type: type must be "{media}", got another', 415)
    assert isinstance(boundary, str)
    if not 1 <= len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise RelatedError(
            f"Content-Type: boundary: must have 1 to {_LONGEST_BOUNDARY} characters, got {len(boundary)}"
        )
    return boundary.encode()


async def parts(body: AsyncIterable[bytes], boundary: bytes, limits: Limits) -> AsyncIterator[Part]:
    """The parts of a body in their order; the next piece of the body is asked for once they are taken.

    Raises RelatedError for a body that is none, ends too early or has too many parts.
    """
    gathered = _Gathered(limits)
    parser = MultipartParser(boundary, gathered.callbacks())  # type: ignore[arg-type]
    async for piece in body:
        if not piece:
            continue
        _fed(parser, piece)
        while gathered.done:
            yield gathered.done.pop(0)
    if not gathered.ended:
        raise RelatedError("body: must end with its closing boundary, got less")


def _fed(parser: MultipartParser, piece: bytes) -> None:
    try:
        parser.write(piece)
    except MultipartParseError as exc:
        raise RelatedError(f"body: must be multipart, got something else at byte {exc.offset}") from exc


@dataclass
class _Gathered:
    """What the parser calls back with, until a part is complete."""

    limits: Limits
    done: list[Part] = field(default_factory=list)
    ended: bool = False
    _count: int = 0
    _length: int = 0
    _media: str = ""
    _data: bytearray | None = None
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        self._count += 1
        if self._count > self.limits.parts:
            raise RelatedError(f"body: must have at most {self.limits.parts} parts, got more", 413)
        self._length, self._media, self._data = 0, "", bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._length += end - start
        if self._length > self.limits.part_bytes:
            self._data = None
        if self._data is not None:
            self._data += memoryview(data)[start:end]

    def part_end(self) -> None:
        data = None if self._data is None else bytes(self._data)
        self.done.append(Part(data=data, length=self._length, media=self._media))
        self._data = None

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-type":
            message = Message()
            message["Content-Type"] = self._value.decode("latin-1")
            self._media = message.get_content_type()
        self._name.clear()
        self._value.clear()

    def end(self) -> None:
        self.ended = True
