"""What a zip says of its members: the end record, the directory, the header before each member's content.

Not by `zipfile`: there one undecodable name or odd field costs the whole pack, all entries are held as objects, and
only names are compared between directory and header. Source: APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

import io
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.errors import Reason

LOCAL = b"PK\3\4"
_CENTRAL = b"PK\1\2"
_END = b"PK\5\6"
_END_64 = b"PK\6\6"
_LOCATOR_64 = b"PK\6\7"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_END_RECORD = struct.Struct("<4s4H2IH")
_END_RECORD_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_RECORD_64 = struct.Struct("<4sIQI")
_MAX_COMMENT = 0xFFFF
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_MAX_DIRECTORY_BYTES = 256 * 2**20  # held in memory: room for two million members
_ENCRYPTED, _SIZES_FOLLOW, _UTF_8, _MASKED = 0x0001, 0x0008, 0x0800, 0x2041
_WINZIP_AES = 99
_UNIX = (3, 19)  # hosts whose attributes hold a file's mode
_DOS_FOLDER = 0x10


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The end record. start, size: the directory's, in bytes. shift: what stands before the pack's own first byte."""

    members: int
    start: int
    size: int
    shift: int
    is_64: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A member as its directory describes it. offset: its header's in the file. end: where its description ends."""

    raw_name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    offset: int
    host: int = 0
    attributes: int = 0
    end: int = 0

    @property
    def name(self) -> str:
        """UTF-8 where it says so, its wrong bytes as surrogates; else UTF-8 if it can be, else code page 437.

        The tools of Linux and macOS write UTF-8 without saying so.
        """
        if self.flags & _UTF_8:
            return self.raw_name.decode("utf-8", "surrogateescape")
        try:
            return self.raw_name.decode()
        except UnicodeDecodeError:
            return self.raw_name.decode("cp437")

    @property
    def mode(self) -> int:
        """What kind of file it was on Unix, as in `stat`; 0 where it is not told."""
        return stat.S_IFMT(self.attributes >> 16) if self.host in _UNIX else 0

    @property
    def is_folder(self) -> bool:
        named = self.raw_name.endswith((b"/", b"\\"))
        return not self.size and (named or self.mode == stat.S_IFDIR or bool(self.attributes & _DOS_FOLDER))

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & _MASKED) or self.method == _WINZIP_AES


def read_at(source: BinaryIO, offset: int, length: int) -> bytes:
    """Raises Refused when the source ends before, SourceLost when it cannot be read."""
    try:
        source.seek(offset)
        data = source.read(length)
    except OSError as exc:  # of the file that an inner pack was spooled to; another source raises SourceLost itself
        raise SourceLost(exc) from exc
    if len(data) != length:
        raise Refused(Reason.TRUNCATED_PACK, "the zip ends too early")
    return data


def find_end(source: BinaryIO) -> End:
    """Raises Refused: TRUNCATED_PACK where there is no end record."""
    size = source.seek(0, io.SEEK_END)
    base = max(0, size - _END_RECORD.size - _MAX_COMMENT)
    tail = read_at(source, base, size - base)
    place = _end_place(tail)
    if place is None:
        raise Refused(Reason.TRUNCATED_PACK, "a zip without an end record")
    _, disk, first_disk, here, members, length, start, _ = _END_RECORD.unpack_from(tail, place)
    end = base + place
    found = _end_64(source, end)
    if found is not None:
        end, disk, first_disk, here, members, length, start = found
    if disk or first_disk or here != members:
        raise Refused(Reason.UNSUPPORTED_FORMAT, "a part of a zip that is split over several files")
    if length > _MAX_DIRECTORY_BYTES:
        raise Refused(Reason.PACK_TOO_LARGE, f"a zip with a directory of {length} bytes")
    start, shift = _directory_place(source, start, length, end)
    return End(members=members, start=start, size=length, shift=shift, is_64=found is not None)


def _end_place(tail: bytes) -> int | None:
    """The last end record whose comment reaches to the end; else the last whose comment has room."""
    place = len(tail)
    loose = None
    while (place := tail.rfind(_END, 0, place)) >= 0:
        room = len(tail) - place - _END_RECORD.size
        if room >= 0:
            comment = int.from_bytes(tail[place + 20 : place + 22], "little")
            if comment == room:
                return place
            if comment < room and loose is None:
                loose = place
    return loose


