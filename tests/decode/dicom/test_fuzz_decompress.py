"""Mutated pixels of every encoding end as frames of the announced shape or as reasons. MRI_FUZZ sets how many.

No outcome is a crash of this process, a hang, a warning, or more memory than a frame needs.
"""

import os
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import FileMetaDataset

from mri_ray.decode import isolated
from mri_ray.decode.dicom import decompress
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

CASES = int(os.environ.get("MRI_FUZZ", "300"))
CONFIG = DecodeConfig(timeout_s=3.0, max_pixels=1_000_000)
SECONDS = 2 * CONFIG.timeout_s + 10  # a crash is tried twice, and this machine may do something else
ROWS, COLUMNS, FRAMES = 33, 29, 3
EXTREMES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1)
CONTAINED = {Reason.CRASHED, Reason.TIMEOUT}
EXPECTED = CONTAINED | {
    Reason.TRUNCATED,
    Reason.DAMAGED,
    Reason.DAMAGED_HEADER,
    Reason.UNSUPPORTED_MODE,
    Reason.NO_PIXELS,
    Reason.TOO_MANY_PIXELS,
    Reason.TOO_MANY_FRAMES,
    Reason.TOO_SMALL,
}


def _pictures(bits: int) -> list[np.ndarray]:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    rng = np.random.default_rng(bits)
    top = (1 << bits) - 1
    found = []
    for frame in range(FRAMES):
        smooth = (np.sin(x / (3 + frame)) * np.cos(y / 6) + 1) / 2 * top + rng.integers(-4, 5, x.shape)
        found.append(np.clip(smooth, 0, top).astype(np.uint8 if bits == 8 else np.uint16))
    return found


GREY8, GREY12, GREY16 = _pictures(8), _pictures(12), _pictures(16)
RGB = [np.stack([grey, grey[::-1], 255 - grey], axis=-1) for grey in GREY8]


def _rle(pixels: np.ndarray) -> bytes:
    words = pixels.astype(pixels.dtype.newbyteorder(">"))
    segments = []
    for plane in np.moveaxis(words, -1, 0) if words.ndim == 3 else [words]:
        for place in np.ascontiguousarray(plane).view(np.uint8).reshape(-1, plane.itemsize).T:
            packed = imagecodecs.packbits_encode(np.ascontiguousarray(place).tobytes())
            segments.append(packed + b"\0" * (len(packed) % 2))
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def _jpeg(**options: object) -> Callable[[np.ndarray], bytes]:
    return lambda pixels: imagecodecs.jpeg8_encode(pixels, **options)


def _j2k(**options: object) -> Callable[[np.ndarray], bytes]:
    return lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **options)


