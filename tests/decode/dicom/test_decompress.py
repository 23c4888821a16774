"""Every encoding gives the stored values bit by bit, or a reason: never others, never of another shape."""

import os
import struct
import time
import tracemalloc
import warnings
from itertools import islice
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import FileMetaDataset

from mri_ray.decode import compressed, isolated
from mri_ray.decode.dicom import decompress
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

CONFIG = DecodeConfig()
FRAGMENTED_NATIVE = "1.2.840.10008.1.2.1.98"
CUT = {Reason.TRUNCATED, Reason.DAMAGED}


def _picture(bits: int, rows: int = 40, columns: int = 36) -> np.ndarray:
    """Unsigned, uses all the bits, noisy to its last row."""
    y, x = np.mgrid[:rows, :columns]
    smooth = (np.sin(x / 5) * np.cos(y / 7) + 1) / 2 * ((1 << bits) - 1)
    noise = np.random.default_rng(bits).integers(-3, 4, (rows, columns))
    picture = np.clip(smooth + noise, 0, (1 << bits) - 1).astype(np.uint8 if bits <= 8 else np.uint16)
    picture[0, :2] = 0, (1 << bits) - 1
    return picture


GREY8, GREY12, GREY16 = _picture(8), _picture(12), _picture(16)
RGB = np.stack([GREY8, GREY8[::-1], 255 - GREY8], axis=-1)


def dataset(pixels: bytes, syntax: str = uid.ExplicitVRLittleEndian, **tags: object) -> pydicom.Dataset:
    """Of a 16-bit grey image of 40 x 36, unless said otherwise."""
    tags = {
        "Rows": 40,
        "Columns": 36,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": tags.get("BitsAllocated", 16),
        "PixelRepresentation": 0,
    } | tags
    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    for keyword, value in {"HighBit": tags["BitsStored"] - 1, "PixelData": pixels, **tags}.items():
        setattr(found, keyword, value)
    found["PixelData"].VR = "OW" if tags["BitsAllocated"] > 8 else "OB"
    return found


COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8}


def item(value: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)


def encapsulated(frames: list[bytes], *, table: bool = False, parts: int = 1) -> bytes:
    """Frames in `parts` fragments each."""
    groups = [b"".join(item(part) for part in _parts(frame + b"\0" * (len(frame) % 2), parts)) for frame in frames]
    offsets = np.cumsum([0, *map(len, groups)])[:-1].astype("<u4").tobytes() if table else b""
    return item(offsets) + b"".join(groups)


