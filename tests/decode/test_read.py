"""Whatever an object holds, it ends as slices or as a failure with a reason, in little memory and without a warning."""

import errno
import gzip
import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from mri_ray.decode.read import oversized, read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import ConfigError, Reason
from mri_ray.records import Failure, Slice

URI = "s3://bucket/a/name.png"
GREY = (np.add.outer(np.arange(40) * 3, np.arange(36) * 2) + np.eye(40, 36) * 50).astype(np.uint8)


def _saved(form: str, mode: str = "L", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(out, form, **options)
    return out.getvalue()


SAMPLES = {
    "JPEG": _saved("JPEG"),
    "JPEG colour": _saved("JPEG", "RGB", progressive=True),
    "PNG": _saved("PNG"),
    "PNG palette": _saved("PNG", "P"),
    "TIFF": _saved("TIFF"),
    "TIFF LZW": _saved("TIFF", "RGB", compression="tiff_lzw"),
    "TIFF fax": _saved("TIFF", "1", compression="group4"),
    "TIFF JPEG": _saved("TIFF", "RGB", compression="jpeg"),
    "TIFF pages": _saved("TIFF", save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())]),
    "BMP": _saved("BMP"),
}


def decode(data: bytes, config: DecodeConfig | None = None) -> list[Slice | Failure]:
    return list(read(io.BytesIO(data), URI, config or DecodeConfig()))


@pytest.mark.parametrize(
    ("name", "stored", "mode"),
    [
        *(("JPEG", "jpeg", "L"), ("JPEG colour", "jpeg", "RGB"), ("PNG", "png", "L"), ("PNG palette", "png", "P")),
        *(("TIFF LZW", "tiff", "RGB"), ("TIFF fax", "tiff", "1"), ("BMP", "bmp", "L")),
    ],
)
def test_a_slice_tells_how_it_was_stored(name, stored, mode):
    (item,) = decode(SAMPLES[name])
    assert isinstance(item, Slice)
    assert (item.stored, item.mode) == (stored, mode)


def refused(data: bytes, config: DecodeConfig | None = None) -> Failure:
    (item,) = decode(data, config)
    assert isinstance(item, Failure)
    assert item.where == URI
    return item


