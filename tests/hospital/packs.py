"""Files into packs: zip and tar, byte for byte the same each time; and damage done to them."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence

from hospital.planted import ACCESSION_STEM, INSTITUTION, OPERATOR

_WHEN = (2019, 5, 6, 7, 8, 10)
_LOCAL, _CENTRAL = b"PK\3\4", b"PK\1\2"

Files = Sequence[tuple[str, bytes]]


def zipped(files: Files, *, folders: bool = True, comment: str = "", stored: bool = False) -> bytes:
    """A zip, with entries for its folders where asked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for folder in sorted({name.rpartition("/")[0] for name, _ in files} - {""}) if folders else ():
            pack.writestr(zipfile.ZipInfo(f"{folder}/", _WHEN), b"")
        for name, data in files:
            info = zipfile.ZipInfo(name, _WHEN)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            if comment:
                info.comment = comment.encode()
            pack.writestr(info, data, compresslevel=1)
        pack.comment = comment.encode()
    return buffer.getvalue()


def tarred(files: Files, *, gzipped: bool = False, links: Sequence[tuple[str, str]] = (), name: str = "") -> bytes:
    """A tar with a folder entry; `links` are symbolic, (name, target). name: in gzip's header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as pack:
        for folder in sorted({path.rpartition("/")[0] for path, _ in files if not path.startswith(("/", "."))} - {""}):
            pack.addfile(_owned(tarfile.TarInfo(folder), tarfile.DIRTYPE))
        for path, data in files:
            info = _owned(tarfile.TarInfo(path), tarfile.REGTYPE)
            info.size = len(data)
            pack.addfile(info, io.BytesIO(data))
        for path, target in links:
            info = _owned(tarfile.TarInfo(path), tarfile.SYMTYPE)
            info.linkname = target
            pack.addfile(info)
    return squeezed(buffer.getvalue(), name) if gzipped else buffer.getvalue()


def squeezed(data: bytes, name: str = "") -> bytes:
    """gzip, the same each time."""
    buffer = io.BytesIO()
    with gzip.GzipFile(name, "wb", 3, buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def patched(pack: bytes, member: str, *, flag: int | None = None, method: int | None = None) -> bytes:
    """A zip whose headers claim flags or a compression method for one member (APPNOTE 4.3.7 and 4.3.12)."""
    data = bytearray(pack)
    with zipfile.ZipFile(io.BytesIO(pack)) as found:
        info, central = found.getinfo(member), found.start_dir
    while True:
        lengths = struct.unpack_from("<3H", data, central + 28)
        name = bytes(data[central + 46 : central + 46 + lengths[0]]).decode()
        if data[central : central + 4] != _CENTRAL:
            raise ValueError("the zip's directory ends before the member")
        if name == member:
            break
        central += 46 + sum(lengths)
    for header, offset in ((info.header_offset, 6), (central, 8)):
        flags, old = struct.unpack_from("<2H", data, header + offset)
        struct.pack_into("<2H", data, header + offset, flags | (flag or 0), old if method is None else method)
    return bytes(data)


def directory_start(pack: bytes) -> int:
    """Where a zip's directory begins."""
    with zipfile.ZipFile(io.BytesIO(pack)) as found:
        return found.start_dir


def header_start(pack: bytes, member: str) -> int:
    """Where the last header before a tar member's content begins."""
    with tarfile.open(fileobj=io.BytesIO(pack)) as found:
        return found.getmember(member).offset_data - tarfile.BLOCKSIZE


def zip_of_repeats(name: str, head: bytes, block: bytes, times: int) -> bytes:
    """A zip of one member, `block` repeated, its start overwritten by `head`; the block is packed only once.

    So a member of half a gigabyte takes no time to write. The blocks are deflated so that each stands by itself.
    """
    first = head + block[len(head) :]
    packed = []
    for piece in (first, block):
        squeeze = zlib.compressobj(6, wbits=-15)
        packed.append(squeeze.compress(piece) + squeeze.flush(zlib.Z_FULL_FLUSH))
    checksum = 0
    last = b"\3\0"  # an empty block that says it is the last
    for number in range(times):
        checksum = zlib.crc32(block if number else first, checksum)
    data = packed[0] + packed[1] * (times - 1) + last
    encoded, size = name.encode(), len(block) * times
    sizes = struct.pack("<3I2H", checksum, len(data), size, len(encoded), 0)
    local = struct.pack("<4s5H", _LOCAL, 20, 0x800, 8, 0, 0x2821) + sizes + encoded
    made_by = struct.pack("<4s6H", _CENTRAL, 0x031E, 20, 0x800, 8, 0, 0x2821)
    central = made_by + sizes + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, 0) + encoded
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    return local + data + central + end


def _owned(info: tarfile.TarInfo, kind: bytes) -> tarfile.TarInfo:
    info.type = kind
    info.mtime = 1_557_126_490
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uname = OPERATOR.partition("^")[0]
    info.gname = INSTITUTION
    info.pax_headers = {"comment": f"{ACCESSION_STEM}000000"}
    return info