def _parts(frame: bytes, parts: int) -> list[bytes]:
    size = -(-len(frame) // parts // 2) * 2 or 2
    return [frame[start : start + size] for start in range(0, len(frame), size)]


def rle(pixels: np.ndarray) -> bytes:
    """By annex G: the planes of bytes, of each sample the most significant first."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    segments = []
    for sample in range(planes.shape[-1]):
        words = np.ascontiguousarray(planes[..., sample]).astype(f">u{pixels.itemsize}")
        for place in range(pixels.itemsize):
            rows = words.view(np.uint8).reshape(*words.shape, pixels.itemsize)[..., place]
            packed = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in np.ascontiguousarray(rows))
            segments.append(packed + b"\0" * (len(packed) % 2))
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def decode(data: pydicom.Dataset, config: DecodeConfig = CONFIG) -> list[np.ndarray | Refused]:
    return list(decompress.frames(data, config))


def one(data: pydicom.Dataset) -> np.ndarray:
    (found,) = decode(data)
    assert isinstance(found, np.ndarray), found.detail
    assert found.dtype.isnative
    return found


def refused(data: pydicom.Dataset, config: DecodeConfig = CONFIG) -> Refused:
    """Of the data set as a whole."""
    with pytest.raises(Refused) as caught:
        decode(data, config)
    return caught.value


def alone(data: pydicom.Dataset) -> Refused:
    """Of its only frame."""
    (found,) = decode(data)
    assert isinstance(found, Refused)
    return found


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == wanted.dtype and np.array_equal(found, wanted)


# Real files


def _read(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is wrong elsewhere in the file
        return pydicom.dcmread(path)


@pytest.mark.parametrize("number", range(1, 10))
def test_one_picture_in_nine_encodings(mri_data, number):
    folder = mri_data / "dicom" / "encodings" / "In"
    found = one(_read(folder / f"{number}.dcm"))
    assert found.max() == 2362
    assert same(found, one(_read(folder / "1.dcm")))


# Maximum and mean of the absolute difference from the uncompressed picture; its values go to 4000 (MR1) and 595 (MR2).
LOSSES = {
    **{f"{name}_{form}": (0, 0) for name in ("MR1", "MR2") for form in ("J2KR", "JLSL", "JPLL", "RLE")},
    **{f"{name}_JLSN": (4, 2.3) for name in ("MR1", "MR2")},
    "MR1_J2KI": (400, 35),
    "MR2_J2KI": (32, 4),
    "MR1_JPLY": (130, 12),
    "MR2_JPLY": (62, 6),
}


@pytest.mark.parametrize("name", LOSSES)
def test_compressed_pictures_differ_by_their_loss(mri_data, name):
    folder = mri_data / "dicom" / "compression"
    found, reference = (one(_read(folder / file)).astype(int) for file in (name, name[:4] + "UNC"))
    difference = np.abs(found - reference)
    most, mean = LOSSES[name]
    assert difference.max() <= most
    assert difference.mean() <= mean


@pytest.mark.parametrize("form", ["RLE", "big_endian", "jpeg_2k_lossless", "jpeg_ls_lossless"])
def test_multi_frame_pictures_are_equal_in_all_encodings(mri_data, form):
    folder = mri_data / "dicom" / "enhanced"
    found, reference = (decode(_read(folder / f"emri_small{name}.dcm")) for name in (f"_{form}", ""))
    assert len(found) == 10
    assert all(map(same, found, reference))


@pytest.mark.parametrize("form", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_small_pictures_are_equal_in_all_encodings(mri_data, form):
    folder = mri_data / "dicom" / "edge"
    assert same(one(_read(folder / f"MR_small_{form}.dcm")), one(_read(folder / "MR_small.dcm")))


EDGES = {
    "edge/J2K_pixelrep_mismatch.dcm": (-2000, 1896),
    "edge/MR-SIEMENS-DICOM-WithOverlays.dcm": (0, 1123),
    "edge/JPEG2000-embedded-sequence-delimiter.dcm": Reason.DAMAGED,  # the delimiter stands in its header's width
    "edge/MR_truncated.dcm": Reason.TRUNCATED,
    "non_mr/SC_rgb_jpeg.dcm": (134, 252),
    "non_mr/examples_palette.dcm": (0, 255),
    "non_mr/examples_overlay.dcm": (0, 1123),
}


@pytest.mark.parametrize("name", EDGES)
def test_odd_files(mri_data, name):
    (found,) = decode(_read(mri_data / "dicom" / name))
    if isinstance(found, Refused):
        assert found.reason is EDGES[name]
    else:
        assert (found.min(), found.max()) == EDGES[name]


COMPRESSED = [
    *(f"encodings/In/{number}.dcm" for number in range(4, 10)),
    *(f"compression/{name}" for name in LOSSES),
    *(f"enhanced/emri_small_{form}.dcm" for form in ("RLE", "jpeg_2k_lossless", "jpeg_ls_lossless")),
    *(f"edge/MR_small_{form}.dcm" for form in ("RLE", "jp2klossless", "jpeg_ls_lossless")),
    "edge/J2K_pixelrep_mismatch.dcm",
    "non_mr/examples_ybr_color.dcm",
    "non_mr/SC_rgb_jpeg.dcm",
]


@pytest.mark.parametrize("name", COMPRESSED)
def test_other_decoders_agree(mri_data, name):
    """Those that are installed for pydicom."""
    data = _read(mri_data / "dicom" / name)
    decoder = pydicom.pixels.get_decoder(data.file_meta.TransferSyntaxUID)
    found = next(decompress.frames(data, CONFIG))
    agreed = 0
    for plugin in decoder._available:
        try:
            other, _ = decoder.as_array(data, index=0, decoding_plugin=plugin)
        except (NotImplementedError, RuntimeError):  # of 12 bits
            continue
        bound = 3 if "ybr" in name else int("rgb" in name)  # what is lossy is not settled to the bit
        assert np.abs(found.astype(int) - other).max() <= bound, plugin
        agreed += 1
    if not agreed:
        pytest.skip("no other decoder is installed")


def _decode_or_refused(data: pydicom.Dataset, count: int) -> list[np.ndarray | Refused]:
    """What is refused as a whole is `count` frames refused."""
    try:
        return decode(data)
    except Refused as refused:
        return [refused] * count


@pytest.mark.parametrize("name", [name for name in COMPRESSED if "MR1" in name or "small" in name])
def test_pixels_cut_anywhere_are_never_others(mri_data, name):
    """Cut where the file was cut: the fragments end too early."""
    data = _read(mri_data / "dicom" / name)
    whole, pixels = decode(data), data.PixelData
    for length in sorted({*range(8, 90, 9), *np.linspace(90, len(pixels) - 1, 25).astype(int).tolist()}):
        data["PixelData"].value = pixels[:length]
        found = _decode_or_refused(data, len(whole))
        assert len(found) == len(whole)
        assert isinstance(found[-1], Refused)
        for part, reference in zip(found, whole, strict=True):
            assert part.reason in CUT if isinstance(part, Refused) else same(part, reference)


@pytest.mark.parametrize("name", [name for name in COMPRESSED if "MR1" in name or "small" in name or "In/" in name])
def test_a_codestream_cut_anywhere_is_refused(mri_data, name):
    """Cut before it was packed: the fragments are whole. With and without the marker that ends it."""
    data = _read(mri_data / "dicom" / name)
    reference = next(decompress.frames(data, CONFIG))
    (stream, *_) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames", 1)))
    stream = stream.rstrip(b"\0")
    data.NumberOfFrames = 1
    for length in sorted({*range(2, 90, 8), *np.linspace(90, len(stream) - 40, 12).astype(int).tolist()}):
        for end in (b"", b"\xff\xd9"):
            data["PixelData"].value = encapsulated([stream[:length] + end])
            (found,) = decode(data)
            assert isinstance(found, Refused) or same(found, reference), (length, end)
            if isinstance(found, Refused):
                assert found.reason in {*CUT, Reason.UNSUPPORTED_MODE}


# Uncompressed


NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
}


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_words_of_all_sizes(name, kind):
    values = np.random.default_rng(3).integers(np.iinfo(kind).min, np.iinfo(kind).max, (2, 40, 36), kind, endpoint=True)
    order = ">" if name == "big" else "<"
    bits = values.itemsize * 8
    tags = {"BitsAllocated": bits, "PixelRepresentation": int(kind[0] == "i"), "NumberOfFrames": 2}
    found = decode(dataset(values.astype(order + kind).tobytes(), NATIVE[name], **tags))
    assert all(map(same, found, values))


def test_bytes_in_big_endian_words():
    data = dataset(GREY8.tobytes(), uid.ExplicitVRBigEndian, BitsAllocated=8)
    assert same(one(data), GREY8)
    data["PixelData"].value, data["PixelData"].VR = GREY8.view("<u2").astype(">u2").tobytes(), "OW"
    assert same(one(data), GREY8)


@given(data=st.data(), allocated=st.sampled_from([8, 16, 32]), signed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_other_bits_of_a_word_are_nothing(data, allocated, signed):
    """Whatever stands above the high bit (overlays) or below the stored ones."""
    stored = data.draw(st.integers(2, allocated))
    high = data.draw(st.integers(stored - 1, allocated - 1))
    low = -(1 << stored - 1) if signed else 0
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = random.integers(low, low + (1 << stored), (40, 36), np.int64)
    mask = ((1 << stored) - 1) << (high + 1 - stored)
    noise = random.integers(0, 1 << allocated, values.shape, np.int64) & ~mask
    words = ((values << (high + 1 - stored)) & mask | noise).astype(f"<u{allocated // 8}")
    tags = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": high, "PixelRepresentation": int(signed)}
    assert np.array_equal(one(dataset(words.tobytes(), **tags)), values)


@pytest.mark.parametrize("high", [0, 10, 16, 99])
def test_a_high_bit_that_cannot_be_is_passed_over(high):
    assert same(one(dataset(GREY12.tobytes(), BitsStored=12, HighBit=high)), GREY12)


def test_floating_point_pixels():
    values = np.random.default_rng(4).normal(size=(2, 40, 36))
    for keyword, kind, bits in (("FloatPixelData", "f4", 32), ("DoubleFloatPixelData", "f8", 64)):
        for name, order in (("explicit", "<"), ("big", ">")):
            data = dataset(b"", NATIVE[name], NumberOfFrames=2, BitsAllocated=bits)
            del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
            setattr(data, keyword, values.astype(order + kind).tobytes())
            assert all(map(same, decode(data), values.astype(kind)))


def test_colours_by_pixel_and_by_plane():
    assert same(one(dataset(RGB.tobytes(), **COLOUR)), RGB)
    planes = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    assert same(one(dataset(planes.tobytes(), **COLOUR | {"PlanarConfiguration": 1})), RGB)
    wide = RGB.astype("<u2") * 257
    assert same(one(dataset(wide.tobytes(), **COLOUR | {"BitsAllocated": 16})), wide)


def _ybr(pixels: np.ndarray) -> np.ndarray:
    """By the standard's own formula (C.7.6.3.1.2)."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(pixels @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def test_luminance_and_colour_difference_become_rgb():
    tame = RGB // 2 + 64
    for planar in (0, 1):
        stored = np.moveaxis(_ybr(tame), -1, 0) if planar else _ybr(tame)
        tags = COLOUR | {"PhotometricInterpretation": "YBR_FULL", "PlanarConfiguration": planar}
        assert np.abs(one(dataset(stored.tobytes(), **tags)).astype(int) - tame).max() <= 2


def test_colour_shared_by_two_pixels():
    pairs = np.repeat((RGB // 2 + 64)[:, ::2], 2, axis=1)
    stored = _ybr(pairs)
    packed = np.stack([stored[:, ::2, 0], stored[:, 1::2, 0], stored[:, ::2, 1], stored[:, ::2, 2]], axis=-1)
    tags = COLOUR | {"PhotometricInterpretation": "YBR_FULL_422", "NumberOfFrames": 2}
    found = decode(dataset(packed.tobytes() * 2, **tags))
    assert [np.abs(frame.astype(int) - pairs).max() <= 2 for frame in found] == [True, True]
    found = decode(dataset(stored.tobytes() * 2, **tags))  # so called, but not so stored
    assert [np.abs(frame.astype(int) - pairs).max() <= 2 for frame in found] == [True, True]
    assert alone(dataset(packed[:, :9].tobytes() * 2, **tags | {"NumberOfFrames": 1, "Columns": 35})).reason in CUT


@pytest.mark.parametrize("length", [0, 1, 2879, 2880, 2881, 5000, 8639])
@pytest.mark.parametrize("name", NATIVE)
def test_whole_frames_pass_and_missing_ones_are_truncated(name, length):
    pixels = np.stack([GREY16, GREY16 ^ 1, GREY16 ^ 2])
    stored = pixels.astype(">u2" if name == "big" else "<u2").tobytes()
    data = dataset(stored[:length], NATIVE[name], NumberOfFrames=3)
    if not length:
        assert refused(data).reason is Reason.NO_PIXELS
        return
    found = decode(data)
    whole = length // 2880
    assert all(map(same, found[:whole], pixels))
    assert [frame.reason for frame in found[whole:]] == [Reason.TRUNCATED] * (3 - whole)


def test_padding_is_passed_over_and_frames_beyond_those_announced_are_told():
    assert same(one(dataset(GREY16.tobytes() + bytes(128))), GREY16)
    found = decode(dataset(GREY16.tobytes() * 3))
    assert [isinstance(frame, Refused) for frame in found] == [False, True]
    assert "3 frames are there, 1 are announced" in found[1].detail


WRONG = {
    "one bit": ({"BitsAllocated": 1}, Reason.UNSUPPORTED_MODE),
    "12 bits packed": ({"BitsAllocated": 12}, Reason.UNSUPPORTED_MODE),
    "64 bits": ({"BitsAllocated": 64}, Reason.UNSUPPORTED_MODE),
    "4 samples": ({"SamplesPerPixel": 4}, Reason.UNSUPPORTED_MODE),
    "3 samples of grey": ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED_MODE),
    "colours of television": (COLOUR | {"PhotometricInterpretation": "YBR_PARTIAL_420"}, Reason.UNSUPPORTED_MODE),
    "no rows": ({"Rows": 0}, Reason.DAMAGED),
    "few rows": ({"Rows": 8}, Reason.TOO_SMALL),
    "many pixels": ({"Rows": 60_000, "Columns": 60_000}, Reason.TOO_MANY_PIXELS),
    "many frames": ({"NumberOfFrames": 50_000}, Reason.TOO_MANY_FRAMES),
    "frames below none": ({"NumberOfFrames": -1}, Reason.DAMAGED_HEADER),
    "more bits than there are": ({"BitsStored": 17}, Reason.DAMAGED_HEADER),
    "no bits": ({"BitsStored": 0, "HighBit": 0}, Reason.DAMAGED_HEADER),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.RLELossless])
def test_what_no_picture_can_be_is_refused_whole(name, syntax):
    tags, reason = WRONG[name]
    assert refused(dataset(GREY16.tobytes(), syntax, **tags)).reason is reason


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_a_header_without_what_describes_pixels_is_damaged(keyword):
    data = dataset(GREY16.tobytes())
    del data[keyword]
    found = refused(data)
    assert (found.reason, keyword in found.detail) == (Reason.DAMAGED_HEADER, True)


@pytest.mark.parametrize("text", ["1A", "one", "1\\2", "1_0", "\u0661"])
def test_a_number_of_frames_that_is_none(text):
    data = dataset(GREY16.tobytes())
    tag = pydicom.tag.Tag(0x00280008)
    data._dict[tag] = pydicom.dataelem.RawDataElement(tag, "IS", len(text), text.encode(), 0, False, True)
    found = refused(data)
    assert (found.reason, text in found.detail) == (Reason.DAMAGED_HEADER, False)


def test_a_data_set_without_pixels():
    data = dataset(GREY16.tobytes())
    del data.PixelData
    assert refused(data).reason is Reason.NO_PIXELS


# Compressed: what goes in comes out


def _htj2k(pixels: np.ndarray, **options: object) -> bytes:
    return imagecodecs.htj2k_encode(pixels, **options)


def _j2k(pixels: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", **options)


def _lossless(pixels: np.ndarray, bits: int | None = None, predictor: int = 1) -> bytes:
    bits = bits or 8 * pixels.itemsize
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, predictor=predictor)


LOSSLESS = {
    "RLE": (uid.RLELossless, rle),
    "JPEG lossless": (uid.JPEGLosslessSV1, _lossless),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG-LS near": (uid.JPEGLSNearLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (uid.JPEG2000Lossless, _j2k),
    "JPEG 2000 maybe lossy": (uid.JPEG2000, _j2k),
    "HTJ2K": (uid.HTJ2KLossless, _htj2k),
    "HTJ2K RPCL": (uid.HTJ2KLosslessRPCL, _htj2k),
    "HTJ2K maybe lossy": (uid.HTJ2K, _htj2k),
    "in fragments": (FRAGMENTED_NATIVE, lambda pixels: pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()),
}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_grey(name, bits, signed):
    syntax, encode = LOSSLESS[name]
    pixels = GREY8 if bits == 8 else GREY16
    tags = {"BitsAllocated": bits, "PixelRepresentation": int(signed)}
    found = one(dataset(encapsulated([encode(pixels)]), syntax, **tags))
    assert same(found, pixels.view(f"i{pixels.itemsize}") if signed else pixels)


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_colour(name):
    syntax, encode = LOSSLESS[name]
    assert same(one(dataset(encapsulated([encode(RGB)]), syntax, **COLOUR)), RGB)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_of_all_depths_and_predictors(bits, predictor):
    pixels = _picture(bits)
    stream = _lossless(pixels, bits, predictor)
    tags = {"BitsStored": bits, "BitsAllocated": 8 if bits <= 8 else 16}
    assert same(one(dataset(encapsulated([stream]), uid.JPEGLossless, **tags)), pixels)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_jpeg_2000_whose_own_signs_are_right(signed):
    pixels = GREY16.view(np.int16) if signed else GREY16
    for encode in (_j2k, _htj2k):
        data = dataset(encapsulated([encode(pixels)]), uid.JPEG2000, PixelRepresentation=int(signed))
        assert same(one(data), pixels)


def test_jpeg_2000_whose_own_signs_are_wrong():
    """Bits are bits: the data set says what they mean."""
    stream = _j2k(GREY12, bitspersample=12)
    found = one(dataset(encapsulated([stream]), uid.JPEG2000, BitsStored=12, PixelRepresentation=1))
    wanted = GREY12.astype(np.int16)
    wanted[GREY12 >= 2048] -= 4096
    assert same(found, wanted)
    stream = _j2k(GREY16.view(np.int16))
    assert same(one(dataset(encapsulated([stream]), uid.JPEG2000)), GREY16)


def test_jpeg_2000_in_a_file_of_its_own():
    stream = imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="jp2", mct=False, colorspace="SYCC")
    assert same(one(dataset(encapsulated([stream]), uid.JPEG2000, **COLOUR)), RGB)


