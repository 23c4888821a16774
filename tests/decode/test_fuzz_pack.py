"""Mutated packs: each ends as slices or failures, in bounded time and memory, and nothing else happens.

MRI_FUZZ is the number of cases (300 by default). With MRI_FUZZ_REPORT, the figures are written to that file.
"""

import bz2
import gzip
import io
import json
import os
import random
import re
import resource
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image

from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig, PackConfig
from mri_ray.records import Failure, Slice

CASES = int(os.environ.get("MRI_FUZZ", "300"))
URI = "s3://bucket/pack"
CONFIG = DecodeConfig(max_pixels=100_000, max_bytes=2**20, pack=PackConfig(max_members=50, max_bytes=32 * 2**20))
SECONDS = 20.0  # a case may take this on a machine that does much else; it takes thousandths
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
MARKS = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"ustar\0", b"\x1f\x8b\x08", b"BZh9")
SNIPPETS = (
    *MARKS,
    b"../",
    b"/",
    b"\\",
    b"C:",
    b"\0",
    b"\xff" * 8,
    b"20 path=../x\n",
    b"22 GNU.sparse.size=1\n",
    b"00000000000\0",
)


def _png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (17, 18), np.uint8)).save(out, "PNG")
    return out.getvalue()


FILES = [
    ("a.png", _png(1)),
    ("Doe^John/b.png", _png(2)),
    ("folder/labels.json", b'{"label": 1}'),
    ("n" * 120 + "/é.bin", bytes(3000)),
    ("c.png", _png(3)),
]


def _zip(method: int, files: list[tuple[str, bytes]] = FILES) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.mkdir("folder")
        for name, data in files:
            file.writestr(name, data)
    return out.getvalue()


def _zip_64() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in FILES:
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return out.getvalue()


def _tar(form: int, files: list[tuple[str, bytes]] = FILES) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("Doe^Jane")
        link.type, link.linkname = tarfile.SYMTYPE, "l" * (90 if form == tarfile.USTAR_FORMAT else 200)
        file.addfile(link)
    return out.getvalue()


SEEDS = {
    "zip": _zip(zipfile.ZIP_DEFLATED),
    "zip stored": _zip(zipfile.ZIP_STORED),
    "zip bzip2": _zip(zipfile.ZIP_BZIP2),
    "zip lzma": _zip(zipfile.ZIP_LZMA),
    "zip64": _zip_64(),
    "zip bomb": _zip(zipfile.ZIP_DEFLATED, [("zeros", bytes(5 * 2**20)), *FILES]),
    "zip bz2 bomb": _zip(zipfile.ZIP_BZIP2, [("zeros", bytes(5 * 2**20)), *FILES]),
    "tar": _tar(tarfile.USTAR_FORMAT, FILES[:3]),
    "tar gnu": _tar(tarfile.GNU_FORMAT),
    "tar pax": _tar(tarfile.PAX_FORMAT),
    "tar.gz": gzip.compress(_tar(tarfile.PAX_FORMAT), 6, mtime=0),
    "tar.gz stored": gzip.compress(_tar(tarfile.GNU_FORMAT), 0, mtime=0),
    "nested": _zip(
        zipfile.ZIP_STORED,
        [("x.tar", _tar(tarfile.PAX_FORMAT)), ("y.zip", _zip(zipfile.ZIP_DEFLATED)), ("z.bz2", bz2.compress(b"z"))],
    ),
}


def _flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(1, len(data)) :]


def _number(data: bytearray, draw: random.Random) -> None:
    """A length, count or offset that means too much."""
    width = draw.choice([1, 2, 4, 8])
    place = draw.randrange(len(data))
    value = draw.choice(INTERESTING) if draw.random() < 0.7 else draw.randrange(2**64)
    data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def _near_a_mark(data: bytearray, draw: random.Random) -> None:
    """A field of a header, where it hurts."""
    places = [place for mark in MARKS for place in _places(data, mark)]
    if not places:
        return _flip(data, draw)
    place = draw.choice(places) + draw.randrange(60)
    width = draw.choice([1, 2, 4])
    value = draw.choice(INTERESTING) % 2 ** (8 * width)
    data[place : place + width] = value.to_bytes(width, "little")
    return None


def _places(data: bytearray, mark: bytes) -> list[int]:
    found, place = [], data.find(mark)
    while place >= 0:
        found.append(place)
        place = data.find(mark, place + 1)
    return found


