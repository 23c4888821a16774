"""Whole objects: several frames, damaged ones beside good ones, limits, and no identifiers in what is said."""

import tracemalloc

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from mri_ray.decode.dicom import whole
from mri_ray.decode.limits import SourceLost
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Slice

GREY = (np.add.outer(np.arange(24) * 6, np.arange(20) * 4) + 9).astype(np.uint16)
FRAMES = np.stack([GREY + 1000 * number for number in range(5)])
ENHANCED = uid.EnhancedMRImageStorage


def item(**keywords: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in keywords.items():
        setattr(dataset, keyword, value)
    return dataset


def rescaled(slope: float, intercept: float) -> pydicom.Dataset:
    transformation = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
    return item(PixelValueTransformationSequence=[transformation])


def test_frames_come_in_order(dicom):
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian):
        found = dicom.decoded(dicom.written(dicom.image(FRAMES), syntax))
        assert [slice_.frame for slice_ in found] == [0, 1, 2, 3, 4]
        assert np.array_equal(np.stack([slice_.pixels for slice_ in found]), FRAMES)


def test_each_frame_has_its_own_rescale(dicom):
    per_frame = [rescaled(1 + number, -number) for number in range(5)]
    dataset = dicom.image(
        FRAMES, SOPClassUID=ENHANCED, PerFrameFunctionalGroupsSequence=per_frame, RescaleSlope=99, RescaleIntercept=99
    )
    dataset.SharedFunctionalGroupsSequence = [rescaled(7, 7)]
    found = dicom.decoded(dicom.written(dataset))
    for number, slice_ in enumerate(found):
        assert np.array_equal(slice_.pixels, FRAMES[number] * np.float32(1 + number) - number)


def test_the_shared_rescale_holds_where_a_frame_has_none(dicom):
    per_frame = [rescaled(3, 1), *[item(FrameContentSequence=[item()]) for _ in range(4)]]
    dataset = dicom.image(FRAMES, SOPClassUID=ENHANCED, PerFrameFunctionalGroupsSequence=per_frame)
    dataset.SharedFunctionalGroupsSequence = [rescaled(2, 0)]
    found = dicom.decoded(dicom.written(dataset))
    assert np.array_equal(found[0].pixels, FRAMES[0] * np.float32(3) + 1)
    assert np.array_equal(found[4].pixels, FRAMES[4] * np.float32(2))


def test_black_for_white_per_frame(dicom):
    per_frame = [rescaled(1 + number, 5) for number in range(5)]
    dataset = dicom.image(
        FRAMES,
        SOPClassUID=ENHANCED,
        PerFrameFunctionalGroupsSequence=per_frame,
        PhotometricInterpretation="MONOCHROME1",
    )
    found = dicom.decoded(dicom.written(dataset))
    for number, slice_ in enumerate(found):
        assert np.array_equal(slice_.pixels, (65535 - FRAMES[number]) * np.float32(1 + number) + 5)


def test_a_frame_whose_rescale_cannot_be_read_is_a_failure_beside_the_others(dicom):
    per_frame = [rescaled(1, 0) for _ in range(5)]
    per_frame[3] = rescaled(0, 0)
    found = dicom.decoded(
        dicom.written(dicom.image(FRAMES, SOPClassUID=ENHANCED, PerFrameFunctionalGroupsSequence=per_frame))
    )
    assert [type(one) for one in found] == [Slice, Slice, Slice, Failure, Slice]
    assert (found[3].frame, found[3].reason) == (3, Reason.DAMAGED_HEADER)
    assert found[3].header.sop_uid == "1.2.3.4"


def test_flags_by_the_frame(dicom):
    kinds = [["ORIGINAL", "PRIMARY", "M", "NONE"], ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]] * 2
    per_frame = [item(MRImageFrameTypeSequence=[item(FrameType=kind)]) for kind in [*kinds, kinds[0]]]
    found = dicom.decoded(
        dicom.written(dicom.image(FRAMES, SOPClassUID=ENHANCED, PerFrameFunctionalGroupsSequence=per_frame))
    )
    assert [slice_.flags for slice_ in found] == [frozenset(), {Flag.DERIVED}] * 2 + [frozenset()]


