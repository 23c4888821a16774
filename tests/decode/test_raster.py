"""Laws over every format and mode that is read: a picture written and read back, turned, cut short and closed again."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Slice

LIMITS = DecodeConfig(max_frames=16)
CUT = {Reason.EMPTY_OBJECT, Reason.NOT_IMAGE, Reason.TRUNCATED, Reason.DAMAGED}


def _picture(height: int = 33, width: int = 41) -> np.ndarray:
    """A head-like grey picture, uint8, with no symmetry."""
    y, x = np.mgrid[:height, :width]
    head = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.2
    grey = 40 + 3 * x + 2 * y + 25 * ((x // 5 + y // 7) % 2)
    return np.where(head, grey, 3).astype(np.uint8)


GREY = _picture()
DEEP = GREY.astype(np.uint16) * 257 - 11
COLOUR = np.stack([GREY, GREY // 3, 255 - GREY], axis=-1)
OPAQUE = np.full_like(GREY, 255)
HALF = np.where(np.arange(GREY.shape[1]) < 20, 0, 255).astype(np.uint8) * np.ones_like(GREY)
BLACK_WHITE = np.where(GREY > 100, 255, 0).astype(np.uint8)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _grey(mode: str = "L") -> Image.Image:
    return Image.fromarray(GREY).convert(mode)


def _stack(*channels: np.ndarray, mode: str) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(channel) for channel in channels])


def _palette() -> Image.Image:
    image = Image.fromarray(255 - GREY)
    image.putpalette([255 - level for level in range(256) for _ in range(3)])
    return image


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: np.ndarray, depth: int, colour: int, *, extra: bytes = b"", rows: bytes | None = None, interlace: int = 0
) -> bytes:
    """A PNG made by hand, for what Pillow does not write; `rows` are the raw rows with their filter bytes."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    if rows is None:
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _packed(pixels: np.ndarray, depth: int) -> bytes:
    """Rows of samples of less than 8 bits, each row with its filter byte."""
    bits = (pixels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(pixels), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def _interlaced() -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in GREY[y::dy, x::dx])


