"""An object -> its slices: what it is goes by its content, never by its name."""

import errno
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from mri_ray.decode import dicom, nifti, pack, raster
from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Slice

_DEFAULT = DecodeConfig()
_HEAD_BYTES = 4096  # of which an inflated head of 512 can be made, even behind a long name in gzip's header
_MARK_BYTES = 1024
_GZIP = b"\x1f\x8b\x08"
# Formats of pictures that are known and not read: where their mark stands, the mark, the name.
_UNREAD = (
    (344, b"ni1\0", "NIfTI header without its image"),
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
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\x07", "RAR"),
    *((0, b"P%d%c" % (number, space), "Netpbm") for number in range(1, 7) for space in b" \n\r\t"),
)


@dataclass(kw_only=True, slots=True)
class Window:
    """Which of an object's members are looked at: those numbered from `start` to below `stop`.

    Members are counted in the order stored, those of packs within packs one by one, and what cannot be read as one;
    what is no pack is a single one. crashed: those within are not decoded, but said to end whatever process does it.
    seen: how many were met so far.
    """

    start: int
    stop: int
    crashed: bool = False
    seen: int = 0

    def takes_next(self) -> bool:
        self.seen += 1
        return self.start < self.seen <= self.stop


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """format: dicom, nifti, zip, tar, gzip (of nothing read here) or one of the raster formats."""

    format: str
    gzipped: bool = False

    @property
    def is_pack(self) -> bool:
        return self.format in ("zip", "tar")

    @property
    def streamed(self) -> bool:
        """Whether it is read piece by piece, and need not fit in memory."""
        return self.format == "nifti" or self.is_pack


def read(
    source: BinaryIO,
    uri: str,
    config: DecodeConfig = _DEFAULT,
    *,
    only: str | None = None,
    window: Window | None = None,
) -> Iterator[Slice | Failure]:
    """The slices of a seekable reader's whole content, in the order stored, each damaged one as a Failure beside them.

    Those of a pack carry the path in it as `member`; with `only` or a window, other members are passed over. Never
    raises for bad content. Packs and volumes are read piece by piece, anything else into memory, when its format is
    known and its length allowed.
    """
    try:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        stream: io.BufferedReader = io.BufferedReader(_Watched(source), _HEAD_BYTES)
        yield from _read(stream, size, uri, config, pack.Budget(config=config.pack), depth=0, only=only, window=window)
    except OSError as exc:
        yield lost(exc, uri)
    except SourceLost as exc:
        yield lost(exc.error, uri)


def lost(error: OSError, uri: str) -> Failure:
    """Why an object could not be read from its storage, or not to its end."""
    reason = Reason.STORAGE_FAULT
    if isinstance(error, FileNotFoundError):
        reason = Reason.STORAGE_MISSING
    elif isinstance(error, PermissionError):
        reason = Reason.STORAGE_DENIED
    elif error.errno == errno.ESTALE:
        reason = Reason.STORAGE_CHANGED
    return Failure(reason=reason, where=uri, detail=type(error).__name__)


def crashed(uri: str) -> Failure:
    """Of what is not looked at, since doing so ends the process."""
    return Failure(reason=Reason.CRASHED, where=uri, detail="its worker died with it, again and again")


def oversized(size: int, uri: str, config: DecodeConfig) -> Failure | None:
    """Why an object of `size` bytes that is no pack and no volume is not read."""
    if size <= config.max_bytes:
        return None
    detail = f"{size} bytes, at most {config.max_bytes} are allowed"
    return Failure(reason=Reason.TOO_MANY_BYTES, where=uri, detail=detail)