@pytest.mark.parametrize("mixed", [False, True])
def test_jpeg_2000_colours(mixed):
    """Its own transform is undone whatever the data set says; without one, the data set says what they are."""
    tame = RGB // 2 + 64
    if mixed:
        for named in ("RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"):
            tags = COLOUR | {"PhotometricInterpretation": named}
            assert same(one(dataset(encapsulated([_j2k(tame, mct=True)]), uid.JPEG2000, **tags)), tame)
    else:
        tags = COLOUR | {"PhotometricInterpretation": "YBR_FULL"}
        found = one(dataset(encapsulated([_j2k(_ybr(tame), mct=False)]), uid.JPEG2000, **tags))
        assert np.abs(found.astype(int) - tame).max() <= 2
        tags = COLOUR | {"PhotometricInterpretation": "YBR_RCT"}
        data = dataset(encapsulated([_j2k(tame, mct=False)]), uid.JPEG2000, **tags)
        assert alone(data).reason is Reason.UNSUPPORTED_MODE


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_lossy_jpeg_of_8_bits(syntax):
    stream = imagecodecs.jpeg8_encode(GREY8, level=95)
    for allocated, stored in ((8, 8), (16, 8), (16, 12)):
        tags = {"BitsAllocated": allocated, "BitsStored": stored}
        found = one(dataset(encapsulated([stream]), syntax, **tags))
        assert found.dtype == f"u{allocated // 8}"
        assert np.abs(found.astype(int) - GREY8).max() <= 12