# syntax, pictures, bits stored, encoder
SEEDS = {
    "RLE 8": (uid.RLELossless, GREY8, 8, _rle),
    "RLE 16": (uid.RLELossless, GREY16, 16, _rle),
    "RLE colour": (uid.RLELossless, RGB, 8, _rle),
    "JPEG": (uid.JPEGBaseline8Bit, GREY8, 8, _jpeg(level=80)),
    "JPEG colour": (uid.JPEGBaseline8Bit, RGB, 8, _jpeg(level=80)),
    "JPEG 12": (uid.JPEGExtended12Bit, GREY12, 12, _jpeg(level=80, bitspersample=12)),
    "JPEG lossless 8": (uid.JPEGLosslessSV1, GREY8, 8, _jpeg(lossless=True, bitspersample=8, predictor=1)),
    "JPEG lossless 16": (uid.JPEGLosslessSV1, GREY16, 16, _jpeg(lossless=True, bitspersample=16, predictor=1)),
    "JPEG lossless 6": (uid.JPEGLossless, GREY12, 12, _jpeg(lossless=True, bitspersample=12, predictor=6)),
    "JPEG lossless colour": (uid.JPEGLossless, RGB, 8, _jpeg(lossless=True, bitspersample=8, predictor=1)),
    "JPEG-LS 8": (uid.JPEGLSLossless, GREY8, 8, imagecodecs.jpegls_encode),
    "JPEG-LS 16": (uid.JPEGLSLossless, GREY16, 16, imagecodecs.jpegls_encode),
    "JPEG-LS near": (uid.JPEGLSNearLossless, GREY12, 12, lambda pixels: imagecodecs.jpegls_encode(pixels, level=3)),
    "JPEG-LS colour": (uid.JPEGLSLossless, RGB, 8, imagecodecs.jpegls_encode),
    "JPEG 2000 16": (uid.JPEG2000Lossless, GREY16, 16, _j2k(level=0)),
    "JPEG 2000 lossy": (uid.JPEG2000, GREY12, 12, _j2k(level=40, reversible=False, bitspersample=12)),
    "JPEG 2000 colour": (uid.JPEG2000Lossless, RGB, 8, _j2k(level=0)),
    "HTJ2K 16": (uid.HTJ2KLossless, GREY16, 16, imagecodecs.htj2k_encode),
    "HTJ2K lossy": (uid.HTJ2K, GREY16, 16, lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=False)),
    "HTJ2K tiles": (uid.HTJ2K, GREY8, 8, lambda pixels: imagecodecs.htj2k_encode(pixels, tile=(16, 16))),
    "HTJ2K colour": (uid.HTJ2KLosslessRPCL, RGB, 8, imagecodecs.htj2k_encode),
}
STREAMS = {name: [bytes(encode(picture)) for picture in pictures] for name, (_, pictures, _, encode) in SEEDS.items()}


def _flips(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flips_in_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 4))):
        data[rng.randrange(min(len(data), 160))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _cut_before_end(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data)) :] = b"\xff\xd9"


def _number(data: bytearray, rng: random.Random) -> None:
    """A length, a size or a count, wherever one may be."""
    kind = rng.choice((">H", ">H", ">I", "<I", "B"))
    place = rng.randrange(min(len(data), 200))
    value = rng.choice((rng.choice(EXTREMES), rng.randrange(300), len(data), len(data) * 2, 2**31, 2**32 - 1))
    size = struct.calcsize(kind)
    data[place : place + size] = struct.pack(kind, value % (1 << 8 * size))


def _segment_length(data: bytearray, rng: random.Random) -> None:
    marks = [at for at in range(min(len(data) - 4, 400)) if data[at] == 0xFF and data[at + 1] >= 0x4F]
    if marks:
        at = rng.choice(marks)
        struct.pack_into(">H", data, at + 2, rng.choice((*EXTREMES, rng.randrange(100))))


def _moved(data: bytearray, rng: random.Random) -> None:
    """A part is taken out, doubled, or put elsewhere."""
    start = rng.randrange(len(data))
    part = data[start : start + rng.randrange(1, 60)]
    if rng.random() < 0.5:
        del data[start : start + len(part)]
    place = rng.randrange(len(data) + 1)
    data[place:place] = part


def _noise(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + rng.randrange(1, 80)] = rng.randbytes(rng.randrange(80))


def _spliced(data: bytearray, rng: random.Random) -> None:
    """It goes on as a stream of another kind."""
    other = rng.choice(STREAMS[rng.choice(tuple(STREAMS))])
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


MUTATIONS = (
    _flips, _flips, _flips_in_header, _flips_in_header, _cut, _cut_before_end,
    _number, _number, _segment_length, _moved, _noise, _spliced,
)  # fmt: skip


def _item(value: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)