def _end_64(source: BinaryIO, end: int) -> tuple[int, int, int, int, int, int, int] | None:
    """Where the large end record stands and what it says; None in a zip that has none."""
    if end < _LOCATOR_RECORD_64.size + _END_RECORD_64.size:
        return None
    at = end - _LOCATOR_RECORD_64.size
    mark, _, place, _ = _LOCATOR_RECORD_64.unpack(read_at(source, at, _LOCATOR_RECORD_64.size))
    if mark != _LOCATOR_64:
        return None
    for candidate in (place, at - _END_RECORD_64.size):  # the second where something stands before the zip
        if candidate + _END_RECORD_64.size > at:
            continue
        fields = _END_RECORD_64.unpack(read_at(source, candidate, _END_RECORD_64.size))
        if fields[0] == _END_64:
            _, _, _, _, disk, first_disk, here, members, length, start = fields
            return candidate, disk, first_disk, here, members, length, start
    raise Refused(Reason.DAMAGED_PACK, "the zip's large end record is missing")


def _directory_place(source: BinaryIO, start: int, length: int, end: int) -> tuple[int, int]:
    """Where the directory stands, and by how much that is further back than it says (a zip behind something else)."""
    for candidate in (end - length, start):
        if start <= candidate <= end - length and (not length or read_at(source, candidate, 4) == _CENTRAL):
            return candidate, candidate - start
    raise Refused(Reason.DAMAGED_PACK, "the zip's end record does not lead to its directory")


def parse(directory: bytes, at: int, shift: int) -> Listed:
    """The description that begins at a byte of the directory; raises Refused."""
    if at + _CENTRAL_HEADER.size > len(directory) or directory[at : at + 4] != _CENTRAL:
        raise Refused(
            Reason.DAMAGED_PACK, f"the zip's directory is damaged at its byte {at}; what follows was not read"
        )
    fields = _CENTRAL_HEADER.unpack_from(directory, at)
    _, made_by, _, flags, method, _, _, checksum, packed, size, *lengths, _, _, attributes, offset = fields
    name_end = at + _CENTRAL_HEADER.size + lengths[0]
    extra_end = name_end + lengths[1]
    if extra_end + lengths[2] > len(directory):
        raise Refused(Reason.DAMAGED_PACK, f"the zip's directory ends within the entry at its byte {at}")
    packed, size, offset = _large(directory[name_end:extra_end], size, packed, offset)
    return Listed(
        raw_name=directory[at + _CENTRAL_HEADER.size : name_end],
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        size=size,
        offset=offset + shift,
        host=made_by >> 8,
        attributes=attributes,
        end=extra_end + lengths[2],
    )


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Packed and unpacked size and offset, those that do not fit in 32 bits from the extra field (4.5.3)."""
    values = iter(_numbers_64(extra))
    size = next(values, size) if size == _MAX_32 else size
    packed = next(values, packed) if packed == _MAX_32 else packed
    offset = next(values, offset) if offset == _MAX_32 else offset
    return packed, size, offset


def _numbers_64(extra: bytes) -> Iterator[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            yield from (int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) // 8 * 8, 8))
            return
        at += 4 + length


def local(source: BinaryIO, offset: int) -> tuple[Listed, int]:
    """The header before a member's content, and where the content begins; raises Refused."""
    fixed = read_at(source, offset, _LOCAL_HEADER.size)
    mark, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(fixed)
    if mark != LOCAL:
        raise Refused(Reason.DAMAGED_PACK, "there is no member where the zip's directory says")
    rest = read_at(source, offset + _LOCAL_HEADER.size, name_length + extra_length)
    packed, size, _ = _large(rest[name_length:], size, packed, 0)
    found = Listed(
        raw_name=rest[:name_length],
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        size=size,
        offset=offset,
    )
    return found, offset + _LOCAL_HEADER.size + len(rest)


def is_self_contained(header: Listed) -> bool:
    """Whether a header before content tells its sizes, so that the next one can be found without a directory."""
    return not header.flags & (_SIZES_FOLLOW | _MASKED)


def contradicts(header: Listed, listed: Listed) -> bool:
    """Whether the header before the content tells of another member than the directory."""
    if (header.raw_name, header.method) != (listed.raw_name, listed.method):
        return True
    if (header.flags ^ listed.flags) & _ENCRYPTED:
        return True
    ours = (header.checksum, header.packed, header.size)
    return not header.flags & _SIZES_FOLLOW and ours != (listed.checksum, listed.packed, listed.size)


def is_count_wrong(end: End, counted: int) -> bool:
    """Old writers let the number of members overflow its 16 bits."""
    return end.members != (counted if end.is_64 else counted & _MAX_16)