def test_lossy_jpeg_of_12_bits():
    stream = imagecodecs.jpeg8_encode(GREY12, level=95, bitspersample=12)
    found = one(dataset(encapsulated([stream]), uid.JPEGExtended12Bit, BitsStored=12))
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - GREY12).max() <= 40


# How a JPEG of three components tells what they are: its own segments first, then its names, then the data set.
TOLD = {
    "nothing": (None, b"\1\2\3", None),
    "its names": (None, b"RGB", "RGB"),
    "Adobe: RGB": (b"Adobe\0\x64\0\0\0\0\0", b"\1\2\3", "RGB"),
    "Adobe: YCC": (b"Adobe\0\x64\0\0\0\0\1", b"RGB", "YBR"),
    "Adobe, cut": (b"Adobe\0\0\0\0\0", b"\1\2\3", None),
}


def _marked(stream: bytes, segment: bytes | None, names: bytes) -> bytes:
    """Without what tells the colours, or with that and other names of the components."""
    body = bytearray(stream)
    frame = body.index(b"\xff\xc0") + 10
    scan = body.index(b"\xff\xda") + 5
    for place, name in enumerate(names):
        body[frame + 3 * place] = body[scan + 2 * place] = name
    start = 2
    while body[start : start + 2] in (b"\xff\xe0", b"\xff\xee"):
        start += 2 + int.from_bytes(body[start + 2 : start + 4], "big")
    told = b"" if segment is None else b"\xff\xee" + struct.pack(">H", len(segment) + 2) + segment
    return bytes(body[:2]) + told + bytes(body[start:])


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("name", TOLD)
def test_colours_of_a_jpeg(name, photometric):
    segment, names, told = TOLD[name]
    tame = RGB // 2 + 64
    is_ybr = (told or photometric[:3]) == "YBR"
    plain = imagecodecs.jpeg8_encode(_ybr(tame) if is_ybr else tame, level=100, colorspace="RGB", outcolorspace="RGB")
    stream = _marked(plain, segment, names)
    tags = COLOUR | {"PhotometricInterpretation": photometric}
    found = one(dataset(encapsulated([stream]), uid.JPEGBaseline8Bit, **tags))
    assert np.abs(found.astype(int) - tame).max() <= 8


