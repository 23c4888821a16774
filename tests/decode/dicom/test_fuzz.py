"""Damaged and hostile files: whatever stands in them, they end as slices or failures, soon and in little memory.

MRI_FUZZ sets the number of cases, MRI_FUZZ_SEED which ones; a case that fails is told by its number. The pixels of all
files are uncompressed: what runs here is this code, and no decoder's.
"""

import io
import os
import resource
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.datadict import DicomDictionary

from mri_ray.decode.dicom.elements import walk
from mri_ray.decode.dicom.heads import BIG, EXPLICIT, IMPLICIT, LONG, SHORT
from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.records import Failure, Slice

CASES = int(os.environ.get("MRI_FUZZ", "300"))
SEED = int(os.environ.get("MRI_FUZZ_SEED", "0"))
LONGEST_S = 20.0
MOST_BYTES = 600 * 2**20  # of the whole process, beyond what it had before
TAGS = sorted(tag for tag in DicomDictionary if tag >> 16 != 2)
KINDS = sorted(LONG | SHORT)
LENGTHS = (0, 1, 2, 7, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def seeds(dicom, real: Path) -> list[bytes]:
    """Small files that touch every step: syntaxes, enhanced groups, tables, palettes, floats, mosaics, colour."""
    names = ("edge/MR_small.dcm", "edge/MR_small_implicit.dcm", "edge/MR_small_expb.dcm", "edge/nested_priv_SQ.dcm")
    names += ("edge/UN_sequence.dcm", "edge/rtplan_truncated.dcm", "non_mr/test-SR.dcm", "non_mr/rtstruct.dcm")
    grey = (np.add.outer(np.arange(24) * 6, np.arange(20) * 4) + 9).astype(np.uint8)
    frames = np.stack([grey.astype(np.int16) - 90 * number for number in range(4)])
    item = pydicom.Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 2, -1, "US"
    item.ImagePositionPatient, item.PixelSpacing = [1, 2, 3], [0.5, 0.5]
    group = pydicom.Dataset()
    group.PixelValueTransformationSequence = [item]
    group.PlanePositionSequence = group.PixelMeasuresSequence = [item]
    enhanced = dicom.image(frames, SOPClassUID=uid.EnhancedMRImageStorage, PixelPaddingValue=-3)
    enhanced.SharedFunctionalGroupsSequence = [group]
    enhanced.PerFrameFunctionalGroupsSequence = [group] * 4
    enhanced["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], bytes(range(256)) * 2
    with_table = dicom.image(grey, ModalityLUTSequence=[table], PhotometricInterpretation="MONOCHROME1")
    palette = dicom.image(grey, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        segments = struct.pack("<8H", 0, 2, 0, 9, 1, 254, 65535, 0)
        setattr(palette, f"Segmented{name}PaletteColorLookupTableData", segments)
    colour = dicom.image(np.stack([grey] * 3, axis=-1))
    mosaic = dicom.image(np.tile(frames[0], (2, 2)), ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    mosaic.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 3)
    written = [dicom.written(dataset) for dataset in (enhanced, with_table, palette, colour, mosaic)]
    written += [dicom.written(enhanced, syntax) for syntax in dicom.native]
    written += [dicom.written(enhanced, syntax, meta=False) for syntax in dicom.native[:3]]
    return [(real / name).read_bytes() for name in names] + written


def flipped(data: bytearray, rng: np.random.Generator) -> None:
    """Some bits, mostly of the header."""
    reach = len(data) if rng.random() < 0.3 else min(len(data), 1500)
    for at in rng.integers(0, reach, rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(0, 8))


def cut(data: bytearray, rng: np.random.Generator) -> None:
    """The end, or a piece from within."""
    at = int(rng.integers(0, len(data)))
    del data[at : len(data) if rng.random() < 0.7 else at + int(rng.integers(1, 64))]


def mislengthened(data: bytearray, rng: np.random.Generator) -> None:
    """The lengths of elements."""
    start = 132 if data[128:132] == b"DICM" else 0
    found = [walk(bytes(data), start, syntax) for syntax in (EXPLICIT, IMPLICIT, BIG)]
    places = [element.start for dataset in found for element in dataset.elements.values()] or [start + 8]
    for _ in range(int(rng.integers(1, 4))):
        place, size = int(rng.choice(places)), int(rng.choice([2, 4]))
        length = int(rng.choice(LENGTHS)) if rng.random() < 0.7 else int(rng.integers(0, 2 * len(data) + 1))
        data[place - size : place] = (length % (1 << 8 * size)).to_bytes(size, "little")


def soup(data: bytearray, rng: np.random.Generator) -> None:
    """Elements of the dictionary, in any order and of any kind, some nested, put in somewhere."""
    order, explicit = str(rng.choice(["<", "<", ">"])), rng.random() < 0.6
    out = io.BytesIO()
    for _ in range(int(rng.integers(1, 60))):
        tag = int(rng.choice(TAGS)) if rng.random() < 0.9 else int(rng.choice([0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD]))
        value = rng.bytes(int(rng.integers(0, 20))) if rng.random() < 0.5 else b"1.5\\2 "
        length = len(value) if rng.random() < 0.8 else int(rng.choice(LENGTHS))
        out.write(struct.pack(order + "HH", tag >> 16, tag & 0xFFFF))
        if explicit:
            kind = str(rng.choice(KINDS))
            form = "H" if kind in SHORT else "HI"
            out.write(
                kind.encode()
                + struct.pack(order + form, *([0] * (len(form) - 1)), length % (1 << (16 if form == "H" else 32)))
            )
        else:
            out.write(struct.pack(order + "I", length))
        out.write(value)
    at = int(rng.integers(0, len(data)))
    data[at : at + (0 if rng.random() < 0.5 else len(out.getvalue()))] = out.getvalue()


def shuffled(data: bytearray, rng: np.random.Generator) -> None:
    """Two pieces change places, or one stands twice."""
    a, b = sorted(int(place) for place in rng.integers(0, len(data), 2))
    size = int(rng.integers(1, 80))
    if rng.random() < 0.5:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    else:
        data[b:b] = data[a : a + size] * int(rng.integers(1, 50))


def nested(data: bytearray, rng: np.random.Generator) -> None:
    """Sequences within sequences, put in somewhere, with or without their ends."""
    depth = int(rng.choice([1, 5, 60, 70, 3000]))
    begin = struct.pack("<HHIHHI", 8, 0x1140, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    if rng.random() < 0.5:
        begin = struct.pack("<HH2sHIHHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    at = int(rng.integers(0, len(data)))
    data[at:at] = begin * depth + end * (depth if rng.random() < 0.7 else 0)


MUTATIONS = (flipped, cut, mislengthened, soup, shuffled, nested)


def mutated(files: list[bytes], number: int) -> bytes:
    rng = np.random.default_rng((SEED, number))
    data = bytearray(files[int(rng.integers(0, len(files)))])
    for _ in range(int(rng.integers(1, 4))):
        if data:
            MUTATIONS[int(rng.integers(0, len(MUTATIONS)))](data, rng)
    return bytes(data)


def check(items: list[Slice | Failure]) -> None:
    assert items
    for item in items:
        if isinstance(item, Failure):
            assert item.detail
            continue
        assert item.pixels.dtype == np.float32
        assert item.pixels.ndim == 2
        assert np.isfinite(item.pixels).all()
        assert 1 <= item.bits <= 64
        assert item.header.spacing_mm is None or all(part > 0 for part in item.header.spacing_mm)
        assert item.header.normal is None or np.linalg.norm(item.header.normal) == pytest.approx(1)


@pytest.mark.timeout(7200)
def test_mutated_files_end_as_slices_or_failures(dicom, real):
    files = seeds(dicom, real)
    for data in files:
        check(dicom.decoded(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    slowest = (0.0, -1)
    config = DecodeConfig()
    for number in range(CASES):
        data = mutated(files, number)
        begin = time.perf_counter()
        try:
            items = dicom.decoded(data, config)
            check(items)
            list(read(io.BytesIO(data), "uri", config))
        except Exception as exc:
            raise AssertionError(f"case {number} of seed {SEED}") from exc
        slowest = max(slowest, (time.perf_counter() - begin, number))
        outcomes.update({str(item.reason) if isinstance(item, Failure) else "slice" for item in items})
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"{CASES} cases, slowest {slowest[0]:.2f} s (case {slowest[1]}), grown by {grown / 2**20:.0f} MiB, {outcomes}"
    )
    assert slowest[0] < LONGEST_S
    assert grown < MOST_BYTES
    assert len(outcomes) >= 5 or CASES < 100, "the mutations reach too little"
