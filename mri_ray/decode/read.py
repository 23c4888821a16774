"""An object -> its slices: what it is goes by its content, never by its name."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from mri_ray.decode import raster
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Slice

_DEFAULT = DecodeConfig()
_HEAD_BYTES = 512
# Formats of pictures that are known and not read: where their mark stands, the mark, the name.
_UNREAD = (
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF-", "PDF"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"v/1\1", "OpenEXR"),
    *((0, b"P%d%c" % (number, space), "Netpbm") for number in range(1, 7) for space in b" \n\r\t"),
)


def read(source: BinaryIO, uri: str, config: DecodeConfig = _DEFAULT) -> Iterator[Slice | Failure]:
    """The slices of a seekable reader's whole content, in the order stored, each damaged one as a Failure beside them.

    Never raises for bad content. An object is read into memory only when its format is known and its length allowed.
    """
    try:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        head = source.read(_HEAD_BYTES)
        refusal = _refuse(head, size, uri, config)
        if refusal is not None:
            yield refusal
            return
        source.seek(0)
        data = source.read()
    except OSError as exc:
        yield Failure(reason=Reason.STORAGE_FAULT, where=uri, detail=type(exc).__name__)
        return
    kind = raster.recognise(head)
    assert kind is not None, "what has no decoder is refused above"
    yield from raster.decode(kind, data, uri, config)


def oversized(size: int, uri: str, config: DecodeConfig) -> Failure | None:
    """Why an object of `size` bytes is not read; for those who know it from a listing, before they fetch the object."""
    if size <= config.max_bytes:
        return None
    detail = f"{size} bytes, at most {config.max_bytes} are allowed"
    return Failure(reason=Reason.TOO_MANY_BYTES, where=uri, detail=detail)


def _refuse(head: bytes, size: int, uri: str, config: DecodeConfig) -> Failure | None:
    if not size:
        return Failure(reason=Reason.EMPTY_OBJECT, where=uri, detail="0 bytes")
    # These first: a DICOM file may carry another format's mark in its preamble.
    for offset, mark, name in _UNREAD:
        if head.startswith(mark, offset):
            return Failure(reason=Reason.UNSUPPORTED_FORMAT, where=uri, detail=name)
    if raster.recognise(head) is None:
        return Failure(reason=Reason.NOT_IMAGE, where=uri, detail=f"{size} bytes, no known signature")
    return oversized(size, uri, config)
