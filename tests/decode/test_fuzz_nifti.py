"""Mutated NIfTI files end as slices or failures, in bounded time and memory. MRI_FUZZ sets how many are tried."""

import gzip
import io
import os
import random
import struct
import time
import tracemalloc
from collections import Counter

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image

from mri_ray.decode import nifti
from mri_ray.decode.settings import DecodeConfig, NiftiConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Slice

CASES = int(os.environ.get("MRI_FUZZ", "300"))
URI = "s3://bucket/volume.nii"
MAX_BYTES = 4 * 2**20
MAX_PIXELS = 500_000
SECONDS = 5.0
# Three pictures of MAX_PIXELS in 64 bits (stored, scaled, float32 and mask), what is held, and a block in the making.
PEAK_BYTES = 24 * MAX_PIXELS + 2 * MAX_BYTES + 4 * 2**20
EXTREMES = (0, 1, -1, 2, 7, 8, 127, 128, 255, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, -3e38, float("nan"), float("inf"), float("-inf"), 348.0, 1e9)


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(5)
    seeds = []
    for kind, header in ((Nifti1Image, Nifti1Header), (Nifti2Image, Nifti2Header)):
        for order in "<>":
            for dtype in ("u1", "i2", "f4", "f8"):
                shape = (18, 17, 16) if dtype != "i2" else (18, 17, 16, 3)
                voxels = (rng.normal(100, 20, shape)).astype(dtype)
                affine = np.diag([-2.0, 2, 3, 1]) if order == "<" else np.eye(4)[[1, 2, 0, 3]] * 2
                affine[3, 3] = 1
                image = kind(voxels, affine, header(endianness=order), dtype=dtype)
                image.set_qform(affine, code=1)
                seeds.append(image.to_bytes())
    colour = np.zeros((18, 17, 16), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    seeds.append(Nifti1Image(colour, np.eye(4)).to_bytes())
    return seeds


SEEDS = _seeds()


def _flip(data: bytearray, rng: random.Random, end: int) -> None:
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)