def test_a_blank_frame_is_flagged_alone(dicom):
    frames = FRAMES.copy()
    frames[1] = 7
    found = dicom.decoded(dicom.written(dicom.image(frames)))
    assert [Flag.BLANK in slice_.flags for slice_ in found] == [False, True, False, False, False]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_one_damaged_frame_costs_no_other(dicom, real, damage):
    """Frames in JPEG-LS, each with its own fragment."""
    dataset = pydicom.dcmread(real / "enhanced/emri_small_jpeg_ls_lossless.dcm")
    expected = [slice_.pixels for slice_ in dicom.decoded((real / "enhanced/emri_small.dcm").read_bytes())]
    streams = [bytes(stream) for stream in pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=10)]
    streams[4] = {"cut": streams[4][:60], "noise": bytes(range(256)) * 4, "empty": b"\0\0"}[damage]
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    found = dicom.decoded(dicom.written(dataset, uid.JPEGLSLossless))
    assert len(found) == 10
    for number, one in enumerate(found):
        if number == 4:
            assert isinstance(one, Failure)
            assert one.frame == 4
            assert not one.reason.skips
        else:
            assert isinstance(one, Slice)
            assert np.array_equal(one.pixels, expected[number])


def test_frames_before_the_end_of_a_cut_file_are_read(dicom):
    data = dicom.written(dicom.image(FRAMES))
    size = GREY.nbytes
    for lost in (1, size - 1, size, size + 1, 3 * size + 7, 5 * size - 1):
        found = dicom.decoded(data[:-lost])
        whole_frames = 5 - -(-lost // size)
        if not whole_frames:
            assert [one.reason for one in found] == [Reason.TRUNCATED]
            continue
        assert len(found) == 5
        assert [slice_.frame for slice_ in found] == [0, 1, 2, 3, 4]
        for number, one in enumerate(found):
            if number < whole_frames:
                assert np.array_equal(one.pixels, FRAMES[number])
            else:
                assert one.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 17}, Reason.DAMAGED_HEADER),
        ({"Rows": 48}, Reason.TRUNCATED),
        ({"Columns": 21}, Reason.TRUNCATED),
        ({"NumberOfFrames": 2}, Reason.DAMAGED_HEADER),
        ({"NumberOfFrames": 0}, None),  # a common fault
        ({"NumberOfFrames": -1}, Reason.DAMAGED_HEADER),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, Reason.DAMAGED_HEADER),
        ({"BitsStored": 17}, Reason.DAMAGED_HEADER),
        ({"BitsStored": 0}, Reason.DAMAGED_HEADER),
        ({"HighBit": 3}, None),  # impossible, and common
        ({"HighBit": 16}, None),
        ({"BitsAllocated": 12}, Reason.DAMAGED_HEADER),
        ({"BitsAllocated": 24}, Reason.UNSUPPORTED_MODE),
        ({"SamplesPerPixel": 3}, Reason.DAMAGED_HEADER),
        ({"SamplesPerPixel": 2}, Reason.DAMAGED_HEADER),
        ({"PhotometricInterpretation": "CMYK"}, Reason.UNSUPPORTED_MODE),
        ({"PhotometricInterpretation": None}, Reason.DAMAGED_HEADER),
        ({"PixelRepresentation": None}, Reason.DAMAGED_HEADER),
        ({"PixelRepresentation": 2}, Reason.DAMAGED_HEADER),
        ({"Rows": None}, Reason.DAMAGED_HEADER),
        ({"Columns": 0}, Reason.DAMAGED),
        ({"BitsAllocated": None}, Reason.DAMAGED_HEADER),
        ({"SamplesPerPixel": None, "BitsStored": None, "HighBit": None}, None),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_the_pixels(dicom, change, reason):
    data = dicom.written(dicom.image(GREY, **({"HighBit": 15} | change)))
    if reason is None:
        assert np.array_equal(dicom.slice(data).pixels, GREY)
    else:
        assert dicom.failure(data).reason is reason


@pytest.mark.parametrize("extra", [1, 2, 40, 240])
def test_filling_behind_the_last_pixel_is_allowed(dicom, extra):
    data = GREY.tobytes() + bytes(extra + extra % 2)
    assert np.array_equal(dicom.slice(dicom.written(dicom.image(GREY, PixelData=data))).pixels, GREY)


def test_limits_are_checked_before_anything_is_decoded(dicom):
    data = dicom.written(dicom.image(FRAMES))
    assert dicom.failure(data, DecodeConfig(max_frames=4)).reason is Reason.TOO_MANY_FRAMES
    assert dicom.failure(data, DecodeConfig(max_pixels=24 * 20 - 1)).reason is Reason.TOO_MANY_PIXELS
    assert dicom.failure(data, DecodeConfig(min_side=21)).reason is Reason.TOO_SMALL
    assert len(dicom.decoded(data, DecodeConfig(max_frames=5, max_pixels=480, min_side=20))) == 5


