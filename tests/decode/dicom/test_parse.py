"""Which transfer syntax a file is in, when it says so, when it does not, and when it says the wrong thing."""

import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import uid

from mri_ray.decode.dicom.recognise import recognise
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Slice

PIXELS = (np.add.outer(np.arange(24) * 31, np.arange(20) * 7) + 5).astype(np.uint16)
PLAIN = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
NATIVE = [*PLAIN, uid.DeflatedExplicitVRLittleEndian]


def with_sequences(dicom) -> pydicom.Dataset:
    """An image with what data sets hold before their pixels: sequences of both kinds, private elements, text."""
    inner = pydicom.Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    inner.PurposeOfReferenceCodeSequence = [pydicom.Dataset()]
    dataset = dicom.image(PIXELS, PatientName="Sample^One", PatientID="id-1", RescaleSlope=2, RescaleIntercept=-7)
    dataset.ReferencedImageSequence = [inner, inner]
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.RequestAttributesSequence = [inner]
    block = dataset.private_block(0x0029, "MAKER", create=True)
    block.add_new(0x10, "OB", bytes(range(256)) * 9)
    block.add_new(0x11, "SQ", [inner])
    return dataset


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("preamble", [True, False])
def test_a_file_in_each_syntax_with_and_without_preamble(dicom, syntax, preamble):
    data = dicom.written(with_sequences(dicom), syntax, preamble=preamble)
    assert recognise(data[:512])
    found = dicom.slice(data)
    assert np.array_equal(found.pixels, PIXELS * np.float32(2) - 7)
    assert found.header.patient == "id-1"


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
def test_a_file_without_meta_header(dicom, syntax):
    data = dicom.written(with_sequences(dicom), syntax, meta=False)
    assert data[:2] in (b"\x08\0", b"\0\x08")
    assert recognise(data[:512])
    assert np.array_equal(dicom.slice(data).pixels, PIXELS * np.float32(2) - 7)


def meta_without(data: bytes, *lost: int) -> bytes:
    """A written file whose meta header lacks some elements; the length of the group is corrected if it stays."""
    kept, position = b"", 132
    while data[position : position + 2] == b"\x02\0":
        number = struct.unpack_from("<H", data, position + 2)[0]
        long = data[position + 4 : position + 6] == b"OB"
        size = (
            12 + struct.unpack_from("<I", data, position + 8)[0]
            if long
            else 8 + struct.unpack_from("<H", data, position + 6)[0]
        )
        if number and number not in lost:
            kept += data[position : position + size]
        position += size
    head = b"" if 0 in lost else b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(kept))
    return data[:132] + head + kept + data[position:]


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("lost", [(0,), (0x10,), (0, 0x10), (1, 2, 3, 0x12, 0x13)], ids=str)
@pytest.mark.parametrize("preamble", [True, False])
def test_a_meta_header_with_gaps(dicom, syntax, lost, preamble):
    data = meta_without(dicom.written(with_sequences(dicom), syntax), *lost)[0 if preamble else 132 :]
    assert recognise(data[:512])
    assert np.array_equal(dicom.slice(data).pixels, PIXELS * np.float32(2) - 7)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("length", [0, 7, 2**31])
def test_a_wrong_length_of_the_meta_header(dicom, syntax, length):
    data = dicom.written(with_sequences(dicom), syntax)
    wrong = data[:140] + struct.pack("<I", length) + data[144:]
    assert np.array_equal(dicom.slice(wrong).pixels, PIXELS * np.float32(2) - 7)


@pytest.mark.parametrize(("told", "true"), list(itertools.permutations(PLAIN, 2)), ids=lambda syntax: syntax.name)
def test_a_meta_header_that_names_another_syntax_than_the_content_has(dicom, told, true):
    body = dicom.written(with_sequences(dicom), true, meta=False)
    assert np.array_equal(dicom.slice(dicom.with_meta(body, told)).pixels, PIXELS * np.float32(2) - 7)


def test_pixels_decompressed_behind_a_header_that_still_says_compressed(dicom):
    body = dicom.written(with_sequences(dicom), uid.ExplicitVRLittleEndian, meta=False)
    assert np.array_equal(dicom.slice(dicom.with_meta(body, uid.JPEG2000Lossless)).pixels, PIXELS * np.float32(2) - 7)


@pytest.mark.parametrize("name", ["RLE", "J2KR", "JLSL", "JPLL"])
@pytest.mark.parametrize("told", [None, uid.ExplicitVRLittleEndian])
def test_compressed_pixels_behind_a_header_that_does_not_say_so(dicom, real, name, told):
    """The codestream itself tells what it is."""
    dataset = pydicom.dcmread(real / f"compression/MR1_{name}")
    dataset.pop("DataSetTrailingPadding", None)
    plain = dicom.slice((real / f"compression/MR1_{name}").read_bytes())
    dataset["PixelData"].is_undefined_length = True
    data = dicom.written(dataset, dataset.file_meta.TransferSyntaxUID)
    body = meta_without(data, *range(0x20))[132:]
    data = body if told is None else dicom.with_meta(body, told)
    assert np.array_equal(dicom.slice(data).pixels, plain.pixels)


def test_compressed_pixels_that_nothing_tells_apart(dicom):
    data = dicom.encapsulated(dicom.image(PIXELS), [b"no codestream of any kind"], uid.JPEG2000Lossless)
    assert dicom.failure(meta_without(data, 0x10)).reason is Reason.UNCERTAIN_SYNTAX