def _read(
    stream: io.BufferedReader,
    size: int,
    uri: str,
    config: DecodeConfig,
    budget: pack.Budget,
    *,
    depth: int,
    only: str | None,
    window: Window | None,
) -> Iterator[Slice | Failure]:
    head = stream.peek(_HEAD_BYTES)
    kind = _kind(head)
    refusal = _refuse(head, kind, size, uri, config)
    is_pack = refusal is None and kind is not None and kind.is_pack and depth < config.pack.max_depth
    if not is_pack and window is not None and not window.takes_next():
        return
    if refusal is not None:
        yield refusal
        return
    assert kind is not None, "what has no decoder is refused above"
    if is_pack:
        yield from _unpacked(kind, stream, uri, config, budget, depth, only, window)
    elif kind.is_pack:
        detail = f"a pack within {depth} packs, at most {config.pack.max_depth} are opened"
        yield Failure(reason=Reason.PACK_TOO_DEEP, where=uri, detail=detail)
    elif window is not None and window.crashed:
        yield crashed(uri)
    elif kind.format == "nifti":
        yield from _of(kind, nifti.decode(stream, uri, config, gzipped=kind.gzipped))
    elif kind.format == "dicom":
        yield from _of(kind, dicom.decode(stream.read(), uri, config))
    else:
        yield from _of(kind, raster.decode(kind.format, stream.read(), uri, config))


def _of(kind: _Kind, items: Iterator[Slice | Failure]) -> Iterator[Slice | Failure]:
    return (replace(item, stored=kind.format) if isinstance(item, Slice) else item for item in items)


def _unpacked(
    kind: _Kind,
    stream: io.BufferedReader,
    uri: str,
    config: DecodeConfig,
    budget: pack.Budget,
    depth: int,
    only: str | None,
    window: Window | None,
) -> Iterator[Slice | Failure]:
    for found in pack.members(kind.format, stream, uri, config, budget, gzipped=kind.gzipped):
        if isinstance(found, Failure):
            if window is None or window.takes_next():
                yield found
            continue
        if only is not None and only != found.name and not only.startswith(f"{found.name}!/"):
            continue
        inner = None if only is None or only == found.name else only.removeprefix(f"{found.name}!/")
        before = window.seen if window is not None else 0
        try:
            for item in _read(
                found.source, found.size, uri, config, budget, depth=depth + 1, only=inner, window=window
            ):
                name = found.name if item.member is None else f"{found.name}!/{item.member}"
                yield replace(item, member=name)
        except Refused as refused:  # what the member's bytes are read through has found it damaged, or a bomb
            if window is None or window.seen > before or window.takes_next():  # once for each member
                yield Failure(reason=refused.reason, where=uri, detail=refused.detail, member=found.name)
        if only is not None:
            return


def _kind(head: bytes) -> _Kind | None:
    if head.startswith(_GZIP):
        inner = _inflated(head)
        if nifti.recognise(inner):
            return _Kind(format="nifti", gzipped=True)
        return _Kind(format="tar" if pack.recognise(inner) == "tar" else "gzip", gzipped=True)
    # DICOM first: such a file may carry another format's mark in its preamble.
    if head[128:132] == b"DICM":
        return _Kind(format="dicom")
    if nifti.recognise(head):
        return _Kind(format="nifti")
    known = pack.recognise(head) or raster.recognise(head)
    if known is not None:
        return _Kind(format=known)
    return _Kind(format="dicom") if dicom.recognise(head) else None


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _MARK_BYTES)
    except zlib.error:
        return b""


def _refuse(head: bytes, kind: _Kind | None, size: int, uri: str, config: DecodeConfig) -> Failure | None:
    if not size:
        return Failure(reason=Reason.EMPTY_OBJECT, where=uri, detail="0 bytes")
    if kind is None:
        name = next((name for offset, mark, name in _UNREAD if head.startswith(mark, offset)), None)
        if name is None:
            return Failure(reason=Reason.NOT_IMAGE, where=uri, detail=f"{size} bytes, no known signature")
        return Failure(reason=Reason.UNSUPPORTED_FORMAT, where=uri, detail=name)
    if kind.format == "gzip":
        return Failure(reason=Reason.UNSUPPORTED_FORMAT, where=uri, detail="gzip of neither a tar nor a NIfTI volume")
    return None if kind.streamed else oversized(size, uri, config)


class _Watched(io.RawIOBase):
    """A source whose faults are told apart from those of its content, which decoders catch."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._source.read(len(buffer))
        except OSError as exc:
            raise SourceLost(exc) from exc
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        try:
            return self._source.read()
        except OSError as exc:
            raise SourceLost(exc) from exc

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._source.seek(offset, whence)
        except OSError as exc:
            raise SourceLost(exc) from exc

    def tell(self) -> int:
        return self._source.tell()
