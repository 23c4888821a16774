"""Packs through `read`: what is in them comes out, in order; what is wrong with one member costs that member."""

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mri_ray.archive.storage import Location
from mri_ray.decode import pack, unpack
from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.decode.member_names import MemberNames
from mri_ray.decode.read import Window, read
from mri_ray.decode.settings import DecodeConfig, PackConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Slice

URI = "s3://bucket/pack"
MIB = 2**20


def png(number: int = 0, side: int = 24) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (side, side), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


A, B, C, D = (png(number) for number in range(4))
Files = Sequence[tuple[str, bytes]]
ABC_NAMES = ("a.png", "folder/b.png", "folder/deeper/c.png")
ABC = tuple(zip(ABC_NAMES, (A, B, C), strict=True))


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal names
        for name, data in files:
            file.writestr(name, data)
    return out.getvalue()


def tarred(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def squeezed(files: Files) -> bytes:
    return gzip.compress(tarred(files), 1)


def config(**limits: int) -> DecodeConfig:
    return DecodeConfig(pack=PackConfig(**limits))


def items(data: bytes, settings: DecodeConfig | None = None, *, parted: bool = True) -> list[Slice | Failure]:
    """parted: whether reading it in parts gives the same, as it does but for what only the sum of all tells."""
    found = list(read(io.BytesIO(data), URI, settings or DecodeConfig()))
    assert not parted or [outcome(item) for item in in_windows(data, settings)] == [outcome(item) for item in found]
    return found


def in_windows(data: bytes, settings: DecodeConfig | None = None) -> Iterator[Slice | Failure]:
    """The same, in parts of a few members, as they are read when some kill their process."""
    every = Window(start=0, stop=0)
    assert list(read(io.BytesIO(data), URI, settings or DecodeConfig(), window=every)) == []
    step = max(1, every.seen // 3)
    for start in range(0, every.seen, step):
        window = Window(start=start, stop=start + step)
        yield from read(io.BytesIO(data), URI, settings or DecodeConfig(), window=window)


def outcome(item: Slice | Failure) -> tuple[str | None, str]:
    """Its member, and what became of it."""
    return item.member, "slice" if isinstance(item, Slice) else item.reason.value


def outcomes(data: bytes, settings: DecodeConfig | None = None, **more: bool) -> list[tuple[str | None, str]]:
    return [outcome(item) for item in items(data, settings, **more)]


def slices(*names: str) -> list[tuple[str | None, str]]:
    return [(name, "slice") for name in names]


# What is in a pack comes out

PACKS = {"zip": zipped, "tar": tarred, "tar.gz": squeezed}


@pytest.mark.parametrize("kind", PACKS)
def test_members_are_decoded_as_files_are(kind):
    found = items(PACKS[kind](ABC))
    assert [item.member for item in found] == [name for name, _ in ABC]
    for item, (_, data) in zip(found, ABC, strict=True):
        (alone,) = read(io.BytesIO(data), URI)
        assert isinstance(item, Slice)
        assert np.array_equal(item.pixels, alone.pixels)
        assert (item.bits, item.frame, item.flags) == (alone.bits, alone.frame, alone.flags)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\.:", exclude_categories=["Cc", "Cf", "Zl", "Zp"]))
CONTENT = st.binary(max_size=3000).map(b".".__add__) | st.integers(1, 300_000).map(lambda length: b"ab" * length)
FILES = st.lists(st.tuples(NAMES.filter(lambda name: 0 < len(name) < 60).map("x/{}_".format), CONTENT), max_size=8)


@pytest.mark.parametrize("kind", PACKS)
@settings(max_examples=60, deadline=None)
@given(FILES.filter(bool))
def test_whatever_is_packed_comes_out_in_its_order(kind, files):
    names, seen = MemberNames(), []
    source, gzipped = io.BytesIO(PACKS[kind](files)), kind == "tar.gz"
    found = pack.members(kind.removesuffix(".gz"), source, URI, DecodeConfig(), _budget(), gzipped=gzipped)
    for item, (name, data) in zip(found, files, strict=True):
        seen.append(names.give(name))
        assert isinstance(item, pack.Member)
        assert (item.name, item.size) == (seen[-1], len(data))
        assert item.source.read() == data
    assert len(set(seen)) == len(files)


def _budget(**limits: int) -> pack.Budget:
    return pack.Budget(config=PackConfig(**limits))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_each_compression_of_a_zip(method):
    large = np.random.default_rng(1).integers(0, 4, 600_000, np.uint8).tobytes()
    files = [("a.png", A), ("large", large), ("zeros", bytes(600_000)), ("b.png", B)]
    found = list(pack.members("zip", io.BytesIO(zipped(files, method)), URI, DecodeConfig(), _budget()))
    assert [member.source.read() for member in found] == [data for _, data in files]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["é/" + "ü" * 40 + ".png", "f/" * 60 + "n" * 90, "n" * 99, "x" * 100])
def test_each_form_of_a_tar(form, name):
    assert outcomes(tarred([(name, A), ("b.png", B)], form)) == slices(name, "b.png")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_too_long_for_a_tars_header(form):
    name = "/".join(["Aufnahme-é" * 9] * 9) + ".png"
    assert outcomes(tarred([(name, A), ("b.png", B)], form)) == slices(name, "b.png")


def v7(name: bytes, data: bytes, kind: bytes = b"\0", size: int | None = None) -> bytes:
    """A member as tars were before they had a magic."""
    length = len(data) if size is None else size
    fields = struct.pack("100s8s8s8s12s12s", name, b"0000644", b"0", b"0", b"%011o" % length, b"%011o" % 1)
    header = bytearray((fields + b" " * 8 + kind).ljust(512, b"\0"))
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def test_a_tar_older_than_its_magic():
    data = v7(b"folder/", b"") + v7(b"folder/a.png", A) + v7(b"b.png", B) + bytes(1024)
    assert outcomes(data) == slices("folder/a.png", "b.png")
    assert outcomes(gzip.compress(data)) == slices("folder/a.png", "b.png")


def test_sizes_in_extended_headers_and_in_binary():
    out = io.BytesIO()
    info = tarfile.TarInfo("a.png")
    info.size, info.pax_headers = len(A), {"size": str(len(A)), "comment": "x" * 5000}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as file:
        file.addfile(info, io.BytesIO(A))
    assert outcomes(out.getvalue()) == slices("a.png")
    binary = bytearray(v7(b"a.png", A))
    binary[124:136] = b"\x80" + len(A).to_bytes(11, "big")
    binary[148:156] = b" " * 8
    binary[148:156] = b"%06o\0 " % sum(binary[:512])
    assert outcomes(bytes(binary) + bytes(1024)) == slices("a.png")


def test_webdataset_shards_are_read_as_they_are():
    files = []
    for number in range(3):
        files += [
            (f"./shard/{number:06}.png", png(number)),
            (f"./shard/{number:06}.cls", b"1"),
            (f"./shard/{number:06}.json", b'{"label": "tumor", "name": "J\xc3\xb6rg"}'),
        ]
    found = outcomes(tarred(files))
    assert found[::3] == slices(*(f"shard/{number:06}.png" for number in range(3)))
    assert [what for _, what in found[1::3] + found[2::3]] == ["skipped.sidecar"] * 6


def test_folders_are_no_objects():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.mkdir("folder")
        file.writestr("folder/a.png", A)
    assert outcomes(out.getvalue()) == slices("folder/a.png")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        info = tarfile.TarInfo("folder")
        info.type = tarfile.DIRTYPE
        file.addfile(info)
    assert outcomes(out.getvalue() + tarred([("a.png", A)])) == slices("a.png")


def test_a_member_with_many_frames_or_none():
    out = io.BytesIO()
    first, second = (Image.open(io.BytesIO(data)) for data in (A, B))
    first.save(out, "TIFF", save_all=True, append_images=[second])
    found = items(zipped([("t.tif", out.getvalue()), ("none", b""), ("what", b"\0\1\2\3" * 50)]))
    assert [(item.frame, *outcome(item)) for item in found] == [
        (0, "t.tif", "slice"),
        (1, "t.tif", "slice"),
        (None, "none", "empty.object"),
        (None, "what", "unknown.format"),
    ]


# What is no image


@pytest.mark.parametrize("kind", PACKS)
def test_what_lies_beside_images_is_skipped(kind):
    double = b"\0\5\x16\7" + bytes(100)
    skipped = [
        ("__MACOSX/._a.png", double),
        ("__MACOSX/x/a.png", A),
        ("._a.png", double),
        (".DS_Store", bytes(100)),
        ("x/Thumbs.db", bytes(100)),
        ("x/README", b"Read me."),
        ("x/latin.TXT", "Größe".encode("latin-1")),
        ("x/wide.csv", "Größe".encode("utf-16")),
        ("x/empty.cls", b""),
        ("x/dwi.bvec", b"0 0 1\n"),
        ("x/long.xml", b"<a>" + b"\xc3\xa9" * 100_000),
    ]
    found = outcomes(PACKS[kind]([*skipped, ("a.png", B)]))
    assert found == [(name, "skipped.sidecar") for name, _ in skipped] + slices("a.png")


@pytest.mark.parametrize("kind", PACKS)
def test_the_content_says_what_a_sidecar_is(kind):
    found = outcomes(PACKS[kind]([("a.txt", A), ("._b.png", B), ("c.json", b"\0\1\2"), ("notes", b"text")]))
    assert [what for _, what in found] == ["slice", "slice", "unknown.format", "unknown.format"]


# Names


UNSAFE = [
    "../a.png",
    "x/../../a.png",
    "/etc/a.png",
    "C:/a.png",
    "c:a.png",
    "..\\a.png",
    "\\a.png",
    "x\\..\\a",
    "C:\\a.png",
]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("kind", PACKS)
def test_names_that_lead_out_are_reported_and_not_read(kind, name):
    assert outcomes(PACKS[kind]([(name, A), ("b.png", B)])) == [(name, "unsafe.member"), ("b.png", "slice")]


def test_a_name_with_a_zero_in_it():
    data = raw_zip(Raw(b"a.png\0.txt", A), Raw(b"b.png", B))
    assert outcomes(data) == [(r"a.png\x00.txt", "unsafe.member"), ("b.png", "slice")]
    assert outcomes(raw_zip(Raw(b"", A), Raw(b"./.", B)))[0] == ("(no name)", "unsafe.member")


@pytest.mark.parametrize("kind", PACKS)
def test_folders_may_be_written_in_many_ways(kind):
    names = ["./a.png", "x//b.png", "x\\y\\c.png", "x/./d.png"]
    assert outcomes(PACKS[kind]([(name, A) for name in names])) == slices("a.png", "x/b.png", "x/y/c.png", "x/d.png")


@pytest.mark.parametrize("kind", PACKS)
def test_nothing_unprintable_goes_on(kind):
    found = outcomes(PACKS[kind]([("a\n\x1b[31m\u202e.png", A), ("x/" + "long" * 1000, B), ("x!/y.png", C)]))
    assert found[0][0] == r"a\x0a\x1b[31m\u202e.png"
    assert len(found[1][0]) < 1100
    assert found[2][0] == r"x!\x2fy.png"  # or it would read as a member of a pack named "x"
    assert [what for _, what in found] == ["slice"] * 3


def test_equal_names_are_told_apart():
    files = [("a", A), ("a", B), ("./a", C), ("a#2", D), ("a", A), ("l" * 5000, A), ("l" * 5000, B), ("l" * 5001, C)]
    found = outcomes(tarred(files))
    assert [name for name, _ in found[:5]] == ["a", "a#2", "a#3", "a#2#2", "a#4"]
    assert len({name for name, _ in found}) == len(files)
    assert {what for _, what in found} == {"slice"}
    assert found == outcomes(tarred(files))


@given(st.lists(st.text(max_size=5) | st.sampled_from(["a", "a#2", "a#3", "A", "../a"]), max_size=30))
def test_names_given_are_printable_and_differ(names):
    given_names = MemberNames()
    shown = [given_names.give(name) for name in names]
    assert len(set(shown)) == len(shown)
    assert all(name and "\0" not in name and "\n" not in name and "!/" not in name for name in shown)
    assert shown == [again.give(name) for again in [MemberNames()] for name in names]


def test_names_in_old_and_broken_encodings():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("Schädel.png", A)  # zipfile writes UTF-8 and says so
    assert outcomes(out.getvalue()) == slices("Schädel.png")
    data = raw_zip(
        Raw("Schädel.png".encode("cp437"), A), Raw(b"caf\xe9.png", B, flags=0x800), Raw(b"caf\xe8.png", C, flags=0x800)
    )
    assert outcomes(data) == slices("Schädel.png", r"caf\xe9.png", r"caf\xe8.png")
    assert outcomes(raw_zip(Raw("Schädel.png".encode(), A))) == slices("Schädel.png")  # by Linux's zip, unsaid
    assert outcomes(v7(b"caf\xe9.png", A) + bytes(1024)) == slices(r"caf\xe9.png")


# What no file is


def test_links_and_devices_in_a_tar():
    data = b"".join(v7(kind, b"", kind) for kind in (b"1", b"2", b"3", b"4", b"6"))
    data += v7(b"s", b"", b"2", size=9999) + tarred([("a.png", A)])  # and no content, whatever the size
    assert outcomes(data) == [*((name, "unsafe.member") for name in "12346s"), ("a.png", "slice")]


def test_links_and_devices_in_a_zip():
    kinds = (0o120777, 0o010644, 0o020644, 0o060644, 0o140644)
    raws = [Raw(b"%d" % number, b"/etc/passwd", host=3, attributes=kind << 16) for number, kind in enumerate(kinds)]
    data = raw_zip(*raws, Raw(b"x/", b"content"), Raw(b"dos", b"", host=0, attributes=0x10), Raw(b"a.png", A))
    unsafe = [(f"{number}", "unsafe.member") for number in range(5)]
    assert outcomes(data) == [*unsafe, ("x", "unsafe.member"), ("a.png", "slice")]


def test_sparse_files_and_parts_of_files_in_a_tar():
    sparse = bytearray(v7(b"s", bytes(512), b"S"))
    sparse[482] = 1  # its map goes on in a block of its own
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse[:512])
    sparse[512:512] = bytes(512)
    pax = v7(b"h", b"30 GNU.sparse.name=sparse.bin\n", b"x") + v7(b"GNUSparseFile.0/sparse.bin", bytes(700))
    part = v7(b"part", bytes(700), b"M")
    label = v7(b"volume", b"", b"V")
    unknown = v7(b"b.png", B, b"Z")  # a type that nobody knows is a file
    data = label + bytes(sparse) + pax + part + unknown + tarred([("a.png", A)])
    assert outcomes(data) == [
        ("s", "unsupported.compression"),
        ("sparse.bin", "unsupported.compression"),
        ("part", "unsafe.member"),
        *slices("b.png", "a.png"),
    ]