def _splice(data: bytearray, draw: random.Random) -> None:
    """Part of it once more, elsewhere, or missing."""
    start, end = sorted(draw.randrange(len(data)) for _ in range(2))
    piece = data[start : min(end, start + 2000)]
    place = draw.randrange(len(data))
    data[place : place + draw.choice([0, len(piece)])] = piece
    if draw.random() < 0.3:
        del data[start:end]


def _snippet(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    snippet = draw.choice(SNIPPETS)
    data[place : place + draw.choice([0, len(snippet)])] = snippet


def _tar_header(data: bytearray, draw: random.Random) -> None:
    """A field of a tar's header with a checksum that holds."""
    places = [place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"]
    if not places:
        return _number(data, draw)
    place = draw.choice(places)
    start, length = draw.choice([(0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155), (482, 1)])
    field = draw.choice(
        [draw.randbytes(length), b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"xgLKSMVD123456"]
    )
    offset = draw.randrange(len(field)) if length == 1 else 0
    data[place + start : place + start + length] = field[offset : offset + length].ljust(length, b"\0")[:length]
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    return None


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _cut,
    _number,
    _near_a_mark,
    _splice,
    _snippet,
    _tar_header,
)


def mutated(case: int) -> tuple[str, bytes]:
    """The seed it is made of, and the pack; of a gzip, sometimes what is in it is what changes."""
    draw = random.Random(case)  # noqa: S311 - no secret
    name = draw.choice(sorted(SEEDS))
    inside = name.startswith("tar.gz") and draw.random() < 0.5
    data = bytearray(gzip.decompress(SEEDS[name]) if inside else SEEDS[name])
    for _ in range(draw.choice([1, 1, 1, 2, 3, 6])):
        if data:
            draw.choice(MUTATIONS)(data, draw)
    return name, gzip.compress(bytes(data), 1, mtime=0) if inside else bytes(data)


def test_whatever_happens_to_a_pack_it_ends_as_slices_or_failures():
    slowest, slices, reasons = (0.0, -1), 0, Counter()
    list(read(io.BytesIO(SEEDS["nested"]), URI, CONFIG))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(CASES):
        _, data = mutated(case)
        start = time.perf_counter()
        found = list(read(io.BytesIO(data), URI, CONFIG))
        slowest = max(slowest, (time.perf_counter() - start, case))
        assert found, f"case {case}: nothing became of it"
        assert len(found) <= 3 * CONFIG.pack.max_members, f"case {case}"
        for item in found:
            _check(item, case)
        slices += sum(isinstance(item, Slice) for item in found)
        reasons.update(item.reason.value for item in found if isinstance(item, Failure))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if report := os.environ.get("MRI_FUZZ_REPORT"):
        figures = {"cases": CASES, "slowest_s": slowest[0], "case": slowest[1], "grown_kb": grown, "slices": slices}
        with open(report, "w") as file:
            json.dump(figures | {"reasons": reasons}, file, indent=1)
    assert slowest[0] < SECONDS, f"case {slowest[1]} took {slowest[0]:.1f} s"
    assert grown < 150_000, f"{grown} kB"
    assert slices > CASES / 3
    assert len(reasons) > 5


def _check(item: Slice | Failure, case: int) -> None:
    assert item.member is None or 0 < len(item.member) < 4000, f"case {case}"
    assert item.member is None or not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", item.member), f"case {case}"
    if isinstance(item, Slice):
        assert item.pixels.dtype in (np.uint8, np.float32)
        assert item.pixels.ndim == 2
        assert np.isfinite(item.pixels).all()
    else:
        assert item.where == URI
        assert item.detail
        assert "Doe" not in item.detail, f"case {case}"
        assert not item.reason.transient, f"case {case}: the pack's fault taken for the storage's"


def test_members_differ_whatever_their_names():
    for case in range(0, CASES, 10):
        _, data = mutated(case)
        rows = [(item.member, item.frame) for item in read(io.BytesIO(data), URI, CONFIG)]
        doubles = [row for row, times in Counter(rows).items() if times > 1]
        assert doubles == [], f"case {case}"


def test_the_same_bytes_give_the_same_outcome():
    for case in range(0, CASES, 10):
        _, data = mutated(case)
        first, second = (list(read(io.BytesIO(data), URI, CONFIG)) for _ in range(2))
        assert [(type(item), item.member, getattr(item, "detail", "")) for item in first] == [
            (type(item), item.member, getattr(item, "detail", "")) for item in second
        ]
