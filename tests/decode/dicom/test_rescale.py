"""Stored values -> pixels: every step as a formula, over random values and over what real headers get wrong."""

import struct

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid

from mri_ray.decode.read import read
from mri_ray.errors import Reason
from mri_ray.records import Flag

NATIVE = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]
GREY = (np.add.outer(np.arange(24) * 6, np.arange(20) * 4) + 9).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 16 + 3
COLOUR = np.stack([GREY, GREY // 3, 255 - GREY], axis=-1)


def sequence(**keywords: object) -> list[pydicom.Dataset]:
    item = pydicom.Dataset()
    for keyword, value in keywords.items():
        setattr(item, keyword, value)
    return [item]


def raw(dataset: pydicom.Dataset, keyword: str, vr: str, value: bytes | int) -> None:
    """An attribute as bytes stand in the file, past pydicom's own ideas of it."""
    dataset.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), vr, value))


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Stored values and their bits, in 8, 16 or 32 allocated, signed or not."""
    allocated = draw(st.sampled_from([8, 16, 32]))
    signed = draw(st.booleans())
    bits = draw(st.integers(2, allocated))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    rows, columns = draw(st.integers(16, 19)), draw(st.integers(16, 19))
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(low, high, (rows, columns), endpoint=True)
    return values.astype(f"{'i' if signed else 'u'}{allocated // 8}"), bits


@settings(max_examples=120, deadline=None)
@given(
    image=images(),
    syntax=st.sampled_from(NATIVE),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    scale=st.one_of(
        st.none(), st.tuples(st.sampled_from([1, 2, -1, 0.25, 3.774114]), st.sampled_from([0, -1024, 0.5]))
    ),
)
def test_pixels_equal_the_formula(dicom, image, syntax, photometric, scale):
    values, bits = image
    slope, intercept = scale or (1, 0)
    extra = {} if scale is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    dataset = dicom.image(values, BitsStored=bits, PhotometricInterpretation=photometric, **extra)
    found = dicom.slice(dicom.written(dataset, syntax))
    expected = values.astype(np.float64) * slope + intercept
    if photometric == "MONOCHROME1":
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if values.dtype.kind == "i" else (0, (1 << bits) - 1)
        expected = (low * slope + intercept) + (high * slope + intercept) - expected
    assert np.array_equal(found.pixels, expected.astype(np.float32))
    assert found.bits == (16 if bits == 8 and (slope, intercept) != (1, 0) else bits)
    assert found.flags == frozenset()


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_monochrome1_copy_gives_the_same_pixels(dicom, bits):
    values = GREY if bits == 8 else DEEP & ((1 << bits) - 1)
    plain = dicom.slice(dicom.written(dicom.image(values, BitsStored=bits)))
    turned = dicom.image((1 << bits) - 1 - values, BitsStored=bits, PhotometricInterpretation="MONOCHROME1")
    copy = dicom.slice(dicom.written(turned))
    assert np.array_equal(copy.pixels, plain.pixels)
    assert copy.bits == plain.bits == bits


def test_monochrome1_is_turned_after_the_modality_with_a_table_too(dicom):
    table = (np.arange(256) ** 2 // 20).astype("<u2")
    lut = {"LUTDescriptor": [256, 0, 16], "LUTData": table.tobytes()}
    plain = dicom.image(GREY, ModalityLUTSequence=sequence(**lut))
    turned = dicom.image(GREY, ModalityLUTSequence=sequence(**lut), PhotometricInterpretation="MONOCHROME1")
    up, down = (dicom.slice(dicom.written(dataset)).pixels for dataset in (plain, turned))
    assert np.array_equal(up, table[GREY])
    assert np.array_equal(down, table.max() - table[GREY].astype(np.float32))


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(("dtype", "first"), [(np.uint16, 40), (np.int16, -20)])
def test_a_modality_table_holds_its_ends_beyond_them(dicom, syntax, dtype, first):
    values = (GREY.astype(np.int32) - (60 if dtype is np.int16 else 0)).astype(dtype)
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    entries = np.arange(1000, 1100)
    item = pydicom.Dataset()
    raw(item, "LUTDescriptor", "SS" if first < 0 else "US", [100, first, 16])
    item.LUTData = entries.astype(order + "u2").tobytes()
    item["LUTData"].VR = "OW"
    dataset = dicom.image(values, ModalityLUTSequence=[item], RescaleSlope=5)
    found = dicom.slice(dicom.written(dataset, syntax))
    assert np.array_equal(found.pixels, entries[np.clip(values.astype(int) - first, 0, 99)])


@pytest.mark.parametrize(
    "lut",
    [
        {"LUTDescriptor": [256, 0, 16], "LUTData": bytes(100)},
        {"LUTDescriptor": [256, 0, 16]},
        {"LUTDescriptor": [256, 0], "LUTData": bytes(512)},
        {"LUTExplanation": "nothing else"},
    ],
)
def test_a_damaged_table_is_a_reason(dicom, lut):
    dataset = dicom.image(GREY, ModalityLUTSequence=sequence(**lut))
    assert dicom.failure(dicom.written(dataset)).reason is Reason.DAMAGED_HEADER


def test_padding_is_masked_before_the_rescale(dicom):
    values = DEEP.astype(np.int16)
    values[:5] = -2000
    dataset = dicom.image(values, PixelPaddingValue=-2000, RescaleSlope=2, RescaleIntercept=100)
    found = dicom.slice(dicom.written(dataset))
    assert found.flags == {Flag.MASKED}
    assert np.array_equal(found.pixels[5:], values[5:] * np.float32(2) + 100)
    assert (found.pixels[:5] == found.pixels[5:].min()).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("slope", [1, -3])
def test_padding_becomes_the_darkest_value_whichever_way_up(dicom, photometric, slope):
    values = DEEP.copy()
    values[:, 3] = 65535
    dataset = dicom.image(values, PixelPaddingValue=65535, PhotometricInterpretation=photometric, RescaleSlope=slope)
    dataset.RescaleIntercept = 0
    found = dicom.slice(dicom.written(dataset))
    rest = np.delete(found.pixels, 3, axis=1)
    assert (found.pixels[:, 3] == rest.min()).all()
    assert rest.min() < rest.max()


@pytest.mark.parametrize(("value", "limit"), [(0, 99), (99, 0), (50, 50), (30, 70)])
def test_padding_may_be_a_range(dicom, value, limit):
    dataset = dicom.image(DEEP, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    found = dicom.slice(dicom.written(dataset))
    low, high = sorted((value, limit))
    hidden = np.isin(DEEP, np.arange(low, high + 1))
    assert np.array_equal(found.pixels[~hidden], DEEP[~hidden])
    assert (Flag.MASKED in found.flags) == hidden.any()
    assert (found.pixels[hidden] == DEEP[~hidden].min()).all()


@pytest.mark.parametrize("signed", [True, False])
def test_padding_written_with_the_wrong_sign(dicom, signed):
    values = DEEP.astype(np.int16 if signed else np.uint16)
    values[0] = -2000 if signed else 63536
    dataset = dicom.image(values)
    raw(dataset, "PixelPaddingValue", "US" if signed else "SS", 63536 if signed else -2000)
    found = dicom.slice(dicom.written(dataset))
    assert Flag.MASKED in found.flags
    assert np.array_equal(found.pixels[1:], values[1:])


def test_nothing_but_padding_is_blank(dicom):
    found = dicom.slice(dicom.written(dicom.image(np.full_like(DEEP, 7), PixelPaddingValue=7)))
    assert found.flags == {Flag.BLANK, Flag.MASKED}
    assert not found.pixels.any()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_pixels_are_blank(dicom, value):
    assert dicom.slice(dicom.written(dicom.image(np.full_like(DEEP, value)))).flags == {Flag.BLANK}


def scaled(dicom, slope: bytes, intercept: bytes = b"0 ") -> bytes:
    """A file whose rescale stands there as it is given."""
    body = dicom.written(dicom.image(DEEP), meta=False)
    split = body.index(b"\xe0\x7f\x10\0")
    extra = dicom.element(0x00281052, "DS", intercept) + dicom.element(0x00281053, "DS", slope)
    return dicom.with_meta(body[:split] + extra + body[split:])


@pytest.mark.parametrize("slope", [b"0 ", b"0.0 ", b"inf ", b"nan ", b"1,5 ", b"1e999 ", b"one ", b"1 2 ", b"\xff\xfe"])
def test_a_slope_that_says_nothing_is_a_reason(dicom, slope):
    assert dicom.failure(scaled(dicom, slope)).reason is Reason.DAMAGED_HEADER


@pytest.mark.parametrize("slope", [b"", b"  ", b"\0\0", b"1 ", b"+1.0"])
def test_an_empty_slope_is_none(dicom, slope):
    assert np.array_equal(dicom.slice(scaled(dicom, slope)).pixels, DEEP)


def test_values_that_overflow_are_masked_and_all_of_them_are_a_reason(dicom):
    found = dicom.slice(scaled(dicom, b"1e36", b"-3.2e38 "))
    assert found.flags == {Flag.MASKED}
    assert np.isfinite(found.pixels).all()
    assert dicom.failure(scaled(dicom, b"1e300 ")).reason is Reason.DAMAGED_HEADER


def floats(dicom, values: np.ndarray, **keywords: object) -> bytes:
    kind = "Float" if values.dtype == np.float32 else "DoubleFloat"
    unused = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation"))
    dataset = dicom.image(values, **unused, SOPClassUID="1.2.840.10008.5.1.4.1.1.30", **keywords)
    raw(dataset, f"{kind}PixelData", "OF" if kind == "Float" else "OD", values.tobytes())
    return dicom.written(dataset)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_stored_as_floats(dicom, dtype):
    values = np.linspace(-3, 900, 480).reshape(24, 20).astype(dtype)
    found = dicom.slice(floats(dicom, values))
    assert np.array_equal(found.pixels, values.astype(np.float32))
    assert found.bits == values.itemsize * 8
    assert found.flags == {Flag.DERIVED}  # a parametric map
    turned = dicom.slice(floats(dicom, values, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(turned.pixels, (values.astype(np.float64).min() + values.max() - values).astype(np.float32))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_floats_that_are_no_numbers_are_masked(dicom, photometric):
    values = np.linspace(1, 900, 480).reshape(24, 20).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = dicom.slice(floats(dicom, values, PhotometricInterpretation=photometric))
    assert Flag.MASKED in found.flags
    assert np.isfinite(found.pixels).all()
    assert (found.pixels[0, :3] == found.pixels.min()).all()


def test_padding_of_floats(dicom):
    values = np.linspace(1, 900, 480).reshape(24, 20).astype(np.float32)
    values[2:4] = -1e30
    found = dicom.slice(floats(dicom, values, FloatPixelPaddingValue=-1e30))
    assert Flag.MASKED in found.flags
    assert found.pixels.min() == 1


def png(picture: np.ndarray) -> tuple[np.ndarray, bool]:
    """What `raster` makes of the same RGB picture."""
    import io

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    (found,) = read(out, "uri")
    return found.pixels, Flag.COLOUR in found.flags


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("picture", [COLOUR, np.stack([GREY] * 3, axis=-1)], ids=["coloured", "grey"])
def test_rgb_becomes_grey_as_in_a_picture_file(dicom, planar, picture):
    stored = np.ascontiguousarray(np.moveaxis(picture, -1, 0)) if planar else picture
    dataset = dicom.image(picture, PlanarConfiguration=planar, PixelData=stored.tobytes())
    dataset["PixelData"].VR = "OB"
    found = dicom.slice(dicom.written(dataset))
    pixels, coloured = png(picture)
    assert np.array_equal(found.pixels, pixels)
    assert (Flag.COLOUR in found.flags) == coloured
    assert found.bits == 8


def test_deep_rgb_becomes_grey_of_the_same_depth(dicom):
    picture = COLOUR.astype(np.uint16) * 257
    found = dicom.slice(dicom.written(dicom.image(picture)))
    assert found.bits == 16
    assert np.abs(found.pixels / 257 - png(COLOUR)[0]).max() < 1
    assert Flag.COLOUR in found.flags


def palette(
    dicom, colours: np.ndarray, bits: int, *, first: int = 0, segmented: bytes | None = None
) -> pydicom.Dataset:
    """An image of indices with the palette uint8 (entries, 3), in entries of 8 or 16 bits."""
    dataset = dicom.image(GREY, PhotometricInterpretation="PALETTE COLOR")
    for channel, name in enumerate(("Red", "Green", "Blue")):
        entries = colours[:, channel]
        data = (entries.astype("<u2") * 257).tobytes() if bits == 16 else entries.tobytes()
        raw(dataset, f"{name}PaletteColorLookupTableDescriptor", "US", [len(entries) % 65536, first, bits])
        keyword = f"{name}PaletteColorLookupTableData"
        raw(
            dataset,
            keyword if segmented is None else f"Segmented{keyword}",
            "OW",
            data if segmented is None else segmented,
        )
    return dataset


PALETTE = np.stack([np.arange(256), 255 - np.arange(256), (np.arange(256) * 7) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 30])
def test_a_palette_becomes_grey_as_in_a_picture_file(dicom, bits, first):
    found = dicom.slice(dicom.written(palette(dicom, PALETTE, bits, first=first)))
    picture = PALETTE[np.clip(GREY.astype(int) - first, 0, 255)]
    pixels, coloured = png(picture)
    assert np.array_equal(found.pixels, pixels)
    assert coloured
    assert Flag.COLOUR in found.flags
    assert found.bits == 8


def test_a_palette_of_greys_is_no_colour(dicom):
    greys = np.repeat(np.arange(256, dtype=np.uint8)[::-1, None], 3, axis=1)
    found = dicom.slice(dicom.written(palette(dicom, greys, 8)))
    assert np.array_equal(found.pixels, 255 - GREY)
    assert found.flags == frozenset()


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (words(0, 2, 0, 0, 1, 254, 254 * 257), [0, *range(255)]),  # a list, then a line
        # A list of 2 and a line to 128 entries, then both again.
        (words(0, 2, 0, 257, 1, 126, 127 * 257, 2, 2, 0, 0), [*range(128)] * 2),
    ],
)
def test_a_segmented_palette(dicom, segments, expected):
    found = dicom.slice(dicom.written(palette(dicom, PALETTE, 16, segmented=segments)))
    assert np.array_equal(found.pixels, np.array(expected)[GREY])


@pytest.mark.parametrize(
    "segments",
    [
        b"",
        words(0, 2, 0, 0),  # too short
        words(1, 255, 9),  # a line from nowhere
        words(0, 0) * 99,  # empty segments
        words(3, 1, 1) * 99,
        words(0, 1, 5, 2, 65535, 6, 0),  # copies the copy
        words(0, 1, 5) + words(2, 65535, 0, 1) * 9,  # copies from beyond the end
        words(0, 60000, 5),
    ],
)
def test_a_damaged_segmented_palette_is_a_reason(dicom, segments):
    failure = dicom.failure(dicom.written(palette(dicom, PALETTE, 16, segmented=segments)))
    assert failure.reason is Reason.DAMAGED_HEADER


def test_a_palette_image_without_palette_is_a_reason(dicom):
    dataset = dicom.image(GREY, PhotometricInterpretation="PALETTE COLOR")
    assert dicom.failure(dicom.written(dataset)).reason is Reason.DAMAGED_HEADER


def test_the_window_of_a_viewer_is_not_applied(dicom):
    dataset = dicom.image(DEEP, WindowCenter=100, WindowWidth=20)
    assert np.array_equal(dicom.slice(dicom.written(dataset)).pixels, DEEP)


def test_bits_beside_the_values_are_cut_off(dicom):
    """Overlays once lay in the bits that the values do not need."""
    values = DEEP | 0xF000
    assert np.array_equal(dicom.slice(dicom.written(dicom.image(values, BitsStored=12))).pixels, DEEP & 0xFFF)
    high = dicom.image((DEEP & 0xFFF) << 4, BitsStored=12, HighBit=15)
    assert np.array_equal(dicom.slice(dicom.written(high)).pixels, DEEP & 0xFFF)