def test_a_transfer_syntax_that_names_another_codec_of_its_kind_does_no_harm():
    streams = [_lossless(GREY16), imagecodecs.jpegls_encode(GREY16), _j2k(GREY16), _htj2k(GREY16)]
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000):
        found = decode(dataset(encapsulated(streams), syntax, NumberOfFrames=4))
        assert all(same(frame, GREY16) for frame in found)


# Where a codestream and its data set differ


@pytest.mark.parametrize("name", [name for name in LOSSLESS if name not in ("RLE", "in fragments")])
@pytest.mark.parametrize(
    "tags",
    [{"Rows": 36, "Columns": 40}, {"Rows": 80, "Columns": 18}, {"Rows": 41}, COLOUR | {"BitsAllocated": 16}],
    ids=str,
)
def test_another_size_is_damaged_and_never_reshaped(name, tags):
    syntax, encode = LOSSLESS[name]
    assert alone(dataset(encapsulated([encode(GREY16)]), syntax, **tags)).reason is Reason.DAMAGED


@pytest.mark.parametrize("name", [name for name in LOSSLESS if name not in ("RLE", "in fragments")])
def test_more_bits_than_there_is_room_for_are_damaged(name):
    syntax, encode = LOSSLESS[name]
    assert alone(dataset(encapsulated([encode(GREY16)]), syntax, BitsAllocated=8)).reason is Reason.DAMAGED


def test_more_bits_than_are_read():
    stream = bytearray(_j2k(GREY16))
    stream[42] = 24 - 1
    data = dataset(encapsulated([bytes(stream)]), uid.JPEG2000, BitsAllocated=32)
    assert alone(data).reason is Reason.UNSUPPORTED_MODE


