"""DICOM files as the tests need them: written by pydicom, or byte by byte where pydicom would not."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from mri_ray.decode.dicom import decode
from mri_ray.decode.settings import DecodeConfig
from mri_ray.records import Failure, Slice

URI = "s3://bucket/folder/object"
NATIVE = {
    uid.ImplicitVRLittleEndian: (True, True),
    uid.ExplicitVRLittleEndian: (False, True),
    uid.ExplicitVRBigEndian: (False, False),
    uid.DeflatedExplicitVRLittleEndian: (False, True),
}
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}


def image(pixels: np.ndarray, **keywords: object) -> pydicom.Dataset:
    """An MR image of stored values: (rows, columns), (frames, rows, columns), or RGB with a last axis of 3.

    keywords: attributes that differ from, or add to, the plain ones; None takes one away.
    """
    samples = 3 if pixels.shape[-1] == 3 else 1
    spatial = pixels.shape[:-1] if samples == 3 else pixels.shape
    bits = pixels.itemsize * 8
    plain: dict[str, object] = {
        "SOPClassUID": uid.MRImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
        "Rows": spatial[-2],
        "Columns": spatial[-1],
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if samples == 3 else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "NumberOfFrames": spatial[0] if len(spatial) == 3 else None,
    }
    merged = plain | keywords
    if merged.get("BitsStored") is not None:
        merged.setdefault("HighBit", int(merged["BitsStored"]) - 1)  # type: ignore[call-overload]
    dataset = pydicom.Dataset()
    for keyword, value in merged.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" not in keywords and pixels.dtype.kind != "f":
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
    return dataset


def written(
    dataset: pydicom.Dataset, syntax: str = uid.ExplicitVRLittleEndian, *, meta: bool = True, preamble: bool = True
) -> bytes:
    """A file; without preamble or meta header where asked. Pixels given little-endian are turned where they must be."""
    implicit, little = NATIVE.get(uid.UID(syntax), (False, True))
    turned = pydicom.Dataset(dataset)
    if not little and "PixelData" in dataset:
        size = max(2, dataset.BitsAllocated // 8)  # bytes stand in words of 16 bits
        even = dataset.PixelData + b"\0" * (len(dataset.PixelData) % 2)
        turned.PixelData = np.frombuffer(even, f"<u{size}").astype(f">u{size}").tobytes()
        turned["PixelData"].VR = "OW"
    out = io.BytesIO()
    if not meta:
        dcmwrite(out, turned, implicit_vr=implicit, little_endian=little)
        return out.getvalue()
    turned.file_meta = FileMetaDataset()
    turned.file_meta.TransferSyntaxUID = uid.UID(syntax)
    turned.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
    turned.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dcmwrite(out, turned, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return out.getvalue() if preamble else out.getvalue()[132:]


def encapsulated(dataset: pydicom.Dataset, codestreams: list[bytes], syntax: str, **options: bool) -> bytes:
    """The same with pixels that are compressed already."""
    packed = pydicom.Dataset(dataset)
    packed.PixelData = encapsulate(codestreams)
    packed["PixelData"].VR = "OB"
    packed["PixelData"].is_undefined_length = True
    return written(packed, syntax, **options)


def element(
    tag: int, vr: str, value: bytes, *, length: int | None = None, order: str = "<", implicit: bool = False
) -> bytes:
    """One element, whatever it holds; `length` is what it announces."""
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit or not vr:
        return head + struct.pack(order + "I", size) + value
    if vr in _LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", size) + value
    return head + vr.encode() + struct.pack(order + "H", size) + value


def with_meta(body: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """A file of a data set that is bytes already."""
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, "UI", name)
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + body


def decoded(data: bytes, config: DecodeConfig | None = None) -> list[Slice | Failure]:
    return list(decode(data, URI, config or DecodeConfig()))


def one_slice(data: bytes, config: DecodeConfig | None = None) -> Slice:
    (item,) = decoded(data, config)
    assert isinstance(item, Slice), item.detail
    assert item.pixels.dtype == np.float32
    assert item.pixels.flags.c_contiguous
    return item


def one_failure(data: bytes, config: DecodeConfig | None = None) -> Failure:
    (item,) = decoded(data, config)
    assert isinstance(item, Failure)
    assert item.where == URI
    return item


@dataclass(frozen=True)
class Dicom:
    """The functions above, for tests to ask for as a fixture."""

    native = tuple(NATIVE)
    image = staticmethod(image)
    written = staticmethod(written)
    encapsulated = staticmethod(encapsulated)
    element = staticmethod(element)
    with_meta = staticmethod(with_meta)
    decoded = staticmethod(decoded)
    slice = staticmethod(one_slice)
    failure = staticmethod(one_failure)


@pytest.fixture(scope="session")
def dicom() -> Dicom:
    return Dicom()


@pytest.fixture(scope="session")
def real(mri_data: Path) -> Path:
    """The folder of real DICOM files."""
    return mri_data / "dicom"