def test_a_small_file_may_not_hold_hours_of_work(dicom):
    """Frames that are a few bytes each: the first ones are read, as far as the file's length allows."""
    frames = np.zeros((400, 60, 50), np.uint8)
    frames[:, 30] = 9
    data = dicom.written(dicom.image(frames), uid.DeflatedExplicitVRLittleEndian)
    found = dicom.decoded(data, DecodeConfig(max_pixels=60 * 50))
    read = 64 * len(data) // (60 * 50)
    assert 0 < read < 400
    assert len(found) == 400
    assert all(isinstance(one, Slice) for one in found[:read])
    assert {one.reason for one in found[read:]} == {Reason.TOO_MANY_PIXELS}
    assert [one.frame for one in found] == list(range(400))


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImageType", "PatientName", "SpecificCharacterSet"])
def test_values_without_end_take_no_memory(dicom, keyword):
    """A value of 40 MB where a few bytes are expected."""
    body = dicom.written(dicom.image(GREY), uid.ImplicitVRLittleEndian, meta=False)
    tag = pydicom.datadict.tag_for_keyword(keyword)
    long = dicom.element(tag, "", b"1\\" * 20_000_000)
    position = 0
    while (int.from_bytes(body[position : position + 2], "little") << 16) + body[position + 2] < tag:
        position += 8 + int.from_bytes(body[position + 4 : position + 8], "little")
    same = 8 + int.from_bytes(body[position + 4 : position + 8], "little") if keyword == "ImageType" else 0
    data = dicom.with_meta(body[:position] + long + body[position + same :], uid.ImplicitVRLittleEndian)
    tracemalloc.start()
    assert np.array_equal(dicom.slice(data).pixels, GREY)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


NAMES = ("Planted^Name", "PLANTED-ID", "1.2.3.99.77", "19500112", "Planted Street 1", "Planted comment")


def planted(dicom, **keywords: object) -> pydicom.Dataset:
    dataset = dicom.image(
        GREY,
        PatientName=NAMES[0],
        PatientID=NAMES[1],
        SOPInstanceUID=NAMES[2],
        StudyInstanceUID=NAMES[2],
        SeriesInstanceUID=NAMES[2],
        PatientBirthDate=NAMES[3],
        PatientAddress=NAMES[4],
        ImageComments=NAMES[5],
        SeriesDescription=NAMES[0],
        **keywords,
    )
    dataset.private_block(0x0029, NAMES[0], create=True).add_new(0x10, "LO", NAMES[1])
    return dataset


@pytest.mark.parametrize("meta", [True, False])
def test_no_identifier_is_said_whatever_is_wrong(dicom, meta):
    """Cut anywhere, each byte of the header damaged in turn, with texts where numbers and codes should be."""
    data = dicom.written(planted(dicom), meta=meta)
    size = len(data) - GREY.nbytes
    files = [data[:end] for end in range(0, len(data), 11)]
    files += [data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :] for at in range(132 if meta else 0, size)]
    for text in (NAMES[0], NAMES[1], NAMES[2]):
        for keyword in ("Modality", "PhotometricInterpretation", "NumberOfFrames", "Rows", "RescaleSlope", "ImageType"):
            dataset = planted(dicom)
            tag = pydicom.datadict.tag_for_keyword(keyword)
            dataset[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), "LO", len(text), text.encode(), 0, False, True
            )
            files.append(dicom.written(dataset))
    files.append(dicom.written(planted(dicom, SOPClassUID=NAMES[2], Modality="CT")))
    files.append(dicom.with_meta(dicom.written(planted(dicom), meta=False), NAMES[2]))
    failures = 0
    for file in files:
        for one in dicom.decoded(file):
            if isinstance(one, Failure):
                failures += 1
                assert not any(name.lower() in one.detail.lower() for name in NAMES)
    assert failures > 300


def test_what_nobody_foresees_is_a_failure_and_lost_storage_and_memory_pass(dicom, monkeypatch):
    data = dicom.written(dicom.image(GREY))

    def fails(error: Exception):
        def frames(*_: object):
            raise error
            yield

        return frames

    monkeypatch.setattr(whole, "frames", fails(RecursionError("Planted^Name")))
    failure = dicom.failure(data)
    assert (failure.reason, failure.detail) == (Reason.DAMAGED_HEADER, "DICOM: RecursionError")
    for error in (MemoryError(), SourceLost(OSError())):
        monkeypatch.setattr(whole, "frames", fails(error))
        with pytest.raises(type(error)):
            dicom.decoded(data)