def test_content_that_fits_no_syntax_is_uncertain(dicom):
    data = bytes(128) + b"DICM" + b"\x08\0\x05\0" + b"neither of the three, whatever it may be" * 9
    assert dicom.failure(data).reason is Reason.UNCERTAIN_SYNTAX


def test_a_transfer_syntax_that_is_not_the_standards_is_named_by_no_number(dicom):
    body = dicom.written(with_sequences(dicom), meta=False)
    failure = dicom.failure(dicom.with_meta(body, "1.2.840.113619.5.99"))
    assert failure.reason is Reason.TRANSFER_SYNTAX
    assert "113619" not in failure.detail
    other = dicom.written(dicom.image(PIXELS, Modality="CT", SOPClassUID=uid.CTImageStorage), meta=False)
    assert dicom.failure(dicom.with_meta(other, "1.2.840.113619.5.99")).reason is Reason.SKIPPED_MODALITY


CUT = [(syntax, meta) for syntax in NATIVE for meta in (True, False) if meta or syntax in PLAIN]


@pytest.mark.parametrize(("syntax", "meta"), CUT)
def test_a_file_cut_anywhere_gives_the_same_pixels_or_a_reason(dicom, syntax, meta):
    data = dicom.written(with_sequences(dicom), syntax, meta=meta)
    expected = PIXELS * np.float32(2) - 7
    for size in range(1, len(data) - 1):
        (item,) = dicom.decoded(data[:size])
        if isinstance(item, Slice):
            assert np.array_equal(item.pixels, expected)
            continue
        # Cut between two elements, what is there is whole: an image without pixels, or too little of anything.
        boundary = {Reason.NO_PIXELS, Reason.DAMAGED_HEADER, Reason.UNCERTAIN_SYNTAX}
        assert item.reason in {Reason.TRUNCATED, *boundary}
    assert item.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    "name", ["edge/MR_small.dcm", "edge/MR_small_RLE.dcm", "enhanced/emri_small_jpeg_ls_lossless.dcm"]
)
def test_a_real_file_cut_at_every_64th_byte(dicom, real, name):
    data = (real / name).read_bytes()
    whole = dicom.decoded(data)
    for size in range(64, len(data), 64):
        for item in dicom.decoded(data[:size]):
            if isinstance(item, Slice):
                assert np.array_equal(item.pixels, whole[item.frame].pixels)
            else:
                assert isinstance(item, Failure)


@pytest.mark.parametrize("rest", [b"", b"\x08", b"\x08\0\x05\0"])
def test_a_file_that_ends_with_its_meta_header_is_truncated(dicom, rest):
    assert dicom.failure(dicom.with_meta(rest)).reason is Reason.TRUNCATED
    assert dicom.failure(dicom.with_meta(rest)[:150]).reason is Reason.TRUNCATED


def deflated(data: bytes, *, wbits: int = -15) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


def test_a_deflated_data_set_with_the_header_of_zlib(dicom):
    body = dicom.written(with_sequences(dicom), meta=False)
    for wbits in (-15, 15):
        data = dicom.with_meta(deflated(body, wbits=wbits), uid.DeflatedExplicitVRLittleEndian)
        assert np.array_equal(dicom.slice(data).pixels, PIXELS * np.float32(2) - 7)


def test_a_data_set_that_is_said_to_be_deflated_and_is_not(dicom):
    body = dicom.written(with_sequences(dicom), meta=False)
    data = dicom.with_meta(body, uid.DeflatedExplicitVRLittleEndian)
    assert np.array_equal(dicom.slice(data).pixels, PIXELS * np.float32(2) - 7)


def test_a_deflated_data_set_inflates_to_no_more_than_allowed(dicom):
    bomb = dicom.with_meta(deflated(bytes(100_000_000)), uid.DeflatedExplicitVRLittleEndian)
    tracemalloc.start()
    failure = dicom.failure(bomb, DecodeConfig(max_bytes=1_000_000))
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()
    assert failure.reason is Reason.TOO_MANY_BYTES


def test_a_damaged_deflated_data_set(dicom):
    data = bytearray(dicom.written(with_sequences(dicom), uid.DeflatedExplicitVRLittleEndian))
    data[-300:] = bytes(300)
    reasons = {
        dicom.failure(bytes(data)).reason,
        dicom.failure(dicom.with_meta(b"\xff" * 99, uid.DeflatedExplicitVRLittleEndian)).reason,
    }
    assert reasons <= {Reason.DAMAGED_HEADER, Reason.TRUNCATED}


def test_an_empty_data_set_is_truncated_not_empty(real, dicom):
    failure = dicom.failure((real / "enhanced/emri_small_jpeg_2k_lossless_too_short.dcm").read_bytes())
    assert failure.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x08\0",
        b"path,label\n1.png,tumor\n" * 50,
        bytes(4096),
        b"\x08\0\x05\0" + bytes(508),
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100",  # one element is too little
        b"\x02\0\x01\0" + b"text that begins like a meta header" * 9,
        b"\0\x08" * 256,
    ],
    ids=repr,
)
def test_other_content_is_not_taken_for_dicom(head):
    assert not recognise(head)


def test_noise_behind_the_first_tag_is_not_taken_for_dicom():
    rng = np.random.default_rng(0)
    starts = (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0UI", b"\0\x08\0\x05CS", b"\x02\0\0\0", b"\x02\0\x10\0UI")
    assert not any(recognise(start + rng.bytes(512)) for start in starts for _ in range(2000))