# Zips made by hand


@dataclass(frozen=True)
class Raw:
    """A member as a zip's directory lists it; `local` holds what its own header says otherwise."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    size: int | None = None
    checksum: int | None = None
    packed: int | None = None
    offset: int | None = None
    host: int = 3
    attributes: int = 0
    wide: bool = False  # sizes and offset in the extra field of zip64
    local: dict[str, object] = field(default_factory=dict)


def deflated(name: bytes, data: bytes, **fields: object) -> Raw:
    squeeze = zlib.compressobj(9, wbits=-15)
    packed = squeeze.compress(data) + squeeze.flush()
    return replace(Raw(name, packed, 8, size=len(data), checksum=zlib.crc32(data)), **fields)


def raw_zip(
    *members: Raw,
    before: bytes = b"",
    count: int | None = None,
    wide: bool = False,
    order: Sequence[int] | None = None,
    disk: int = 0,
) -> bytes:
    """wide: with the large end record. order: of the directory."""
    body, listed = bytearray(before), []
    for member in members:
        mine = replace(member, **member.local)
        size, checksum = _size(mine), _checksum(mine)
        head = struct.pack("<4s5H", b"PK\3\4", 20, mine.flags, mine.method, 0, 0x21)
        offset = len(body) if member.offset is None else member.offset
        body += head + struct.pack("<3I2H", checksum, _packed(mine), size, len(mine.name), 0) + mine.name + mine.data
        sizes, extra = [_packed(member), _size(member)], b""
        if member.wide:
            extra = struct.pack("<2H3Q", 1, 24, sizes[1], sizes[0], offset)
            sizes, offset = [2**32 - 1] * 2, 2**32 - 1
        entry = struct.pack("<4s6H", b"PK\1\2", member.host << 8 | 20, 20, member.flags, member.method, 0, 0x21)
        entry += struct.pack("<3I3H", _checksum(member), *sizes, len(member.name), len(extra), 0)
        listed.append(entry + struct.pack("<2H2I", 0, 0, member.attributes, offset) + member.name + extra)
    directory = b"".join(listed if order is None else [listed[i] for i in order])
    number, start = len(members) if count is None else count, len(body)
    end = b""
    if wide:
        end += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, len(directory), start)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    fields = (0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1) if wide else (number, number, len(directory), start)
    return bytes(body) + directory + end + struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, *fields, 0)


def _size(raw: Raw) -> int:
    return len(raw.data) if raw.size is None else raw.size


def _checksum(raw: Raw) -> int:
    return zlib.crc32(raw.data) if raw.checksum is None else raw.checksum


def _packed(raw: Raw) -> int:
    return len(raw.data) if raw.packed is None else raw.packed


def test_zip64():
    data = raw_zip(Raw(b"a.png", A, wide=True), deflated(b"b.png", B, wide=True), wide=True)
    assert outcomes(data) == slices("a.png", "b.png")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.png", "w", force_zip64=True) as member:
        member.write(A)
    assert outcomes(out.getvalue()) == slices("a.png")
    assert outcomes(data.replace(b"PK\6\6", b"PK\6\0")) == [*slices("a.png", "b.png"), (None, "damaged.pack")]


def test_a_zip_with_more_members_than_its_first_format_counts():
    folders = [Raw(b"%d/" % number, b"") for number in range(65_540)]
    data = raw_zip(Raw(b"a.png", A), *folders, count=5)  # 16 bits, run over
    assert outcomes(data) == slices("a.png")


def test_members_come_as_they_are_stored_whatever_the_directorys_order():
    raws = [Raw(name.encode(), data) for name, data in ABC]
    assert outcomes(raw_zip(*raws, order=[2, 0, 1])) == slices(*ABC_NAMES)


def test_a_zip_written_to_a_pipe():
    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:  # sizes stand behind the content
        for name, data in ABC:
            file.writestr(name, data)
    assert outcomes(pipe.written) == slices(*ABC_NAMES)
    assert outcomes(pipe.written[:-1]) == [(None, "truncated.pack")]


def test_zips_of_several_disks():
    split = raw_zip(Raw(b"a.png", A), disk=1)
    assert outcomes(split) == [(None, "unsupported.format")]
    assert outcomes(b"PK\7\x08" + split) == [(None, "unsupported.format")]
    assert outcomes(raw_zip(Raw(b"a.png", A), before=b"PK00")) == slices("a.png")


def test_encrypted_members():
    aes = Raw(b"a.png", A, method=99, flags=1)
    strong = Raw(b"b.png", B, flags=0x41)
    masked = Raw(b"c.png", C, flags=0x2001)
    found = outcomes(raw_zip(Raw(b"0.png", A, flags=1), aes, strong, masked, Raw(b"d.png", D)))
    assert found == [*((name, "encrypted.member") for name in ("0.png", "a.png", "b.png", "c.png")), ("d.png", "slice")]


def test_compressions_that_are_not_read_are_named():
    found = items(raw_zip(Raw(b"a", A, method=9), Raw(b"b", B, method=93), Raw(b"c", C, method=77), Raw(b"d", D)))
    for name, item in zip(("deflate64", "zstandard", "77"), found[:3], strict=True):
        assert isinstance(item, Failure)
        assert item.reason is Reason.UNSUPPORTED_COMPRESSION
        assert name in item.detail
    assert isinstance(found[3], Slice)


# Damage costs the member it is in


@pytest.mark.parametrize(
    "member",
    [
        Raw(b"b.png", B, checksum=1),
        deflated(b"b.png", B, checksum=1),
        deflated(b"b.png", B, size=len(B) - 1),
        deflated(b"b.png", B, size=len(B) + 1),
        Raw(b"b.png", b"\xff" + B, 8, size=len(B)),
        Raw(b"b.png", zlib.compress(B)[2:20], 8, size=len(B)),
        Raw(b"b.png", b"BZh9" + B, 12, size=len(B)),
        Raw(b"b.png", bz2.compress(B)[:-20], 12, size=len(B), checksum=zlib.crc32(B)),
        Raw(b"b.png", b"\x09\4\5\0\x5d\0\0\x80\0" + b"\xff" * 99, 14, size=len(B)),
        Raw(b"b.png", b"\x09\4\5\0\xff\0\0\x80\0" + b"\xff" * 99, 14, size=len(B)),
        Raw(b"b.png", b"\x09\4", 14, size=len(B)),
        Raw(b"b.png", b"", 8, size=len(B)),
    ],
)
def test_damaged_content(member):
    found = items(raw_zip(Raw(b"a.png", A), member, Raw(b"c.png", C)))
    assert [outcome(item) for item in found] == [("a.png", "slice"), ("b.png", "damaged.image"), ("c.png", "slice")]
    assert "b.png" not in found[1].detail


@pytest.mark.parametrize(
    "local",
    [
        {"name": b"c.png"},
        {"name": b"b.pngx"},
        {"method": 8},
        {"flags": 1},
        {"size": 77},
        {"packed": 77},
        {"checksum": 77},
    ],
)
def test_a_header_that_contradicts_the_directory(local):
    found = outcomes(raw_zip(Raw(b"a.png", A), Raw(b"b.png", B, local=local), Raw(b"c.png", C)))
    assert found == [("a.png", "slice"), ("b.png", "damaged.pack"), ("c.png", "slice")]


@pytest.mark.parametrize("offset", [7, 10**6, 2**32 - 2])
def test_a_directory_that_points_elsewhere(offset):
    found = outcomes(raw_zip(Raw(b"a.png", A), Raw(b"b.png", B, offset=offset), Raw(b"c.png", C)))
    first = "slice" if offset > 7 else "damaged.pack"  # into which the second would reach
    assert sorted(found) == [("a.png", first), ("b.png", "damaged.pack"), ("c.png", "slice")]


def test_a_damaged_directory():
    data = raw_zip(*(Raw(name.encode(), data) for name, data in ABC))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    assert outcomes(data[:second] + b"xx" + data[second + 2 :]) == [("a.png", "slice"), (None, "damaged.pack")]
    first = data.index(b"PK\1\2")  # without any of it, the members' own headers serve
    assert outcomes(data[:first] + b"xx" + data[first + 2 :]) == [
        *slices(*ABC_NAMES),
        (None, "damaged.pack"),
    ]
    assert outcomes(data[:first] + bytes(len(data) - first - 22) + data[-22:])[-1] == (None, "damaged.pack")


def test_a_directory_that_hides_members():
    one, two = raw_zip(Raw(b"a.png", A)), raw_zip(Raw(b"b.png", B))
    assert outcomes(one + two) == [("b.png", "slice"), (None, "damaged.pack")]
    assert outcomes(one + b"PK\5\6" + bytes(18)) == [(None, "damaged.pack")]
    for count in (0, 1, 3):
        found = outcomes(raw_zip(Raw(b"a.png", A), Raw(b"b.png", B), count=count))
        assert found == [*slices("a.png", "b.png"), (None, "damaged.pack")]


def _cuts(data: bytes) -> range:
    return range(32, len(data), 37)


def test_a_zip_cut_short_gives_what_is_whole():
    data = zipped(ABC)
    ends = [data.index(b"PK\3\4", 1), data.index(b"PK\3\4", len(A)), data.index(b"PK\1\2")]
    ends = sorted({*ends, *(info.header_offset for info in zipfile.ZipFile(io.BytesIO(data)).infolist()[1:])})
    for cut in _cuts(data):
        whole = sum(end <= cut for end in ends)
        assert outcomes(data[:cut]) == [*slices(*ABC_NAMES[:whole]), (None, "truncated.pack")]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_cut_short_gives_what_is_whole(kind):
    data = PACKS[kind](ABC)
    most = 0
    for cut in _cuts(data):
        if kind == "tar" and cut < 262:
            continue  # too little to be known as one
        found = outcomes(data[:cut])
        if found == [(None, "unsupported.format")]:
            assert kind == "tar.gz"
            assert cut < 700
            continue
        whole = [item for item in found if item[1] == "slice"]
        assert whole == slices(*ABC_NAMES[: len(whole)])
        rest = found[len(whole) :]
        if rest:
            assert rest[-1] == (None, "truncated.pack")
            assert rest[:-1] in ([], [(name, "truncated.pack") for name in ABC_NAMES[len(whole) : len(whole) + 1]])
        else:
            assert kind == "tar"  # from the first block of its end mark on
        assert len(whole) >= most
        most = len(whole)
    assert most == 3


def test_a_tar_without_its_end_mark():
    assert outcomes(v7(b"a.png", A)) == [("a.png", "slice"), (None, "truncated.pack")]
    assert outcomes(v7(b"a.png", A) + bytes(512)) == slices("a.png")
    assert outcomes(v7(b"a.png", A) + bytes(700)) == slices("a.png")


def test_tars_one_after_another():
    assert outcomes(tarred([("a.png", A)]) + tarred([("b.png", B)])) == slices("a.png", "b.png")
    assert outcomes(squeezed([("a.png", A)]) + bytes(99) + squeezed([("b.png", B)])) == slices("a.png", "b.png")
    assert outcomes(squeezed([("a.png", A)]) + b"signature") == slices("a.png")
    assert outcomes(tarred([("a.png", A)]) + b"\1" * 512) == [("a.png", "slice"), (None, "damaged.pack")]


@pytest.mark.parametrize("place", [0, 148, 124, 156])
def test_a_damaged_header_in_a_tar(place):
    data = bytearray(tarred(ABC))
    data[bytes(data).index(b"folder/b.png") + place] ^= 0x55
    assert outcomes(bytes(data)) == [("a.png", "slice"), (None, "damaged.pack")]


@pytest.mark.parametrize(
    "extended",
    [
        v7(b"h", b"nonsense\n", b"x"),
        v7(b"h", b"99 path=a\n", b"x"),
        v7(b"h", b"10 path=a", b"x"),
        v7(b"h", b"11 size=-1\n", b"x"),
        v7(b"h", b"", b"x", size=2**31),
        v7(b"h", b"", b"L", size=2**31),
        v7(b"h", b"1", b"x") * 3,
        v7(b"h", b"", b"g") * 30,
        v7(b"h", b"n" * 200, b"L") + bytes(1024),
    ],
)
def test_damaged_extended_headers(extended):
    data = tarred([("a.png", A)]) + extended + tarred([("b.png", B)])
    assert outcomes(data) == [("a.png", "slice"), (None, "damaged.pack")]


def test_a_damaged_gzip():
    files = [("a.png", A), ("noise", np.random.default_rng(0).bytes(300_000)), ("b.png", B)]
    data = bytearray(squeezed(files))
    data[150_000:150_010] = bytes(10)
    found = outcomes(bytes(data))
    assert found[0] == ("a.png", "slice")
    assert found[-1] == (None, "damaged.pack")
    data = bytearray(squeezed(ABC))
    data[-5] ^= 1  # the checksum of all, after all members have passed
    assert outcomes(bytes(data)) == [*slices(*ABC_NAMES), (None, "damaged.pack")]


@pytest.mark.parametrize(
    "data",
    [
        b"PK\5\6" + bytes(18),
        zipped([("x/", b""), ("x/y/", b"")]),
        v7(b"folder/", b"") + bytes(1024),
        gzip.compress(v7(b"folder/", b"") + bytes(1024)),
    ],
)
def test_packs_without_a_file(data):
    (item,) = items(data)
    assert outcome(item) == (None, "empty.pack")


def test_a_pack_of_other_things_is_not_empty():
    assert outcomes(zipped([("a.txt", b"text")])) == [("a.txt", "skipped.sidecar")]


# Packs in packs


def test_packs_in_packs_are_read_to_the_depth_allowed():
    deepest = zipped([("d.png", D)])
    middle = tarred([("deep/d.zip", deepest), ("c.png", C)])
    outer = zipped([("a.png", A), ("m.tar", middle), ("m.tgz", gzip.compress(middle)), ("b.png", B)])
    inner = [("m.tar!/deep/d.zip", "oversized.depth"), ("m.tar!/c.png", "slice")]
    again = [(name.replace(".tar", ".tgz"), what) for name, what in inner]
    assert outcomes(outer) == [("a.png", "slice"), *inner, *again, ("b.png", "slice")]
    assert ("m.tgz!/deep/d.zip!/d.png", "slice") in outcomes(outer, config(max_depth=3))
    assert outcomes(outer, config(max_depth=1))[1:3] == [("m.tar", "oversized.depth"), ("m.tgz", "oversized.depth")]


def test_only_one_of_a_packs_members_is_read_when_asked():
    outer = zipped([("a.png", A), ("m.tar", tarred([("b.png", B), ("c.png", C)])), ("b.png", B)])
    for name in ("a.png", "m.tar!/c.png", "b.png"):
        assert [outcome(item) for item in read(io.BytesIO(outer), URI, only=name)] == slices(name)


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_a_zip_in_a_pack_is_put_where_it_can_be_sought_in(size, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inner = zipped([("a.png", A), ("noise", np.random.default_rng(0).bytes(size)), ("b.png", B)])
    for outer in (tarred([("x.zip", inner), ("c.png", C)]), zipped([("x.zip", inner), ("c.png", C)])):
        found = outcomes(outer)
        assert [found[0], *found[2:]] == slices("x.zip!/a.png", "x.zip!/b.png", "c.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", PACKS)
def test_a_damaged_pack_in_a_pack_costs_no_other(kind):
    inner = PACKS[kind](ABC)
    outer = zipped([("a.png", A), ("broken", inner[: len(inner) - 600 * (kind != "zip") - 30]), ("b.png", B)])
    found = outcomes(outer)
    assert (found[0], found[-1]) == (("a.png", "slice"), ("b.png", "slice"))
    assert kind == "tar" or ("broken", "truncated.pack") in found
    wrong = zipped([("a.png", A), ("x.zip", zipped(ABC))], zipfile.ZIP_STORED)
    wrong = wrong.replace(B, B[:-1] + b"!")  # the inner checksum and the outer one
    assert ("x.zip", "damaged.image") in outcomes(wrong)


# Bombs


def _zeros(size: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=-15)
    pieces = [squeeze.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join(pieces) + squeeze.flush()


def _zeros_checksum(size: int) -> int:
    checksum = 0
    for _ in range(size // MIB):
        checksum = zlib.crc32(bytes(MIB), checksum)
    return checksum


def test_a_blank_picture_is_no_bomb():
    out = io.BytesIO()
    Image.new("L", (4000, 4000)).save(out, "BMP")
    assert outcomes(zipped([("blank.bmp", out.getvalue())])) == slices("blank.bmp")
    assert outcomes(squeezed([("blank.bmp", out.getvalue())])) == slices("blank.bmp")


def test_a_member_that_inflates_too_far_costs_no_other():
    size = 100 * MIB
    data = _zeros(size)
    told = Raw(b"told", data, 8, size=size, checksum=_zeros_checksum(size))
    # The second announces what is allowed, and then goes on.
    untold = replace(told, name=b"untold", size=60 * MIB, checksum=_zeros_checksum(60 * MIB))
    found = items(raw_zip(told, untold, Raw(b"a.png", A)))
    assert [outcome(item) for item in found] == [
        ("told", "oversized.ratio"),
        ("untold", "unknown.format"),  # it is not read further than its head
        ("a.png", "slice"),
    ]
    (member,) = (m for m in _members(raw_zip(untold)) if isinstance(m, pack.Member))
    assert member.source.read(60 * MIB).count(0) == 60 * MIB
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            member.source.read(MIB)
        assert caught.value.reason is Reason.DAMAGED


def _members(data: bytes, **limits: int) -> list[pack.Member | Failure]:
    return list(pack.members("zip", io.BytesIO(data), URI, DecodeConfig(), _budget(**limits)))


@pytest.mark.parametrize(("method", "squeeze"), [(12, bz2.compress), (14, None)])
def test_a_bomb_in_other_compressions_is_unpacked_piece_by_piece(method, squeeze):
    size = 80 * MIB
    if squeeze is None:
        options = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}
        data = b"\x09\4\5\0\x5d\0\0\1\0" + lzma.compress(bytes(size), lzma.FORMAT_RAW, filters=[options])
    else:
        data = squeeze(bytes(size))
    bomb = Raw(b"bomb", data, method, size=size, checksum=_zeros_checksum(size))
    assert outcomes(raw_zip(bomb, Raw(b"a.png", A))) == [("bomb", "oversized.ratio"), ("a.png", "slice")]
    small = replace(bomb, size=60 * MIB)
    (member,) = _members(raw_zip(small))
    assert isinstance(member, pack.Member)
    assert len(member.source.read(50 * MIB)) == 50 * MIB
    assert len(member.source.raw._rest) <= unpack.PIECE_BYTES


def test_an_lzma_decoder_gets_no_more_memory_than_the_content_needs():
    options = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}
    stream = lzma.compress(A, lzma.FORMAT_RAW, filters=[options])
    head = b"\x09\4\5\0\x5d\xff\xff\xff\xff"  # a dictionary of 4 GiB
    member = Raw(b"a.png", head + stream, 14, size=len(A), checksum=zlib.crc32(A))
    huge = replace(member, name=b"huge", size=2**31, data=head + stream + bytes(20 * MIB))
    assert outcomes(raw_zip(member, huge)) == [("a.png", "slice"), ("huge", "unsupported.compression")]


def test_headers_without_end_stop(monkeypatch):
    monkeypatch.setattr(unpack, "_PACK_FLOOR", 64 * MIB)
    records = b"5 a=\n" * 200_000 + b"9 path=x\n"
    wordy = (v7(b"h", records, b"x") + v7(b"x.txt", b"")) * 20
    for waste in (wordy, v7(b"d/", b"", b"5") * 20_000, (v7(b"h", b"", b"g") + v7(b"x.txt", b"")) * 10_000):
        start = time.monotonic()
        found = outcomes(gzip.compress(v7(b"a.png", A) + waste + bytes(1024)))
        assert (found[0], found[-1]) == (("a.png", "slice"), (None, "oversized.ratio"))
        assert time.monotonic() - start < 10
    streams = gzip.compress(v7(b"a.png", A)) + gzip.compress(b"") * 2000
    assert outcomes(streams) == [("a.png", "slice"), (None, "damaged.pack")]
    blocks = b"".join(gzip.compress(tarred(ABC)[i : i + 512]) for i in range(0, len(tarred(ABC)), 512))
    assert outcomes(blocks) == slices(*ABC_NAMES)


def test_a_gzip_bomb_stops():
    size = 100 * MIB
    header = v7(b"zeros", b"", size=size)
    squeeze = zlib.compressobj(9, wbits=31)
    data = squeeze.compress(v7(b"a.png", A) + header)
    data += b"".join(squeeze.compress(bytes(MIB)) for _ in range(200))
    data += squeeze.compress(v7(b"b.png", B) + bytes(1024)) + squeeze.flush()
    assert outcomes(data) == [("a.png", "slice"), ("zeros", "unknown.format"), (None, "oversized.ratio")]
    (item,) = (item for item in items(data) if item.member is None)
    assert "nothing in it was read" in item.detail
    endless = gzip.compress(v7(b"a.png", A) + bytes(100 * MIB), 9)  # after its end mark
    assert outcomes(endless) == [("a.png", "slice"), (None, "oversized.ratio")]


@pytest.mark.parametrize("kind", PACKS)
def test_the_sum_of_all_members_is_limited(kind):
    noise = np.random.default_rng(0).bytes(60_000)
    files = [("a.png", A), *((f"{number}.dat", noise) for number in range(5)), ("b.png", B)]
    found = outcomes(PACKS[kind](files), config(max_bytes=150_000))
    assert found[0] == ("a.png", "slice")
    assert kind == "zip" or found[-1] == (None, "oversized.pack")
    assert kind == "zip" or len(found) < 6
    nested = tarred([("x", PACKS[kind](ABC)), ("y", PACKS[kind](ABC)), ("b.png", B)])
    found = outcomes(nested, config(max_bytes=PACKS_BYTES[kind]))
    assert found[0] == ("x!/a.png", "slice")
    assert found[-1] == (None, "oversized.pack")
    assert ("b.png", "slice") not in found


PACKS_BYTES = {"zip": 6_000, "tar": 20_000, "tar.gz": 20_000}


def test_the_sum_is_held_against_what_is_stored(monkeypatch):
    monkeypatch.setattr(unpack, "_PACK_FLOOR", 4 * MIB)
    blank = io.BytesIO()
    Image.new("L", (1000, 1000)).save(blank, "BMP")
    many = zipped([(f"{number}.bmp", blank.getvalue()) for number in range(9)])
    found = outcomes(many, config(max_ratio=10), parted=False)
    assert found == [*slices(*(f"{n}.bmp" for n in range(4))), ("4.bmp", "oversized.ratio"), (None, "oversized.ratio")]
    nested = zipped([("x.zip", many), ("a.png", A)])  # 1000 times 100, each of them allowed
    found = outcomes(nested, config(max_ratio=1000), parted=False)
    assert found[-2:] == [("x.zip", "oversized.ratio"), (None, "oversized.ratio")]


@pytest.mark.parametrize("kind", PACKS)
def test_the_number_of_members_is_limited(kind):
    data = PACKS[kind](ABC)
    assert outcomes(data, config(max_members=3)) == slices(*ABC_NAMES)
    found = outcomes(data, config(max_members=2))
    assert found == ([] if kind == "zip" else slices("a.png", "folder/b.png")) + [(None, "oversized.pack")]
    nested = tarred([("x", PACKS[kind](ABC)), ("y", PACKS[kind](ABC)), ("z.png", A)])
    found = outcomes(nested, config(max_members=5))
    assert found[:3] == slices(*(f"x!/{name}" for name, _ in ABC))
    assert found[-1] == (None, "oversized.pack")
    assert ("z.png", "slice") not in found


def test_a_directory_that_lists_more_than_it_announces_is_not_held():
    entry = raw_zip(Raw(b"", b""))[30:-22]
    data = raw_zip(Raw(b"", b""))[:30] + entry * 400_000
    data += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry) * 400_000, 30, 0)
    start = time.monotonic()
    assert outcomes(data, config(max_members=1000)) == [(None, "oversized.pack")]
    assert time.monotonic() - start < 2


def test_members_that_share_their_bytes_are_refused():
    """Each member's content holds the next one whole, and so on: a zip of n members unpacks to n² of them."""
    inner = _zeros(8 * MIB)
    kernel = Raw(b"kernel", inner, 8, size=8 * MIB, checksum=_zeros_checksum(8 * MIB))
    whole = raw_zip(kernel)
    outer = Raw(b"outer", whole[: -22 - 46 - 6])
    data = bytearray(raw_zip(outer, replace(kernel, data=b"", packed=len(inner), offset=30 + 5)))
    found = outcomes(bytes(data))
    assert found[0] == ("outer", "damaged.pack")
    same = raw_zip(Raw(b"a.png", A), Raw(b"a.png", b"", packed=len(A), size=len(A), checksum=zlib.crc32(A), offset=0))
    assert outcomes(same) == [("a.png", "damaged.pack"), ("a.png#2", "slice")]
    into = raw_zip(Raw(b"a.png", A, packed=len(A) + 10, size=len(A) + 10))
    assert outcomes(into) == [("a.png", "damaged.pack")]