def _at_most(bits: int) -> np.ndarray:
    return _picture(bits).astype(np.uint16)


@pytest.mark.parametrize("encode", [_lossless, _j2k, _htj2k], ids=["JPEG", "JPEG 2000", "HTJ2K"])
def test_values_that_fit_in_fewer_bits_than_the_codestream_has(encode):
    """Written as 16-bit words, as many do."""
    data = dataset(encapsulated([encode(_at_most(12))]), uid.JPEG2000, BitsStored=12)
    assert same(one(data), GREY12)
    assert alone(dataset(encapsulated([encode(GREY16)]), uid.JPEG2000, BitsStored=12)).reason is Reason.DAMAGED


def test_signed_values_in_more_bits_than_the_header_stores():
    """Their upper bits may repeat the sign, or be none; anything else has no meaning."""
    values = GREY12.astype(np.int16) - 2048
    tags = {"BitsStored": 12, "PixelRepresentation": 1}
    for words in (values.view(np.uint16), values.view(np.uint16) & 0xFFF):
        assert same(one(dataset(encapsulated([_lossless(words)]), uid.JPEGLossless, **tags)), values)
    assert alone(dataset(encapsulated([_lossless(GREY16)]), uid.JPEGLossless, **tags)).reason is Reason.DAMAGED


def test_signed_values_in_fewer_bits_than_the_header_stores():
    positive, open_ones = _picture(11), GREY12
    for pixels, fits in ((positive, True), (open_ones, False)):
        stream = _lossless(pixels, 12)
        (found,) = decode(dataset(encapsulated([stream]), uid.JPEGLossless, PixelRepresentation=1))
        assert isinstance(found, np.ndarray) is fits
        if fits:
            assert same(found, pixels.astype(np.int16))


def _announcing(stream: bytes, rows: int, columns: int) -> bytes:
    """A codestream whose header is given another size."""
    changed = bytearray(stream)
    if stream.startswith(b"\xff\x4f"):
        struct.pack_into(">II", changed, 8, columns, rows)
        struct.pack_into(">II", changed, 24, columns, rows)
        return bytes(changed)
    frame = next(at for marker in (b"\xff\xc0", b"\xff\xc3", b"\xff\xf7") if (at := stream.find(marker)) > 0)
    struct.pack_into(">HH", changed, frame + 5, rows, columns)
    return bytes(changed)


BIG = {
    "JPEG": (uid.JPEGBaseline8Bit, imagecodecs.jpeg8_encode(GREY8)),
    "JPEG lossless": (uid.JPEGLossless, _lossless(GREY8)),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode(GREY8)),
    "JPEG 2000": (uid.JPEG2000, _j2k(GREY8)),
    "HTJ2K": (uid.HTJ2K, _htj2k(GREY8)),
}


@pytest.mark.parametrize("name", BIG)
def test_few_bytes_that_announce_many_pixels_take_no_memory(name):
    syntax, stream = BIG[name]
    huge = _announcing(stream, 60_000, 60_000)
    tracemalloc.start()
    start = time.monotonic()
    (found,) = decode(dataset(encapsulated([huge]), syntax, BitsAllocated=8))
    both = refused(dataset(encapsulated([huge]), syntax, BitsAllocated=8, Rows=60_000, Columns=60_000))
    assert (found.reason, both.reason) == (Reason.DAMAGED, Reason.TOO_MANY_PIXELS)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    assert time.monotonic() - start < 5
    tracemalloc.stop()


@pytest.mark.parametrize("name", BIG)
def test_few_bytes_for_all_the_pixels_that_are_allowed(name):
    """The data set agrees with what the codestream announces, and the rest is missing."""
    syntax, stream = BIG[name]
    rows, columns = (60_000, 1000) if "2000" in name or "HT" in name else (30_000, 2000)
    data = dataset(
        encapsulated([_announcing(stream, rows, columns)]), syntax, BitsAllocated=8, Rows=rows, Columns=columns
    )
    (found,) = decode(data)
    # That packets of a tile are missing OpenJPEG does not always tell.
    assert found.reason in CUT if isinstance(found, Refused) else "HT" in name and found.shape == (rows, columns)


def test_jpeg_2000_of_countless_tiles():
    stream = bytearray(_j2k(GREY8))
    struct.pack_into(">II", stream, 24, 1, 1)
    assert alone(dataset(encapsulated([bytes(stream)]), uid.JPEG2000, BitsAllocated=8)).reason in CUT
    struct.pack_into(">II", stream, 8, 4000, 4000)
    found = alone(dataset(encapsulated([bytes(stream)]), uid.JPEG2000, BitsAllocated=8, Rows=4000, Columns=4000))
    assert found.reason is Reason.DAMAGED


@pytest.mark.parametrize("missing", ["last", "first", "all"])
def test_jpeg_2000_without_some_of_its_tiles(missing):
    """Where there is no tile OpenJPEG gives zeros."""
    stream = _htj2k(GREY8, tile=(16, 16))
    assert same(one(dataset(encapsulated([stream]), uid.HTJ2K, BitsAllocated=8)), GREY8)
    starts = [at for at in range(len(stream)) if stream.startswith(b"\xff\x90\0\x0a", at)]
    assert len(starts) == 9
    gap = {"last": slice(starts[-1], -2), "first": slice(starts[0], starts[1]), "all": slice(starts[0], -2)}[missing]
    cut = stream[: gap.start] + stream[gap.stop :]
    assert alone(dataset(encapsulated([cut]), uid.HTJ2K, BitsAllocated=8)).reason is Reason.TRUNCATED


