"""The bytes of a request: the body as it is, or the one file of a form, in memory that `limits` has counted."""

from collections.abc import Iterator
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from mri_ray.endpoint.problems import Problem

FORM = "multipart/form-data"
_PARTS = 16


async def whole(request: Request) -> bytes:
    """What is to be scored. Raises Problem: 415 for a coded body, 422 for an empty one, or a form without one file."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "a body must come as it is, without Content-Encoding")
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    if kind.get_content_type() == FORM:
        body = await _file_of_form(request, _param(kind, "content-type", "boundary"))
    else:
        body = b"".join([chunk async for chunk in request.stream()])
    if not body:
        raise Problem(422, "a body must hold an object, got 0 bytes")
    return body


def _param(told: Message, header: str, name: str) -> object:
    """None where it is not there or cannot be understood: on parameters in broken parts `email` raises."""
    try:
        return told.get_param(name, header=header)
    except (TypeError, ValueError):
        return None


async def _file_of_form(request: Request, boundary: object) -> bytes:
    if not isinstance(boundary, str) or not boundary:
        raise Problem(422, "a form must name its boundary")
    files = _Files()
    try:
        parser = MultipartParser(boundary.encode("latin-1"), files.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, UnicodeEncodeError) as exc:
        raise Problem(422, "the form is not well formed") from exc
    if not files.ended:
        raise Problem(422, "the form ends before its last boundary")
    found = list(files)
    if len(found) != 1:
        raise Problem(422, f"a form must hold one file, got {len(found)}")
    return found[0]


class _Files:
    """The parts of a form that are files; others, text beside them, are passed over. Names of files mean nothing."""

    def __init__(self) -> None:
        self._files: list[bytearray] = []
        self._parts = 0
        self._name, self._value = b"", b""
        self._is_file = False
        self.ended = False

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(file) for file in self._files)

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._parts += 1
        self._is_file = False
        if self._parts > _PARTS:
            raise Problem(422, f"a form may have {_PARTS} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            told = Message()
            told["content-disposition"] = self._value.decode("latin-1").replace("\r", " ").replace("\n", " ")
            self._is_file = _param(told, "content-disposition", "filename") is not None
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        if self._is_file:
            self._files.append(bytearray())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._files[-1] += data[start:end]

    def _end(self) -> None:
        self.ended = True