def _marked(offset: int, mark: bytes) -> bytes:
    return bytes(offset) + mark + bytes(600)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"path,label\n1.png,tumor\n" * 50,
        b"BMI,age\n21,40\n" * 50,
        b"<html><body>404</body></html>",
        b"\xff\xd8",
        b"\x89PNG",
        bytes(4096),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_what_is_no_image_is_said_to_be_none(data):
    assert refused(data).reason is Reason.NOT_IMAGE


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (_saved("GIF"), "GIF"),
        (_saved("WEBP"), "WebP"),
        (_saved("JPEG2000"), "JPEG 2000"),
        (_saved("ICO"), "icon"),
        (_saved("PDF"), "PDF"),
        (_saved("PPM"), "Netpbm"),
        (_marked(0, b"8BPS"), "Photoshop"),
        (_marked(4, b"ftypheic"), "HEIF"),
        (_marked(4, b"ftypavif"), "AVIF"),
        (_marked(344, b"ni1\0"), "NIfTI header without its image"),
        (b"BZh91AY&SY" + bytes(99), "bzip2"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7-Zip"),
        (gzip.compress(b"what is no tar" * 100), "gzip of neither a tar nor a NIfTI volume"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_format_that_is_not_read_is_named(data, name):
    failure = refused(data)
    assert (failure.reason, failure.detail) == (Reason.UNSUPPORTED_FORMAT, name)


def test_an_empty_object_is_called_empty():
    assert refused(b"").reason is Reason.EMPTY_OBJECT


@pytest.mark.parametrize("name", SAMPLES)
def test_the_name_says_nothing(name):
    for uri in ("a.txt", "a.dcm", "a", "a.jpg"):
        assert all(isinstance(item, Slice) for item in read(io.BytesIO(SAMPLES[name]), uri))


class _Unread(io.BytesIO):
    """Gives its first bytes, and none beyond."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 < size <= 4096, "the whole object was read"
        return super().read(size)


def test_a_large_object_is_not_read():
    source = _Unread(SAMPLES["BMP"])
    (item,) = read(source, URI, DecodeConfig(max_bytes=1000))
    assert isinstance(item, Failure)
    assert item.reason is Reason.TOO_MANY_BYTES
    assert str(len(SAMPLES["BMP"])) in item.detail
    size = len(SAMPLES["BMP"])
    assert oversized(size, URI, DecodeConfig(max_bytes=size)) is None
    assert oversized(size, URI, DecodeConfig(max_bytes=1000)) == item


def test_a_large_object_that_is_no_image_is_called_so_and_not_read():
    (item,) = read(_Unread(bytes(10_000)), URI, DecodeConfig(max_bytes=1000))
    assert isinstance(item, Failure)
    assert item.reason is Reason.NOT_IMAGE


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("disk"), Reason.STORAGE_FAULT),
        (ConnectionResetError(), Reason.STORAGE_FAULT),
        (FileNotFoundError(), Reason.STORAGE_MISSING),
        (PermissionError(), Reason.STORAGE_DENIED),
        (OSError(errno.ESTALE, "replaced"), Reason.STORAGE_CHANGED),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["PNG", "zip"])
def test_what_the_storage_does_is_no_fault_of_the_object(error, reason, name):
    class Broken(io.BytesIO):
        """Breaks behind what tells the format."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise error
            return super().read(size)

    data = SAMPLES["PNG"] * 200
    if name == "zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as pack:
            pack.writestr("1.png", data)
        data = out.getvalue()
    *_, item = read(Broken(data), URI)
    assert isinstance(item, Failure)
    assert item.reason is reason
    assert item.reason.transient


@pytest.mark.parametrize("name", SAMPLES)
def test_sizes_are_held_against_the_limits(name):
    reasons = {item.reason for item in decode(SAMPLES[name], DecodeConfig(max_pixels=40 * 36 - 1))}
    assert reasons == {Reason.TOO_MANY_PIXELS}
    reasons = {item.reason for item in decode(SAMPLES[name], DecodeConfig(min_side=37))}
    assert reasons == {Reason.TOO_SMALL}
    assert all(isinstance(item, Slice) for item in decode(SAMPLES[name], DecodeConfig(max_pixels=40 * 36, min_side=36)))


@pytest.mark.parametrize("field", ["max_pixels", "max_bytes", "max_frames", "min_side"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9", None])
def test_settings_check_themselves(field, value):
    with pytest.raises(ConfigError, match=f"{field}: must be a whole number of at least 1, got"):
        DecodeConfig(**{field: value})


# Bombs, in a process of their own, so that its peak is theirs

_MEASURE = """
import io, resource, sys, time
from mri_ray.decode.read import read
data = sys.stdin.buffer.read()
list(read(io.BytesIO(open(sys.argv[1], "rb").read()), "warm"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
(item,) = read(io.BytesIO(data), "x")
seconds = time.perf_counter() - start
print(getattr(item, "reason", "slice"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, seconds)
"""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _pixel_bomb() -> bytes:
    press = zlib.compressobj(9)
    return _png(60_000, 60_000, b"".join(press.compress(bytes(2**20)) for _ in range(100)) + press.flush())


def _text_bomb() -> bytes:
    text = b"Comment\0\0" + zlib.compress(bytes(100 * 2**20), 9)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in GREY))
    return _png(36, 40, rows, _chunk(b"zTXt", text) + _chunk(b"iCCP", b"profile\0\0" + text[9:]))


@pytest.mark.parametrize(("make", "outcome"), [(_pixel_bomb, "oversized.pixels"), (_text_bomb, "slice")])
def test_a_bomb_costs_neither_memory_nor_time(make, outcome, tmp_path):
    small = tmp_path / "small"
    small.write_bytes(SAMPLES["PNG"])
    run = subprocess.run([sys.executable, "-c", _MEASURE, str(small)], input=make(), capture_output=True, check=True)
    found, kilobytes, seconds = run.stdout.decode().split()
    assert found == outcome
    assert int(kilobytes) < 20_000
    assert float(seconds) < 1


# The process it runs in


def test_pillow_does_not_warn(recwarn):
    warnings.simplefilter("always")
    animated = _png(36, 40, zlib.compress(bytes(37 * 40)), _chunk(b"acTL", struct.pack(">II", 0, 0)))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x010F, 2, 999, 999) * 2
    jpeg = SAMPLES["JPEG"]
    tagged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    tiff = bytearray(SAMPLES["TIFF"])
    for data in (animated, tagged, bytes(tiff), *(tiff[:cut] for cut in range(0, len(tiff), 5))):
        decode(bytes(data))
    large = DecodeConfig(max_pixels=200_000_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        assert all(isinstance(item, Slice) for data in SAMPLES.values() for item in decode(data, large))
    assert [str(warning.message) for warning in recwarn] == []


def test_the_settings_of_the_process_stay_as_they_are():
    def state() -> tuple[object, ...]:
        return (
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            warnings.filters[:],
        )

    before = state()
    for data in SAMPLES.values():
        decode(data)
        decode(data[:-20])
    assert state() == before


def test_many_threads_decode_what_one_does():
    work = [data[: len(data) - cut] for data in SAMPLES.values() for cut in (0, 0, 40)] * 8

    def outcome(data: bytes) -> list[tuple[object, ...]]:
        return [
            (item.frame, item.pixels.tobytes()) if isinstance(item, Slice) else (item.reason, item.detail)
            for item in decode(data)
        ]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, work)) == [outcome(data) for data in work]


LIMITS = DecodeConfig(max_pixels=100_000, max_frames=8, min_side=1)


@settings(max_examples=int(os.environ.get("MRI_FUZZ", "300")), deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    cut=st.floats(0, 1),
    cuts=st.booleans(),
)
def test_whatever_happens_to_a_file_it_ends_as_slices_or_failures(name, changes, cut, cuts):
    data = bytearray(SAMPLES[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    if cuts:
        del data[int(cut * len(data)) :]
    found = decode(bytes(data), LIMITS)
    assert 1 <= len(found) <= LIMITS.max_frames + 1
    for item in found:
        if isinstance(item, Slice):
            assert item.pixels.dtype in (np.uint8, np.float32)
            assert item.pixels.ndim == 2
            assert item.pixels.size <= LIMITS.max_pixels
            assert np.isfinite(item.pixels).all()
        else:
            assert item.where == URI
            assert item.detail


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"", *(data[:8] for data in SAMPLES.values())]), st.binary(max_size=300))
def test_noise_behind_a_signature_never_raises(signature, noise):
    assert decode(signature + noise, LIMITS)
