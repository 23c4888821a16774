"""Makers of what must be quarantined: at least one for every reason that a file can cause, one bad object each.

What else they make (a pack's whole members) is scored. Reasons that no file can cause are in OTHER_CAUSES.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from pydicom import uid as uids

from hospital import packs, rasters
from hospital.context import Context, Item, Pack
from hospital.dicom import EIGHT, encapsulated, encode_as, encode_bare, set_pixels
from hospital.frames import mosaic
from hospital.planted import PRIVATE_STEM
from hospital.slices import dataset, items_of, within
from hospital.volumes import volume
from mri_ray.errors import Reason

OTHER_CAUSES = frozenset(
    {Reason.STORAGE_MISSING, Reason.STORAGE_DENIED, Reason.STORAGE_CHANGED, Reason.STORAGE_FAULT}
    | {Reason.CRASHED, Reason.TIMEOUT}
)
MAX_MEMBERS = 100  # of a pack, folders included: the setting under which `too_many_members` is refused
OVERRIDES = (f"decode.pack.max_members={MAX_MEMBERS}",)
_MIB = 2**20


class Bad(NamedTuple):
    """objects: that it makes in all. once: too heavy for more than one an archive."""

    reason: Reason
    make: Callable[[Context], Item | Pack]
    objects: int = 1
    once: bool = False


def _picture(context: Context) -> np.ndarray:
    """Some picture of the archive: what is quarantined needs no pixels of its own."""
    given = list(context.supply.given.values())
    return given[int(context.rng.integers(len(given)))].pixels if given else context.supply.single().pixels


def _file(context: Context, kind: str, reason: Reason, data: bytes, suffix: str = "") -> Item:
    folder = context.choose("export/old", f"scratch/{PRIVATE_STEM}{context.name()}")
    return Item(key=f"{folder}/{context.name()}{suffix}", data=data, kind=f"bad/{kind}", reason=reason)


def _raster(context: Context, *, kind: str) -> Item:
    pixels = _picture(context)
    png = rasters.png(pixels)
    if kind == "cut png":
        return _file(context, kind, Reason.TRUNCATED, png[: len(png) // 2], ".png")
    if kind == "flipped png":
        at = len(png) // 2
        return _file(context, kind, Reason.DAMAGED, png[:at] + bytes([png[at] ^ 0x55]) + png[at + 1 :], ".png")
    if kind == "colour of 16 bits":
        deep = np.repeat(pixels[..., None].astype(np.uint16) * 257, 3, axis=-1)
        return _file(context, kind, Reason.UNSUPPORTED_MODE, cv2.imencode(".png", deep)[1].tobytes(), ".png")
    if kind == "icon":
        return _file(context, kind, Reason.TOO_SMALL, rasters.png(np.ascontiguousarray(pixels[40:52, 40:52])), ".png")
    assert kind == "pixel bomb"
    return _file(context, kind, Reason.TOO_MANY_PIXELS, _bomb_png(60_000), ".png")


def _bomb_png(side: int) -> bytes:
    """A PNG that announces side x side pixels and holds the start of them."""
    parts = [(b"IHDR", struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(side + 1)))]
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*parts, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def _junk(context: Context, *, kind: str) -> Item:
    if kind == "empty":
        return _file(context, kind, Reason.EMPTY_OBJECT, b"")
    if kind == "text":
        text = f"Liebe Frau Kollegin, anbei die Bilder von {PRIVATE_STEM}{context.name()}.\n" * 20
        return _file(context, kind, Reason.NOT_IMAGE, text.encode(), ".txt")
    if kind == "noise":
        return _file(context, kind, Reason.NOT_IMAGE, b"\xfe" + context.rng.bytes(3000), ".dcm")
    assert kind == "gif"
    gif = b"GIF89a" + struct.pack("<2H3B", 32, 32, 0x80, 0, 0) + bytes(6) + b"\x2c" + bytes(9) + b"\2\2\x4c\1\0;"
    return _file(context, kind, Reason.UNSUPPORTED_FORMAT, gif, ".gif")


def _dicom(context: Context, *, kind: str) -> Item:
    """A single MR slice with one thing wrong."""
    picture = context.supply.single()
    series = context.series(picture)
    del context.series_made[series.uid]
    ds, _ = dataset(context, series, picture, number=1)
    set_pixels(ds, picture.pixels, EIGHT, "explicit")
    syntax, reason, bare, cut = str(uids.ExplicitVRLittleEndian), Reason.DAMAGED_HEADER, False, None
    if kind == "no pixels":
        reason = Reason.NO_PIXELS
        del ds.PixelData
    elif kind == "no rows":
        del ds.Rows
    elif kind == "video":
        reason, syntax = Reason.TRANSFER_SYNTAX, str(uids.MPEG2MPML)
        encapsulated(ds, [context.rng.bytes(2000)])
    elif kind == "unknown encapsulated":
        reason, bare = Reason.UNCERTAIN_SYNTAX, True
        encapsulated(ds, [b"\x01" + context.rng.bytes(1999)])
    elif kind == "damaged codestream":
        reason, syntax = Reason.DAMAGED, str(uids.JPEG2000Lossless)
        encapsulated(ds, [context.rng.bytes(2000)])
    elif kind == "many frames":
        reason = Reason.TOO_MANY_FRAMES
        ds.SOPClassUID, ds.NumberOfFrames, ds.Rows, ds.Columns = uids.EnhancedMRImageStorage, 33_000, 16, 16
        ds.PixelData = bytes(33_000 * 256)
    elif kind == "mosaic":
        reason = Reason.MOSAIC
        ds, _ = mosaic(context, series, [picture] * 4, EIGHT, "explicit", explained=False)
    elif kind == "cut pixels":
        reason, cut = Reason.TRUNCATED, -(picture.pixels.size // 3)
    else:
        assert kind == "cut header"
        reason = Reason.TRUNCATED
    data = encode_bare(ds, implicit=False) if bare else encode_as(ds, syntax)
    if kind == "cut header":
        data = data[: 132 + 12 + struct.unpack_from("<I", data, 140)[0]]  # nothing behind the meta header
    item = _file(context, f"dicom/{kind}", reason, data[:cut])
    return within(context.folder(series), [replace(item, key=context.name())])[0]


def _nifti(context: Context, *, kind: str) -> Item:
    picture = context.supply.single()
    series = context.series(picture)
    del context.series_made[series.uid]
    # Each axial slice is spread over all planes stored: cut anywhere, none is whole.
    data, _ = volume(series, [picture] * 3, gzipped=kind == "cut gzip", order=(1, 2, 0))
    if kind == "cut gzip":
        return _file(context, f"nifti/{kind}", Reason.TRUNCATED, data[: len(data) // 2], ".nii.gz")
    assert kind == "wrong dimensions"
    wrong = data[:40] + struct.pack("<8h", 77, -3, 0, 9, 0, 0, 0, 0) + data[56:]
    return _file(context, f"nifti/{kind}", Reason.DAMAGED_HEADER, wrong, ".nii")


def _whole(context: Context, count: int) -> list[Item]:
    pictures = context.supply.run(count)
    series = context.series(pictures[0])
    return within(series.who.folder, items_of(context, series, pictures))


def _pack_of(context: Context, kind: str, data: bytes, members: Sequence[Item], failure: Reason | None = None) -> Pack:
    suffix = "tar.gz" if "gzip" in kind else "tar" if "tar" in kind else "zip"
    key = f"packs/{context.name()}.{suffix}"
    return Pack(key=key, data=data, kind=f"bad/{kind}", members=tuple(members), failure=failure)


def _member(name: str, reason: Reason, data: bytes = b"") -> Item:
    return Item(key=name, data=data, kind="bad/member", reason=reason)


def _bad_member(context: Context, *, kind: str) -> Pack:
    """A zip of one whole member and one that is not to be read."""
    good = _whole(context, 1)
    files = [(item.key, item.data) for item in good]
    folder = good[0].key.rpartition("/")[0]
    name, content = f"{folder}/{context.name()}.png", rasters.png(_picture(context))
    if kind == "encrypted":
        data = packs.patched(packs.zipped([*files, (name, content)]), name, flag=1)
        return _pack_of(context, kind, data, [*good, _member(name, Reason.ENCRYPTED)])
    if kind == "compression":
        data = packs.patched(packs.zipped([*files, (name, content)]), name, method=98)  # PPMd
        return _pack_of(context, kind, data, [*good, _member(name, Reason.UNSUPPORTED_COMPRESSION)])
    if kind == "checksum":
        wrong = bytearray(packs.zipped([*files, (name, content)], stored=True))
        wrong[wrong.index(content) + len(content) // 2] ^= 0x55
        return _pack_of(context, kind, bytes(wrong), [*good, _member(name, Reason.DAMAGED)])
    if kind == "traversal":
        name = f"../../{PRIVATE_STEM}{context.name()}.png"
        data = packs.zipped([(name, content), *files])
        return _pack_of(context, kind, data, [_member(name, Reason.UNSAFE_MEMBER), *good])
    if kind == "absolute tar":
        name = f"/etc/{context.name()}.png"
        return _pack_of(
            context, kind, packs.tarred([*files, (name, content)]), [*good, _member(name, Reason.UNSAFE_MEMBER)]
        )
    if kind == "link tar":
        name = f"{folder}/{context.name()}"
        data = packs.tarred(files, links=[(name, "/etc/passwd")])
        return _pack_of(context, kind, data, [*good, _member(name, Reason.UNSAFE_MEMBER)])
    assert kind == "too deep"
    deepest = packs.zipped([("c.png", content)])
    data = packs.zipped([("a.zip", packs.zipped([("b.zip", deepest)])), *files])
    pack = _pack_of(context, kind, data, [_member("a.zip!/b.zip", Reason.PACK_TOO_DEEP), *good])
    return replace(pack, inner=1)


def _broken_pack(context: Context, *, kind: str) -> Pack:
    """A pack that does not open, or breaks off behind its first member."""
    if kind == "empty":
        return _pack_of(context, kind, packs.zipped([]), [], Reason.EMPTY_PACK)
    if kind == "too many members":
        folders = [(f"{number}/", b"") for number in range(MAX_MEMBERS + 50)]
        return _pack_of(context, kind, packs.zipped(folders, folders=False), [], Reason.PACK_TOO_LARGE)
    whole = _whole(context, 2)
    files = [(item.key, item.data) for item in whole]
    if kind == "damaged zip":  # its directory is gone; the members' own headers are not
        data = packs.zipped(files)
        start = packs.directory_start(data)
        wrong = data[:start] + bytes(len(data) - start - 22) + data[-22:]
        return _pack_of(context, kind, wrong, whole, Reason.DAMAGED_PACK)
    if kind == "cut zip":
        data = packs.zipped(files)
        return _pack_of(context, kind, data[: packs.directory_start(data) - 99], whole[:1], Reason.TRUNCATED_PACK)
    data = packs.tarred(files)
    second = packs.header_start(data, files[1][0])
    if kind == "damaged tar":  # a header whose checksum does not hold
        wrong = data[: second + 100] + b"7777777" + data[second + 107 :]
        return _pack_of(context, kind, wrong, whole[:1], Reason.DAMAGED_PACK)
    if kind == "cut tar":
        return _pack_of(context, kind, data[: second + 300], whole[:1], Reason.TRUNCATED_PACK)
    assert kind == "cut gzip of a tar"
    squeeze = zlib.compressobj(3, wbits=31)
    cut = squeeze.compress(data[: second + 300]) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return _pack_of(context, kind, cut, whole[:1], Reason.TRUNCATED_PACK)


def _heavy_member(context: Context, *, kind: str) -> Pack:
    """A zip whose one member is a BMP too long to be read, or one that is nearly all zeros: small all the same."""
    if kind == "too many bytes":
        reason, size, noise = Reason.TOO_MANY_BYTES, 513 * _MIB, 9_000  # of each MiB: packed by less than 200
    else:
        reason, size, noise = Reason.PACK_BOMB, 100 * _MIB, 0
    head = b"BM" + struct.pack("<I4xI", size & 0xFFFFFFFF, 1078) + struct.pack("<I2i2HI", 40, 800, 600, 1, 8, 0)
    name = f"{PRIVATE_STEM}{context.name()}.bmp"
    data = packs.zip_of_repeats(name, head, context.rng.bytes(noise) + bytes(_MIB - noise), size // _MIB)
    return _pack_of(context, kind, data, [_member(name, reason)])


# One of each reason first, so that few bad objects are as different as can be.
BAD: tuple[Bad, ...] = (
    Bad(Reason.TRUNCATED, partial(_dicom, kind="cut pixels")),
    Bad(Reason.DAMAGED, partial(_raster, kind="flipped png")),
    Bad(Reason.NOT_IMAGE, partial(_junk, kind="text")),
    Bad(Reason.EMPTY_OBJECT, partial(_junk, kind="empty")),
    Bad(Reason.UNSUPPORTED_FORMAT, partial(_junk, kind="gif")),
    Bad(Reason.UNSUPPORTED_MODE, partial(_raster, kind="colour of 16 bits")),
    Bad(Reason.TOO_MANY_PIXELS, partial(_raster, kind="pixel bomb")),
    Bad(Reason.TOO_MANY_FRAMES, partial(_dicom, kind="many frames")),
    Bad(Reason.TOO_SMALL, partial(_raster, kind="icon")),
    Bad(Reason.TRANSFER_SYNTAX, partial(_dicom, kind="video")),
    Bad(Reason.UNCERTAIN_SYNTAX, partial(_dicom, kind="unknown encapsulated")),
    Bad(Reason.DAMAGED_HEADER, partial(_dicom, kind="no rows")),
    Bad(Reason.NO_PIXELS, partial(_dicom, kind="no pixels")),
    Bad(Reason.MOSAIC, partial(_dicom, kind="mosaic")),
    Bad(Reason.ENCRYPTED, partial(_bad_member, kind="encrypted"), 2),
    Bad(Reason.UNSAFE_MEMBER, partial(_bad_member, kind="traversal"), 2),
    Bad(Reason.UNSUPPORTED_COMPRESSION, partial(_bad_member, kind="compression"), 2),
    Bad(Reason.DAMAGED_PACK, partial(_broken_pack, kind="damaged zip"), 3),
    Bad(Reason.TRUNCATED_PACK, partial(_broken_pack, kind="cut gzip of a tar"), 2),
    Bad(Reason.EMPTY_PACK, partial(_broken_pack, kind="empty")),
    Bad(Reason.PACK_TOO_DEEP, partial(_bad_member, kind="too deep"), 2),
    Bad(Reason.PACK_TOO_LARGE, partial(_broken_pack, kind="too many members")),
    Bad(Reason.PACK_BOMB, partial(_heavy_member, kind="bomb"), once=True),
    Bad(Reason.TOO_MANY_BYTES, partial(_heavy_member, kind="too many bytes"), once=True),
    Bad(Reason.TRUNCATED, partial(_dicom, kind="cut header")),
    Bad(Reason.TRUNCATED, partial(_nifti, kind="cut gzip")),
    Bad(Reason.DAMAGED_HEADER, partial(_nifti, kind="wrong dimensions")),
    Bad(Reason.TRUNCATED, partial(_raster, kind="cut png")),
    Bad(Reason.DAMAGED, partial(_dicom, kind="damaged codestream")),
    Bad(Reason.NOT_IMAGE, partial(_junk, kind="noise")),
    Bad(Reason.DAMAGED, partial(_bad_member, kind="checksum"), 2),
    Bad(Reason.UNSAFE_MEMBER, partial(_bad_member, kind="absolute tar"), 2),
    Bad(Reason.UNSAFE_MEMBER, partial(_bad_member, kind="link tar"), 2),
    Bad(Reason.TRUNCATED_PACK, partial(_broken_pack, kind="cut zip"), 2),
    Bad(Reason.TRUNCATED_PACK, partial(_broken_pack, kind="cut tar"), 2),
    Bad(Reason.DAMAGED_PACK, partial(_broken_pack, kind="damaged tar"), 2),
)