def tiff(pixels: np.ndarray, tags: dict[int, int | tuple[int, ...] | None], order: str = "<") -> bytes:
    """A TIFF made by hand: pixels first, then one directory; `tags` add to the plain ones, None takes one away."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width = pixels.shape[:2]
    plain = {
        256: width,
        257: height,
        258: pixels.itemsize * 8,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    entries, beyond = b"", b""
    at = 8 + len(data) + len(data) % 2
    merged = {tag: value for tag, value in sorted({**plain, **tags}.items()) if value is not None}
    for tag, value in merged.items():
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            place = at + 6 + 12 * len(merged) + len(beyond)
            packed, beyond = struct.pack(order + "I", place), beyond + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(merged)) + entries + bytes(4) + beyond
    return mark + struct.pack(order + "I", at) + data + b"\0" * (len(data) % 2) + directory


def _tiled() -> bytes:
    padded = np.zeros((48, 48), np.uint8)
    padded[: GREY.shape[0], : GREY.shape[1]] = GREY
    tiles = [padded[y : y + 16, x : x + 16] for y in (0, 16, 32) for x in (0, 16, 32)]
    places = tuple(8 + 256 * number for number in range(9))
    height, width = GREY.shape
    shape = {256: width, 257: height, 273: None, 278: None, 279: None}
    return tiff(np.concatenate(tiles), {**shape, 322: 16, 323: 16, 324: places, 325: (256,) * 9})


@dataclass(frozen=True)
class Member:
    """A way to store a picture, and what must come back. tolerance: grey levels, for lossy compression."""

    name: str
    make: Callable[[], bytes]
    pixels: np.ndarray
    bits: int = 8
    coloured: bool = False
    tolerance: float = 0


def _lossless() -> list[Member]:
    half = np.where(HALF > 0, GREY, 0)
    to_grey = np.asarray(Image.fromarray(COLOUR).convert("L"))
    cases = {
        "1": (Image.fromarray(BLACK_WHITE).convert("1"), BLACK_WHITE, False),
        "L": (_grey(), GREY, False),
        "LA opaque": (_stack(GREY, OPAQUE, mode="LA"), GREY, False),
        "LA half": (_stack(GREY, HALF, mode="LA"), half, False),
        "P": (_palette(), GREY, False),
        "RGB grey": (_grey("RGB"), GREY, False),
        "RGB colour": (Image.fromarray(COLOUR), to_grey, True),
        "RGBA opaque": (_stack(GREY, GREY, GREY, OPAQUE, mode="RGBA"), GREY, False),
        "RGBA half": (_stack(GREY, GREY, GREY, HALF, mode="RGBA"), half, False),
        "I;16": (Image.fromarray(DEEP), DEEP, False),
    }
    members = []
    for form in ("PNG", "TIFF"):
        for mode, (image, pixels, coloured) in cases.items():
            bits = 16 if mode == "I;16" else 8
            make = lambda image=image, form=form: _saved(image, form)  # noqa: E731
            members.append(Member(f"{form} {mode}", make, pixels, bits, coloured))
    for mode in ("1", "L", "P", "RGB grey", "RGB colour"):
        image, pixels, coloured = cases[mode]
        members.append(Member(f"BMP {mode}", lambda image=image: _saved(image, "BMP"), pixels, 8, coloured))
    return members


def _pngs() -> list[Member]:
    two, four = GREY // 64, GREY // 16
    clear = np.where(GREY > 150, 0, GREY)
    palette = _chunk(b"PLTE", bytes(level for level in range(256) for _ in range(3)))
    veil = _chunk(b"tRNS", bytes(0 if level > 150 else 255 for level in range(256)))
    value = int(GREY[16, 20])
    keyed = _chunk(b"tRNS", struct.pack(">H", value))
    four_keyed = _chunk(b"tRNS", struct.pack(">H", int(four[16, 20])))
    deep_keyed = _chunk(b"tRNS", struct.pack(">H", int(DEEP[16, 20])))
    return [
        Member("PNG 2 bits", lambda: png(two, 2, 0, rows=_packed(two, 2)), two * 85),
        Member("PNG 4 bits", lambda: png(four, 4, 0, rows=_packed(four, 4)), four * 17),
        Member(
            "PNG 4 bits, one clear",
            lambda: png(four, 4, 0, rows=_packed(four, 4), extra=four_keyed),
            np.where(four == four[16, 20], 0, four * 17),
        ),
        Member("PNG interlaced", lambda: png(GREY, 8, 0, rows=_interlaced(), interlace=1), GREY),
        Member("PNG P, some clear", lambda: png(GREY, 8, 3, extra=palette + veil), clear),
        Member("PNG L, one clear", lambda: png(GREY, 8, 0, extra=keyed), np.where(value == GREY, 0, GREY)),
        Member(
            "PNG 16 bits, one clear",
            lambda: png(DEEP.astype(">u2"), 16, 0, extra=deep_keyed),
            np.where(DEEP[16, 20] == DEEP, 0, DEEP),
            16,
        ),
    ]


def _tiffs() -> list[Member]:
    signed = DEEP.astype(np.int32) - 30_000
    real = GREY / np.float32(7) - 3
    wide = GREY.astype(np.uint32) * 16_777_215
    cmyk = _grey("RGB").convert("CMYK")
    pressed = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma")
    return [
        *(Member(f"TIFF L {way}", lambda way=way: _saved(_grey(), "TIFF", compression=way), GREY) for way in pressed),
        *(
            Member(
                f"TIFF 1 {way}",
                lambda way=way: _saved(_grey("1"), "TIFF", compression=way),
                np.asarray(_grey("1")) * 255,
            )
            for way in ("group3", "group4", "tiff_ccitt")
        ),
        Member("TIFF I;16 LZW", lambda: _saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), DEEP, 16),
        Member("TIFF I;16B", lambda: tiff(DEEP, {}, ">"), DEEP, 16),
        Member("TIFF I", lambda: _saved(Image.fromarray(signed), "TIFF"), signed, 32),
        Member("TIFF F", lambda: _saved(Image.fromarray(real), "TIFF"), real, 32),
        Member("TIFF F big-endian", lambda: tiff(real.astype(np.float32), {339: 3}, ">"), real, 32),
        Member("TIFF signed 16 bits", lambda: tiff(signed.astype(np.int16), {339: 2}), signed.astype(np.int16), 16),
        Member("TIFF unsigned 32 bits", lambda: tiff(wide, {}), wide, 32),
        Member("TIFF white is zero", lambda: tiff(255 - GREY, {262: 0}), GREY),
        Member("TIFF white is zero, 16 bits", lambda: tiff(65_535 - DEEP, {262: 0}), DEEP, 16),
        Member("TIFF tiled", _tiled, GREY),
        Member("TIFF without a strip's size", lambda: tiff(GREY, {279: None}), GREY),
        Member("TIFF CMYK", lambda: _saved(cmyk, "TIFF"), GREY),
        Member("TIFF YCbCr", lambda: _saved(_grey("RGB").convert("YCbCr"), "TIFF"), GREY, tolerance=1),
        Member("TIFF JPEG L", lambda: _saved(_grey(), "TIFF", compression="jpeg"), GREY, tolerance=40),
        Member("TIFF JPEG RGB", lambda: _saved(_grey("RGB"), "TIFF", compression="jpeg"), GREY, tolerance=40),
        Member("BigTIFF", lambda: _saved(_grey(), "TIFF", big_tiff=True), GREY),
    ]


def _jpegs() -> list[Member]:
    best = {"quality": 95, "subsampling": 0}
    ways = {"": {}, " progressive": {"progressive": True}, " restarts": {"restart_marker_rows": 1}}
    return [
        *(
            Member(
                f"JPEG {mode}{name}",
                lambda mode=mode, way=way: _saved(_grey(mode), "JPEG", **best, **way),
                GREY,
                tolerance=8,
            )
            for mode in ("L", "RGB", "CMYK")
            for name, way in ways.items()
        ),
        Member("JPEG RGB 4:2:0", lambda: _saved(_grey("RGB"), "JPEG", quality=95), GREY, tolerance=8),
        Member(
            "JPEG stored as RGB", lambda: _saved(_grey("RGB"), "JPEG", keep_rgb=True, quality=95), GREY, tolerance=8
        ),
        Member(
            "JPEG colour",
            lambda: _saved(Image.fromarray(COLOUR), "JPEG", **best),
            np.asarray(Image.fromarray(COLOUR).convert("L")),
            coloured=True,
            tolerance=12,
        ),
    ]


MEMBERS = [*_lossless(), *_pngs(), *_tiffs(), *_jpegs()]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)


def decode(data: bytes, config: DecodeConfig = LIMITS) -> list[Slice | Failure]:
    return list(read(io.BytesIO(data), "file:///an/object", config))


def one(data: bytes, config: DecodeConfig = LIMITS) -> Slice:
    (item,) = decode(data, config)
    assert isinstance(item, Slice), item
    return item


def refused(data: bytes, config: DecodeConfig = LIMITS) -> Reason:
    (item,) = decode(data, config)
    assert isinstance(item, Failure), item
    assert item.where == "file:///an/object"
    assert item.detail
    return item.reason


@every_member
def test_a_picture_comes_back(member):
    found = one(member.make())
    assert found.pixels.dtype == (np.uint8 if member.bits == 8 else np.float32)
    assert found.pixels.flags.c_contiguous
    assert found.pixels.shape == GREY.shape
    assert np.abs(found.pixels - member.pixels.astype(np.float32)).max() <= member.tolerance
    assert found.bits == member.bits
    assert found.flags == ({Flag.COLOUR} if member.coloured else frozenset())
    assert (found.frame, found.member) == (0, None)


@every_member
def test_a_file_cut_at_any_byte_gives_no_made_up_pixels(member):
    data = member.make()
    whole = one(data)
    for length in range(len(data)):
        (item,) = decode(data[:length])
        if isinstance(item, Slice):  # what was cut off held no pixels
            assert member.name.startswith(("TIFF", "BigTIFF")), length
            assert np.array_equal(item.pixels, whole.pixels), length
        else:
            assert item.reason in CUT, (length, item)


@pytest.mark.parametrize(
    "name", ["PNG L", "PNG interlaced", "BMP RGB grey", "BMP P", "TIFF L", "TIFF I;16", "JPEG RGB"]
)
def test_so_does_one_in_a_process_that_allows_truncated_files(name, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    test_a_file_cut_at_any_byte_gives_no_made_up_pixels(next(member for member in MEMBERS if member.name == name))


@pytest.mark.parametrize("name", [member.name for member in _jpegs()])
def test_a_jpeg_cut_and_closed_again_is_not_taken_for_whole(name):
    data = next(member for member in MEMBERS if member.name == name).make()
    whole = one(data)
    first = data.rindex(b"\xff\xda") + 14
    for length in range(first, len(data) - 2):
        (item,) = decode(data[:length] + b"\xff\xd9")
        if isinstance(item, Slice):
            # Only the block in which the scan ends may go unnoticed.
            assert np.count_nonzero(item.pixels != whole.pixels) <= 16 * 16, length
        else:
            assert item.reason is Reason.TRUNCATED, item


def test_a_jpeg_filled_up_with_zeros_is_truncated():
    data = _saved(_grey("RGB"), "JPEG")
    cut = data[: len(data) * 3 // 4]
    assert refused(cut + bytes(len(data) - len(cut))) is Reason.TRUNCATED


@pytest.mark.parametrize("level", [127, 128, 129])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_that_is_mid_grey_is_whole(level, mode):
    flat = Image.fromarray(np.full((40, 40), level, np.uint8)).convert(mode)
    assert (one(_saved(flat, "JPEG")).pixels == level).all()


@pytest.mark.parametrize("trailer", [b"\0" * 9, b"\xff" * 5, b"junk\xff\xd8\xff\xe0"])
@pytest.mark.parametrize("name", ["JPEG L", "JPEG RGB progressive", "PNG L", "BMP L", "TIFF L", "TIFF L tiff_lzw"])
def test_what_follows_a_picture_does_no_harm(name, trailer):
    data = next(member for member in MEMBERS if member.name == name).make()
    assert np.array_equal(one(data + trailer).pixels, one(data).pixels)


def test_a_grey_jpeg_gives_the_same_pixels_stored_as_colour():
    colour, grey = (_saved(_grey(mode), "JPEG", quality=80) for mode in ("RGB", "L"))
    assert np.array_equal(one(colour).pixels, one(grey).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "TIFF LZW"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_orientation_is_applied(orientation, form, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": "tiff_lzw"} if form == "TIFF LZW" else {}
    data = _saved(_grey(mode), form.split()[0], exif=exif, **options)
    with Image.open(io.BytesIO(_saved(_grey("L"), form.split()[0], exif=exif, **options))) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(one(data).pixels, upright)


@pytest.mark.parametrize(
    "exif",
    [b"", b"II", b"II*\0\x08\0\0\0", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0", b"x" * 99],
)
def test_damaged_exif_leaves_a_picture_as_it_is_stored(exif):
    data = _saved(_grey(), "JPEG")
    body = b"Exif\0\0" + exif
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert np.array_equal(one(marked).pixels, one(data).pixels)
    assert np.array_equal(one(png(GREY, 8, 0, extra=_chunk(b"eXIf", exif))).pixels, GREY)


def test_faint_chroma_is_not_called_colour():
    tinted = np.stack([GREY, GREY, np.clip(GREY.astype(int) + 6, 0, 255).astype(np.uint8)], axis=-1)
    for form in ("PNG", "JPEG"):
        assert not one(_saved(Image.fromarray(tinted), form)).flags


def test_a_thin_coloured_line_is_colour():
    drawn = np.stack([GREY] * 3, axis=-1)
    drawn[:, 17] = (255, 0, 0)
    for form in ("PNG", "JPEG"):
        assert one(_saved(Image.fromarray(drawn), form, quality=90)).flags == {Flag.COLOUR}


# Pages


def _pages(count: int, **options: object) -> tuple[bytes, list[np.ndarray]]:
    pages = [np.roll(GREY, 3 * number, axis=1) for number in range(count)]
    first, *rest = map(Image.fromarray, pages)
    return _saved(first, "TIFF", save_all=True, append_images=rest, **options), pages


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
def test_pages_come_in_order(options):
    data, pages = _pages(5, **options)
    found = decode(data)
    assert [item.frame for item in found] == [0, 1, 2, 3, 4]
    assert all(np.array_equal(item.pixels, page) for item, page in zip(found, pages, strict=True))


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=str)
def test_pages_cut_at_any_byte_keep_their_whole_siblings(options):
    data, pages = _pages(3, **options)
    kept = 0
    for length in range(8, len(data), 3):
        found = decode(data[:length])
        slices = [item for item in found if isinstance(item, Slice)]
        assert all(np.array_equal(item.pixels, pages[item.frame]) for item in slices), length
        assert len(slices) == 3 or any(isinstance(item, Failure) and item.reason in CUT for item in found), length
        kept = max(kept, sum(item.frame == 0 for item in slices))
    assert kept


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_page_stands_beside_its_siblings(damaged):
    data, pages = _pages(3)
    broken = bytearray(data)
    at = struct.unpack_from("<I", data, 4)[0]
    for _ in range(damaged):
        at = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])[0]
    width_entry = at + 2
    assert struct.unpack_from("<H", data, width_entry) == (256,)
    struct.pack_into("<I", broken, width_entry + 8, 0)
    found = decode(bytes(broken))
    assert [isinstance(item, Slice) for item in found] == [number != damaged for number in range(3)]
    assert (found[damaged].reason, found[damaged].frame) == (Reason.DAMAGED, damaged)
    assert all(np.array_equal(found[number].pixels, pages[number]) for number in range(3) if number != damaged)


def test_more_pages_than_allowed_are_refused_whole():
    data, _ = _pages(4)
    assert refused(data, DecodeConfig(max_frames=3)) is Reason.TOO_MANY_FRAMES
    assert len(decode(data, DecodeConfig(max_frames=4))) == 4


def test_pages_chained_in_a_circle_end():
    data, _ = _pages(2)
    first = struct.unpack_from("<I", data, 4)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0])[0]
    circle = bytearray(data)
    struct.pack_into("<I", circle, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], first)
    found = decode(bytes(circle))
    assert [type(item) for item in found] == [Slice, Slice, Failure]
    assert (found[2].reason, found[2].frame) == (Reason.DAMAGED, 2)


def test_pages_that_share_their_pixels_are_held_against_the_length_of_the_file():
    first = tiff(np.zeros((32, 32), np.uint8), {256: 4000, 257: 1000, 259: 32946, 278: 1000})
    place = struct.unpack_from("<I", first, 4)[0]
    links = place + 2 + 12 * struct.unpack_from("<H", first, place)[0]
    entries = first[place:links]
    data = first[:links]
    for _ in range(3):
        data += struct.pack("<I", len(data) + 4) + entries
    pressed = zlib.compress(bytes(4_000_000))
    data = data[:8] + pressed[:1024].ljust(1024, b"\0") + data[8 + 1024 :] + bytes(4)
    data = data.replace(struct.pack("<HHII", 279, 4, 1, 1024), struct.pack("<HHII", 279, 4, 1, len(pressed)))
    data = data.replace(struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 1, len(data))) + pressed
    found = decode(data, DecodeConfig(max_pixels=8_000_000))
    assert [type(item) for item in found] == [Slice, Slice, Failure, Failure]
    assert {item.reason for item in found[2:]} == {Reason.TOO_MANY_PIXELS}


# What is refused, and why


def _frame_header(data: bytes, **changes: int) -> bytes:
    """A baseline JPEG with bytes of its frame header changed, by their place behind the marker."""
    changed = bytearray(data)
    start = data.index(b"\xff\xc0")
    for place, value in changes.items():
        changed[start + int(place[1:])] = value
    return bytes(changed)


JPEG, BMP = _saved(_grey(), "JPEG"), _saved(_grey(), "BMP")
NOT_FINITE = np.where(GREY > 150, np.nan, GREY).astype(np.float32)
RGB16 = np.stack([DEEP] * 3, axis=-1)
REFUSED = {
    "JPEG lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3"), Reason.UNSUPPORTED_FORMAT),
    "JPEG-LS": (JPEG.replace(b"\xff\xc0", b"\xff\xf7"), Reason.UNSUPPORTED_FORMAT),
    "JPEG 12 bits": (_frame_header(JPEG, p4=12), Reason.UNSUPPORTED_MODE),
    "JPEG 2 components": (_frame_header(JPEG, p9=2), Reason.UNSUPPORTED_MODE),
    "JPEG no rows": (_frame_header(JPEG, p5=0, p6=0), Reason.DAMAGED),
    "JPEG huge": (_frame_header(JPEG, p5=255, p6=0, p7=255, p8=0), Reason.TOO_MANY_PIXELS),
    "JPEG many scans": (
        JPEG[:-2].replace(b"\xff\xc0", b"\xff\xc2") + b"\xff\xda\0\x02" * 999 + JPEG[-2:],
        Reason.DAMAGED,
    ),
    "PNG colour of 16 bits": (png(RGB16.astype(">u2"), 16, 2), Reason.UNSUPPORTED_MODE),
    "PNG no colour type": (png(GREY, 8, 5), Reason.DAMAGED),
    "PNG rows missing": (png(GREY, 8, 0, rows=_packed(GREY, 8)[:-42]), Reason.TRUNCATED),
    "PNG passes missing": (png(GREY, 8, 0, rows=_interlaced()[:-42], interlace=1), Reason.TRUNCATED),
    "PNG no pixels": (png(GREY, 8, 0, rows=b""), Reason.TRUNCATED),
    "PNG extension": (png(GREY, 8, 0, extra=_chunk(b"CgBI", b"abcd")), Reason.UNSUPPORTED_FORMAT),
    "TIFF colour of 16 bits": (tiff(RGB16, {258: (16, 16, 16), 262: 2, 277: 3}), Reason.UNSUPPORTED_MODE),
    "TIFF no numbers": (tiff(NOT_FINITE, {339: 3}), Reason.UNSUPPORTED_MODE),
    "TIFF 64 bits": (tiff(GREY.astype(np.float64), {339: 3}), Reason.UNSUPPORTED_MODE),
    "TIFF signed 8 bits": (tiff(GREY, {339: 2}), Reason.UNSUPPORTED_MODE),
    "TIFF complex compression": (tiff(GREY, {259: 34887}), Reason.UNSUPPORTED_FORMAT),
    "TIFF strips missing": (tiff(GREY, {278: 4}), Reason.DAMAGED),
    "TIFF strip too short": (tiff(GREY, {279: 1000}), Reason.TRUNCATED),
    "TIFF huge": (tiff(GREY, {256: 60_000, 257: 60_000}), Reason.TOO_MANY_PIXELS),
    "TIFF huge tile": (tiff(GREY, {322: 60_000, 323: 60_000, 324: 8, 325: 99}), Reason.DAMAGED),
    "TIFF two widths": (tiff(GREY, {256: (41, 41)}), Reason.DAMAGED),
    "TIFF no directory": (b"II*\0\0\0\0\0" + bytes(99), Reason.DAMAGED),
    "BMP huge": (BMP[:18] + struct.pack("<ii", 60_000, 60_000) + BMP[26:], Reason.TOO_MANY_PIXELS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trusted_is_refused(name):
    data, reason = REFUSED[name]
    assert refused(data) is reason


def test_a_changed_bit_in_a_png_is_always_found():
    data = _saved(_grey("RGB"), "PNG")
    for place in range(8, len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert isinstance(decode(bytes(changed))[0], Failure), place


def test_a_run_length_bitmap_is_read():
    height, width = GREY.shape
    runs = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in GREY[::-1])
    levels = b"".join(bytes((level, level, level, 0)) for level in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs) + 2, 0, 0, 256, 0)
    start = 14 + len(header) + len(levels)
    data = b"BM" + struct.pack("<IHHI", start + len(runs) + 2, 0, 0, start) + header + levels + runs + b"\0\1"
    assert np.array_equal(one(data).pixels, GREY)
    for cut in range(start, len(data) - 4, 7):
        assert refused(data[:cut]) in CUT


def test_a_bmp_whose_alpha_was_left_empty_is_no_black_picture():
    grey = _grey()
    head = struct.pack("<IiiHHIIiiII4I", 108, grey.width, -grey.height, 1, 32, 3, 0, 0, 0, 0, 0, *_MASKS) + bytes(52)
    grey_bgra = np.repeat(np.asarray(grey)[..., None], 4, axis=2)
    grey_bgra[..., 3] = 0
    size = 14 + len(head) + grey_bgra.size
    data = b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + len(head)) + head + grey_bgra.tobytes()
    (found,) = read(io.BytesIO(data), "a.bmp")
    assert isinstance(found, Slice)
    np.testing.assert_array_equal(found.pixels, np.asarray(grey))


_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