def _field(data: bytearray, rng: random.Random) -> None:
    """A number of the header becomes an extreme one."""
    layout = (nibabel.nifti2 if data[4:8] == b"n+2\0" else nibabel.nifti1).header_dtype
    order = "<" if data[0] in (0x5C, 0x1C) else ">"
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(("dim", "dim", "datatype", "bitpix", "vox_offset", "pixdim", "scl_slope", "scl_inter",
                           "qform_code", "sform_code", "quatern_b", "quatern_d", "qoffset_x", "srow_x", "srow_z",
                           "xyzt_units", "intent_code"))  # fmt: skip
        dtype, offset = layout.fields[name][:2]
        item = dtype.base
        place = offset + item.itemsize * rng.randrange(max(1, dtype.itemsize // item.itemsize))
        if item.kind == "f":
            value: float = rng.choice((rng.choice(NUMBERS), rng.uniform(-1e3, 1e3)))
        else:
            low, high = np.iinfo(item).min, np.iinfo(item).max
            choices = (*(n for n in EXTREMES if low <= n <= high), 16, 64, 512, 1024, 1536, 1792, 2304, 4096)
            value = rng.choice((rng.choice([n for n in choices if n <= high]), rng.randint(0, 40)))
        code = {"f4": "f", "f8": "d", "i2": "h", "i4": "i", "i8": "q", "u1": "B"}[item.str[1:]]
        struct.pack_into(order + code, data, place, value)


def _soup(data: bytearray, rng: random.Random, start: int) -> None:
    """Everything but size, mark and the voxels becomes noise."""
    kept = (slice(0, 4), slice(344, 348)) if start == 348 else (slice(0, 12),)
    noise = bytearray(rng.randbytes(start))
    for part in kept:
        noise[part] = data[part]
    data[:start] = noise


def _mutated(rng: random.Random) -> tuple[bytes, bool]:
    data = bytearray(rng.choice(SEEDS))
    start = 540 if data[4:8] == b"n+2\0" else 348
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.randrange(7)
        if kind == 0:
            _flip(data, rng, min(start, len(data)))
        elif kind == 1 and data:
            _flip(data, rng, len(data))
        elif kind in (2, 3) and len(data) >= start:
            _field(data, rng)
        elif kind == 4:
            del data[rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(start) :]
        elif kind == 5:
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
        elif len(data) >= start:
            _soup(data, rng, start)
        if not data:
            break
    if rng.random() < 0.5:
        return bytes(data), False
    packed = bytearray(gzip.compress(bytes(data) + bytes(rng.choice((0, 0, 2**21))), 1, mtime=0))
    kind = rng.randrange(4)
    if kind == 0:
        _flip(packed, rng, len(packed))
    elif kind == 1:
        del packed[rng.randrange(len(packed)) :]
    elif kind == 2:
        packed += rng.choice((b"", bytes(50), rng.randbytes(50), bytes(packed)))
    return bytes(packed), True


def _config(rng: random.Random) -> DecodeConfig:
    return DecodeConfig(
        max_bytes=rng.choice((MAX_BYTES, 20_000)),
        max_pixels=MAX_PIXELS,
        max_frames=rng.choice((16, 64, 4096)),
        min_side=rng.choice((1, 16)),
        nifti=NiftiConfig(
            axis=rng.choice(("axial", "coronal", "sagittal", "stored")),
            first=rng.choice((0.0, 0.4)),
            last=rng.choice((0.5, 1.0)),
            volumes=rng.choice(("first", "all")),
        ),
    )


def _check(item: Slice | Failure, config: DecodeConfig) -> str:
    if isinstance(item, Failure):
        assert item.where == URI
        assert item.detail
        assert item.reason not in (Reason.STORAGE_FAULT, Reason.NOT_IMAGE)
        return item.reason.value
    assert item.pixels.dtype == np.float32
    assert item.pixels.ndim == 2
    assert config.min_side <= min(item.pixels.shape)
    assert item.pixels.size <= config.max_pixels
    assert np.isfinite(item.pixels).all()
    header = item.header
    for vector in (header.position_mm, header.normal, header.spacing_mm):
        assert vector is None or np.isfinite(vector).all()
    assert header.normal is None or abs(np.linalg.norm(header.normal) - 1) < 1e-6
    assert header.spacing_mm is None or min(header.spacing_mm) > 0
    return "slice"


@pytest.mark.timeout(3600)
def test_mutated_files_end_as_slices_or_failures(capsys):
    outcomes: Counter[str] = Counter()
    slowest = (0.0, -1)
    highest = (0, -1)
    tracemalloc.start()
    try:
        for case in range(CASES):
            rng = random.Random(case)  # noqa: S311 - no secret
            data, gzipped = _mutated(rng)
            config = _config(rng)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            start = time.perf_counter()
            frames = []
            kinds = set()
            for item in nifti.decode(io.BufferedReader(io.BytesIO(data)), URI, config, gzipped=gzipped):
                kinds.add(_check(item, config))
                if isinstance(item, Slice):
                    frames.append(item.frame)
            seconds = time.perf_counter() - start
            peak = tracemalloc.get_traced_memory()[1] - before
            assert kinds, f"case {case} ended as nothing"
            assert len(kinds) <= 2, f"case {case} has more than one reason"
            assert frames == sorted(set(frames)), f"case {case}"
            assert len(frames) <= config.max_frames, f"case {case}"
            assert seconds < SECONDS, f"case {case} took {seconds} s"
            assert peak < PEAK_BYTES, f"case {case} took {peak} bytes"
            outcomes.update(kinds)
            slowest, highest = max(slowest, (seconds, case)), max(highest, (peak, case))
    finally:
        tracemalloc.stop()
    assert outcomes["slice"] > CASES // 10
    if CASES >= 100:
        assert {Reason.TRUNCATED, Reason.DAMAGED, Reason.DAMAGED_HEADER} <= outcomes.keys()
    with capsys.disabled():
        print(f"\n{CASES} cases, slowest {slowest}, highest peak {highest}, {dict(outcomes)}")


def test_noise_behind_a_mark_never_raises():
    for case in range(CASES):
        rng = random.Random(-1 - case)  # noqa: S311 - no secret
        noise = bytearray(rng.randbytes(rng.randrange(1000)))
        noise[:8] = rng.choice((b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0n+2\0", b"\0\0\2\x1cn+2\0"))
        if len(noise) > 348 and noise[4:8] != b"n+2\0":
            noise[344:348] = b"n+1\0"
        (*_, last) = nifti.decode(io.BytesIO(bytes(noise)), URI, _config(rng), gzipped=False)
        assert _check(last, _config(rng))
        (last,) = nifti.decode(io.BytesIO(b"\x1f\x8b\x08" + bytes(noise)), URI, _config(rng), gzipped=True)
        assert isinstance(last, Failure)