RLE_WRONG = {
    "no table": lambda stream: stream[:40],
    "more segments": lambda stream: struct.pack("<I", 3) + stream[4:],
    "no segments": lambda stream: struct.pack("<I", 0) + stream[4:],
    "offset before the first": lambda stream: stream[:8] + struct.pack("<I", 3) + stream[12:],
    "offset beyond the end": lambda stream: stream[:8] + struct.pack("<I", 1 << 31) + stream[12:],
    "first segment elsewhere": lambda stream: stream[:4] + struct.pack("<I", 66) + stream[8:],
    "cut": lambda stream: stream[:-60],
    "empty": lambda stream: b"",
}


@pytest.mark.parametrize("name", RLE_WRONG)
def test_rle_that_is_none(name):
    assert alone(dataset(encapsulated([RLE_WRONG[name](rle(GREY16))]), uid.RLELossless)).reason in CUT


def test_rle_words_are_unpacked_as_others_are():
    words = GREY12 | 0xF000
    assert same(one(dataset(encapsulated([rle(words)]), uid.RLELossless, BitsStored=12)), GREY12)
    tame = RGB // 2 + 64
    tags = COLOUR | {"PhotometricInterpretation": "YBR_FULL"}
    found = one(dataset(encapsulated([rle(_ybr(tame))]), uid.RLELossless, **tags))
    assert np.abs(found.astype(int) - tame).max() <= 2


# Fragments and frames


FRAMES = [GREY16 ^ number for number in range(4)]
STREAMS = {"JPEG lossless": _lossless, "JPEG-LS": imagecodecs.jpegls_encode, "JPEG 2000": _j2k}


def _in_frames(pixels: bytes, name: str = "JPEG-LS", count: int = 4, **tags: object) -> pydicom.Dataset:
    return dataset(pixels, LOSSLESS[name][0], NumberOfFrames=count, **tags)


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("table", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"", b"\xfe\xff\xdd\xe0\0\0\0\0"], ids=["", "delimiter"])
def test_frames_in_fragments(name, table, parts, end):
    pixels = encapsulated([STREAMS[name](frame) for frame in FRAMES], table=table, parts=parts) + end
    assert all(map(same, decode(_in_frames(pixels, name)), FRAMES))


@pytest.mark.parametrize("parts", [1, 5])
def test_one_frame_in_fragments(parts):
    pixels = encapsulated([_j2k(GREY16)], parts=parts)
    assert same(one(_in_frames(pixels, count=1)), GREY16)
    data = _in_frames(pixels, count=1)
    del data.NumberOfFrames
    assert same(one(data), GREY16)


def _extended(frames: list[bytes], *, shift: int = 0) -> dict[str, bytes]:
    offsets = np.cumsum([0, *(len(item(frame)) for frame in frames)])[:-1] + shift
    return {
        "ExtendedOffsetTable": offsets.astype("<u8").tobytes(),
        "ExtendedOffsetTableLengths": np.array([len(frame) for frame in frames], "<u8").tobytes(),
    }


@pytest.mark.parametrize("shift", [0, 8])
def test_an_extended_table_right_or_wrong(shift):
    streams = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]
    data = _in_frames(encapsulated(streams), **_extended(streams, shift=shift))
    assert all(map(same, decode(data), FRAMES))


@pytest.mark.parametrize(
    "offsets",
    [[0, 0, 0, 0], [0, 8, 16, 24], [4, 8, 12, 16], [0, 1 << 31, 5, 6], [0, 10], [0] * 9, [9, 8, 7, 6]],
    ids=str,
)
@pytest.mark.parametrize("parts", [1, 3])
def test_a_table_that_is_wrong_does_no_harm(offsets, parts):
    streams = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]
    pixels = item(struct.pack(f"<{len(offsets)}I", *offsets)) + encapsulated(streams, parts=parts)[8:]
    assert all(map(same, decode(_in_frames(pixels)), FRAMES))


@pytest.mark.parametrize("damaged", range(4))
@pytest.mark.parametrize("table", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize("name", [*STREAMS, "RLE"])
def test_a_damaged_frame_stands_beside_its_siblings(name, table, damaged):
    streams = [LOSSLESS[name][1](frame) for frame in FRAMES]
    streams[damaged] = b"\0" * 200
    found = decode(_in_frames(encapsulated(streams, table=table), name))
    assert [isinstance(frame, Refused) for frame in found] == [number == damaged for number in range(4)]
    assert all(same(found[number], FRAMES[number]) for number in range(4) if number != damaged)


@pytest.mark.parametrize("table", [False, True], ids=["no table", "table"])
def test_frames_behind_a_broken_fragment_are_found_by_the_table(table):
    streams = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]
    pixels = bytearray(encapsulated(streams, table=table))
    second = len(item(b"")) + 16 * table + len(item(streams[0]))
    struct.pack_into("<I", pixels, second + 4, len(streams[1]) // 2)
    found = decode(_in_frames(bytes(pixels)))
    assert [isinstance(frame, Refused) for frame in found] == (
        [False, True, False, False] if table else [False, True, True, True]
    )
    assert all(same(frame, FRAMES[number]) for number, frame in enumerate(found) if isinstance(frame, np.ndarray))


def test_frames_that_are_not_there_are_truncated():
    for name in ("JPEG-LS", "RLE"):
        streams = [LOSSLESS[name][1](frame) for frame in FRAMES[:2]]
        found = decode(_in_frames(encapsulated(streams), name))
        assert all(map(same, found[:2], FRAMES))
        assert [frame.reason for frame in found[2:]] == [Reason.TRUNCATED] * 2


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ["JPEG-LS", "RLE"])
def test_frames_beyond_those_announced_are_told(name, parts):
    if (name, parts) == ("RLE", 3):
        pytest.skip("a frame is one fragment")
    streams = [LOSSLESS[name][1](frame) for frame in FRAMES]
    for count in (1, 2):
        found = decode(_in_frames(encapsulated(streams, parts=parts), name, count))
        assert all(map(same, found[:count], FRAMES))
        assert "4 frames are there" in found[count].detail
        assert len(found) == count + 1