def _case(rng: random.Random) -> tuple[str, pydicom.Dataset]:
    name = rng.choice(tuple(SEEDS))
    syntax, pictures, stored, _ = SEEDS[name]
    streams = [bytearray(stream) for stream in STREAMS[name]]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        stream = rng.choice(streams)
        if stream:
            rng.choice(MUTATIONS)(stream, rng)
    items = [_item(bytes(stream)) for stream in streams]
    table = np.cumsum([0, *map(len, items)])[:-1].astype("<u4").tobytes() if rng.random() < 0.5 else b""
    pixels = bytearray(_item(table) + b"".join(items))
    if rng.random() < 0.3:
        rng.choice((_flips, _cut, _number, _moved))(pixels, rng)
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.Rows, data.Columns, data.NumberOfFrames = ROWS, COLUMNS, rng.choice((FRAMES, FRAMES, FRAMES, 1, 5))
    data.SamplesPerPixel = 3 if pictures is RGB else 1
    data.PhotometricInterpretation = rng.choice(("RGB", "YBR_FULL")) if pictures is RGB else "MONOCHROME2"
    data.BitsAllocated = 8 if stored == 8 else 16
    data.BitsStored, data.HighBit, data.PixelRepresentation = stored, stored - 1, int(rng.random() < 0.3)
    data.PixelData = bytes(pixels)
    return name, data


def _check(item: np.ndarray | Refused, data: pydicom.Dataset) -> str:
    if isinstance(item, Refused):
        assert item.reason in EXPECTED
        assert item.detail
        return item.reason.value
    colour = data.SamplesPerPixel == 3
    assert item.shape == ((ROWS, COLUMNS, 3) if colour else (ROWS, COLUMNS))
    signed = data.PixelRepresentation == 1 and not colour
    assert item.dtype == f"{'i' if signed else 'u'}{data.BitsAllocated // 8}"
    assert item.dtype.isnative
    low, high = (-(1 << data.BitsStored - 1), 1 << data.BitsStored - 1) if signed else (0, 1 << data.BitsStored)
    assert low <= item.min()
    assert item.max() < high
    return "frame"


def _frames(data: pydicom.Dataset) -> list[str]:
    found = []
    try:
        found.extend(_check(item, data) for item in decompress.frames(data, CONFIG))
    except Refused as refused:
        assert not found
        return [_check(refused, data)]
    assert len(found) in (data.NumberOfFrames, data.NumberOfFrames + 1)
    assert len(found) == data.NumberOfFrames or found[-1] == Reason.DAMAGED.value
    return found


def _peak_kib_of_child() -> int:
    child = isolated._child
    status = Path(f"/proc/{child.process.pid}/status") if child else None
    if status is None or not status.exists():
        return 0
    return next((int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")), 0)


@pytest.mark.timeout(0)
def test_mutated_pixels_end_as_frames_or_reasons(capsys):
    outcomes: Counter[str] = Counter()
    contained: Counter[str] = Counter()
    slowest = (0.0, -1, "")
    child_kib = 0
    for case in range(CASES):
        rng = random.Random(case)  # noqa: S311 - no secret
        name, data = _case(rng)
        start = time.monotonic()
        found = _frames(data)
        seconds = time.monotonic() - start
        assert seconds < SECONDS * len(found), f"case {case}, {name}, took {seconds} s"
        outcomes.update(found)
        contained.update(f"{name}: {item}" for item in found if item in CONTAINED)
        slowest = max(slowest, (seconds, case, name))
        child_kib = max(child_kib, _peak_kib_of_child())
    assert outcomes["frame"] > CASES // 3
    if CASES >= 100:
        assert {Reason.TRUNCATED, Reason.DAMAGED} <= outcomes.keys()
    with capsys.disabled():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"\n{CASES} cases, {dict(outcomes)}, slowest {slowest}, contained {dict(contained)}, ", end="")
        print(f"peak memory {peak} MiB here, {child_kib // 1024} MiB in the child")


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_are_sound(name):
    """Else the mutations would say nothing."""
    syntax, pictures, stored, _ = SEEDS[name]
    for stream, picture in zip(STREAMS[name], pictures, strict=True):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        data.Rows, data.Columns = ROWS, COLUMNS
        data.SamplesPerPixel = 3 if pictures is RGB else 1
        data.PhotometricInterpretation = "RGB" if pictures is RGB else "MONOCHROME2"
        data.BitsAllocated, data.BitsStored = picture.itemsize * 8, stored
        data.PixelData = _item(b"") + _item(stream)
        (found,) = decompress.frames(data, CONFIG)
        assert np.abs(found.astype(int) - picture).mean() < (1 << stored) / 40