# What is none of the pack's fault


class _Failing(io.BytesIO):
    """Storage that fails from a byte on."""

    def __init__(self, data: bytes, good: int) -> None:
        super().__init__(data)
        self._good = good

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size or 0) > self._good:
            raise ConnectionError("gone")
        return super().read(size)


@pytest.mark.parametrize("kind", PACKS)
def test_storage_that_fails_is_not_the_packs_fault(kind):
    files = [("a.png", A), *((f"{n}.png", png(n, side=300)) for n in range(5))]
    for data in (PACKS[kind](files), tarred([("x", PACKS[kind](files))])):
        found = list(read(_Failing(data, len(data) // 2), URI))
        assert outcome(found[-1]) == (None, "storage.fault")
        assert found[-1].detail == "ConnectionError"
        assert all(isinstance(item, Slice) for item in found[:-1])


def test_a_disk_without_room_is_not_the_packs_fault(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    inner = zipped([("noise", np.random.default_rng(0).bytes(20 * MIB))], zipfile.ZIP_STORED)
    found = outcomes(tarred([("a.png", A), ("x.zip", inner), ("b.png", B)]), parted=False)
    assert found == [("a.png", "slice"), (None, "storage.fault")]


def test_a_reader_of_pieces_does_not_forget_an_error():
    def pieces():
        yield b"abc"
        yield b""
        yield b"def"
        raise SourceLost(OSError())

    reader = unpack.reader(pieces())
    assert reader.read(4) == b"abcd"
    for attempt in (reader.read, lambda: reader.read(100), reader.read):
        with pytest.raises(SourceLost):
            attempt()
    assert unpack.reader(iter([b"ab", b"", b"c"])).read() == b"abc"
    assert unpack.reader(iter([b"x" * 3000] * 3)).peek(4096) == b"x" * 9000


# From storage, in little memory

_PEAK = """
import resource, sys
from mri_ray.archive.storage import Location
from mri_ray.decode.read import read
uri = sys.argv[1]
def run(key):
    with Location.of(uri).open(key) as source:
        return [getattr(item, "reason", "slice") for item in read(source, uri)]
assert run("small") == ["slice"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = run("large")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, *found)
"""


def _big_tar(files: Files) -> bytes:
    noise = np.random.default_rng(0).bytes(MIB)
    return tarred([("start.png", A), *((f"{number}", noise * 16) for number in range(4)), *files])


LARGE: dict[str, Callable[[], bytes]] = {
    "tar": lambda: _big_tar([("end.png", B)]),
    "tar.gz": lambda: gzip.compress(_big_tar([("end.png", B)]), 0),
    "tar in zip": lambda: zipped([("x.tar", _big_tar([])), ("end.png", B)], zipfile.ZIP_STORED),
    "zip in tar": lambda: tarred([("x.zip", zipped([("a.png", A), ("b", bytes(64 * MIB))], 0)), ("end.png", B)]),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_pack_from_storage_takes_little_memory(root: Location, kind: str):
    data = LARGE[kind]()
    assert len(data) > 64 * MIB
    root.write("small", tarred([("a.png", A)]))
    root.write("large", data)
    run = subprocess.run([sys.executable, "-c", _PEAK, root.uri], capture_output=True, check=True)
    kilobytes, *found = run.stdout.decode().split()
    assert found == ["slice", *["unknown.format"] * (1 if kind == "zip in tar" else 4), "slice"]
    assert int(kilobytes) < 40_000


@pytest.mark.parametrize("kind", PACKS)
def test_packs_in_storage_are_as_in_memory(root: Location, kind: str):
    files = [("a.png", A), ("x/noise", np.random.default_rng(0).bytes(9 * MIB)), ("b.png", B)]
    data = PACKS[kind](files)
    root.write("pack", data)
    with root.open("pack") as source:
        assert [outcome(item) for item in read(source, URI)] == outcomes(data)


def test_real_pictures_in_packs(mri_data: Path):
    paths = sorted((mri_data / "lgg").rglob("*.tif"))[:6] or sorted(mri_data.rglob("*.png"))[:6]
    files = [(path.name, path.read_bytes()) for path in paths]
    for make in PACKS.values():
        assert [what for _, what in outcomes(make(files))] == ["slice"] * len(files)


@pytest.mark.parametrize("first", ["[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF"])
def test_a_document_that_is_a_zip_inside_is_no_pack(first):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        pack.writestr(first, b"text")
        pack.writestr("word/media/logo.png", b"\x89PNG")
    (found,) = read(io.BytesIO(out.getvalue()), "s3://bucket/letter")
    assert isinstance(found, Failure)
    assert (found.reason, found.member) == (Reason.UNSUPPORTED_FORMAT, None)


@pytest.mark.parametrize("head", [b"MZ\x90\0", b"\x7fELF", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe"])
def test_a_program_beside_images_is_passed_over(head):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        pack.writestr("VIEWER/run", head + bytes(range(256)) * 4)
    (found,) = read(io.BytesIO(out.getvalue()), "s3://bucket/disc.zip")
    assert isinstance(found, Failure)
    assert (found.reason, found.member) == (Reason.SKIPPED_SIDECAR, "VIEWER/run")