def test_fragments_that_nothing_assigns_to_frames_are_refused_whole():
    streams = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]
    streams[2] = b"\0\0" + streams[2]
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert refused(_in_frames(encapsulated(streams, parts=3) + end)).reason is Reason.DAMAGED


@pytest.mark.parametrize("pixels", [b"\0" * 99, GREY16.tobytes(), b"\xfe\xff", item(b"")[:6]], ids=len)
def test_what_is_not_in_fragments(pixels):
    assert refused(_in_frames(pixels)).reason in CUT


def test_a_stream_of_nothing_but_empty_fragments_is_no_memory():
    start = time.monotonic()
    tracemalloc.start()
    with pytest.raises(Refused):
        decode(_in_frames(item(b"") * 3_000_000))
    assert tracemalloc.get_traced_memory()[1] < 500_000_000
    tracemalloc.stop()
    assert time.monotonic() - start < 30


def test_frames_are_decoded_one_by_one():
    """A caller that stops early, or is slow, never waits for or holds others."""
    stream = imagecodecs.jpegls_encode(GREY16)
    data = _in_frames(encapsulated([stream] * 1000), count=1000)
    tracemalloc.start()
    assert sum(frame.nbytes for frame in islice(decompress.frames(data, CONFIG), 200)) == 200 * GREY16.nbytes
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


# Syntaxes without a decoder


@pytest.mark.parametrize(
    "name",
    ["MPEG2 Main Profile", "MPEG-4 AVC", "HEVC/H.265", "JPIP Referenced", "JPEG 2000 Part 2", "JPEG Spectral", "SMPTE"],
)
def test_a_syntax_without_a_decoder_is_named(name):
    syntaxes = [code for code, entry in uid.UID_dictionary.items() if entry[0].startswith(name)]
    assert syntaxes
    for syntax in syntaxes:
        found = refused(dataset(encapsulated([b"\0" * 99]), syntax))
        assert found.reason is Reason.TRANSFER_SYNTAX
        assert uid.UID(syntax).name in found.detail


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.3.4", "", "Doe^John", uid.MRImageStorage])
def test_a_syntax_that_is_not_known_is_not_quoted(syntax):
    data = dataset(GREY16.tobytes())
    unchecked = uid.UID(syntax, validation_mode=pydicom.config.IGNORE)
    data.file_meta.add(pydicom.DataElement(0x00020010, "UI", unchecked, already_converted=True))
    found = refused(data)
    assert found.reason is Reason.TRANSFER_SYNTAX
    assert not syntax or syntax not in found.detail


def test_without_the_package_its_syntaxes_name_it_and_others_work(monkeypatch):
    monkeypatch.setattr(compressed, "PACKAGE", "no_such_package")
    for name in LOSSLESS:
        if name == "in fragments":
            continue
        found = refused(dataset(encapsulated([b""]), LOSSLESS[name][0]))
        assert found.reason is Reason.TRANSFER_SYNTAX
        assert "no_such_package" in found.detail
        assert LOSSLESS[name][0].name in found.detail
    assert same(one(dataset(GREY16.tobytes())), GREY16)
    stream = BIG["JPEG"][1]
    assert one(dataset(encapsulated([stream]), uid.JPEGBaseline8Bit, BitsAllocated=8)).shape == GREY8.shape


def test_a_frame_that_takes_too_long_stands_beside_its_siblings():
    slow = np.random.default_rng(5).integers(0, 1 << 16, (2000, 2000), np.uint16)
    fast = np.zeros_like(slow)
    tags = {"Rows": 2000, "Columns": 2000, "NumberOfFrames": 2}
    data = dataset(encapsulated([_j2k(slow), imagecodecs.jpegls_encode(fast)]), uid.JPEG2000, **tags)
    found = decode(data, DecodeConfig(timeout_s=0.4))
    assert isinstance(found[0], Refused)
    assert found[0].reason is Reason.TIMEOUT
    assert same(found[1], fast)


def test_a_decoder_that_crashes_costs_its_frame(monkeypatch):
    real, seen = isolated.call, []

    def crashing(function, *args, timeout_s):
        seen.append(function)
        return real(os.abort, timeout_s=timeout_s) if len(seen) == 2 else real(function, *args, timeout_s=timeout_s)

    monkeypatch.setattr(isolated, "call", crashing)
    found = decode(_in_frames(encapsulated([imagecodecs.jpegls_encode(frame) for frame in FRAMES])))
    assert [isinstance(frame, Refused) for frame in found] == [False, True, False, False]
    assert found[1].reason is Reason.CRASHED
