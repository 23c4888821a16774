"""Headers: what the tags say, and None wherever they say nothing that can be believed."""

from datetime import date

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_ray.decode.dicom.sequence import sequence_of
from mri_ray.records import Header

GREY = (np.add.outer(np.arange(24) * 6, np.arange(20) * 4) + 9).astype(np.uint8)
TAGS = {
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "PixelSpacing": 0x00280030,
    "MagneticFieldStrength": 0x00180087,
    "AcquisitionDate": 0x00080022,
    "SeriesDate": 0x00080021,
    "InstanceNumber": 0x00200013,
    "PatientName": 0x00100010,
    "SpecificCharacterSet": 0x00080005,
}


def item(**keywords: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in keywords.items():
        setattr(dataset, keyword, value)
    return dataset


def header(dicom, **keywords: object) -> Header:
    return dicom.slice(dicom.written(dicom.image(GREY, **keywords))).header


def header_of_bytes(dicom, vr: str, **values: bytes) -> Header:
    """The header of a file in which these values stand as they are given."""
    dataset = dicom.image(GREY)
    body = dicom.written(dataset, meta=False)
    elements = {TAGS[keyword]: dicom.element(TAGS[keyword], vr, value) for keyword, value in values.items()}
    parts, position = [], 0
    for tag in sorted(elements):  # before the first element of a greater tag
        end = position
        while (
            int.from_bytes(body[end : end + 2], "little") << 16 | int.from_bytes(body[end + 2 : end + 4], "little")
        ) < tag:
            long = body[end + 4 : end + 6] == b"OW"
            end += 12 if long else 8 + int.from_bytes(body[end + 6 : end + 8], "little")
        parts += [body[position:end], elements[tag]]
        position = end
    return dicom.slice(dicom.with_meta(b"".join(parts) + body[position:])).header


def test_an_empty_header_is_none_throughout(dicom):
    bare = dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "ImageType"))
    assert header(dicom, **bare) == Header(modality="MR", sop_class="MR Image Storage")


def test_all_that_a_header_can_tell(dicom):
    found = header(
        dicom,
        PatientID="id-1",
        PatientName="Doe^Jane",
        IssuerOfPatientID="Hospital A",
        InstanceNumber=17,
        ImagePositionPatient=[-10, 20.5, 30],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        PixelSpacing=[0.5, 0.75],
        AcquisitionDate="20240229",
        SeriesDate="20240301",
        Manufacturer="Maker",
        MagneticFieldStrength=1.5,
        BodyPartExamined="BRAIN",
        SeriesDescription="ax T2 FLAIR",
    )
    assert found == Header(
        modality="MR",
        sop_class="MR Image Storage",
        patient="id-1^^^Hospital A",
        patient_name="Doe^Jane",
        study_uid="1.2.3",
        series_uid="1.2.3.1",
        sop_uid="1.2.3.4",
        instance_number=17,
        position_mm=(-10, 20.5, 30),
        normal=(-1, 0, 0),
        spacing_mm=(0.5, 0.75),
        acquired=date(2024, 2, 29),
        manufacturer="Maker",
        field_strength_t=1.5,
        sequence="FLAIR",
        body_part="BRAIN",
    )


def test_equal_ids_of_two_issuers_are_two_patients(dicom):
    ids = [header(dicom, PatientID="1", IssuerOfPatientID=issuer).patient for issuer in ("A", "B", None)]
    assert len(set(ids)) == 3
    assert header(dicom, IssuerOfPatientID="A").patient is None


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", b"1\\2 "),
        ("ImagePositionPatient", b"1\\2\\x "),
        ("ImagePositionPatient", b"1\\2\\nan"),
        ("ImagePositionPatient", b"1\\2\\1e9 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\1 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\1\\0\\0 "),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 "),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\0.9\\0 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0.2\\.98\\0"),
        ("ImageOrientationPatient", b"2\\0\\0\\0\\2\\0 "),
        ("PixelSpacing", b"0.5 "),
        ("PixelSpacing", b"0\\0 "),
        ("PixelSpacing", b"-1\\1"),
        ("PixelSpacing", b"1\\inf "),
        ("PixelSpacing", b"1,5\\1,5 "),
        ("MagneticFieldStrength", b"high"),
        ("MagneticFieldStrength", b"0 "),
        ("MagneticFieldStrength", b"-1.5"),
        ("MagneticFieldStrength", b"3000"),  # gauss of an open scanner, or millitesla
        ("MagneticFieldStrength", b"1e30"),
        ("AcquisitionDate", b"20240230"),
        ("AcquisitionDate", b"2024 "),
        ("AcquisitionDate", b"yesterday "),
        ("AcquisitionDate", b"00000000"),
        ("InstanceNumber", b"1A"),
        ("InstanceNumber", b"1.5 "),
        ("InstanceNumber", b"99999999999 "),
        ("InstanceNumber", b"1\\2 "),
    ],
)
@pytest.mark.parametrize("vr", ["DS", "UN"])
def test_what_cannot_be_believed_is_none(dicom, keyword, value, vr):
    assert header_of_bytes(dicom, vr, **{keyword: value}) == header(dicom)


@pytest.mark.parametrize(
    ("keyword", "value", "field", "expected"),
    [
        ("MagneticFieldStrength", b"15000 ", "field_strength_t", 1.5),
        ("MagneticFieldStrength", b"30000 ", "field_strength_t", 3.0),
        ("MagneticFieldStrength", b" 0.35\0", "field_strength_t", 0.35),
        ("AcquisitionDate", b"1997.03.04", "acquired", date(1997, 3, 4)),
        ("SeriesDate", b"19970304", "acquired", date(1997, 3, 4)),
        ("InstanceNumber", b" 12 ", "instance_number", 12),
        ("InstanceNumber", b"12.0", "instance_number", 12),
        ("PixelSpacing", b"+1.0e0\\ 5E-1", "spacing_mm", (1, 0.5)),
        ("ImageOrientationPatient", b"0.9997\\0\\0\\0\\1.0\\0 ", "normal", (0, 0, 1)),
    ],
)
@pytest.mark.parametrize("vr", ["DS", "LO", "UN"])
def test_odd_ways_to_say_it(dicom, keyword, value, field, expected, vr):
    assert getattr(header_of_bytes(dicom, vr, **{keyword: value}), field) == expected


def test_numbers_in_a_binary_kind_of_value(dicom):
    found = header_of_bytes(dicom, "FD", PixelSpacing=np.array([0.5, 2], "<f8").tobytes())
    assert found.spacing_mm == (0.5, 2)
    assert header_of_bytes(dicom, "US", InstanceNumber=b"\x07\0").instance_number == 7
    assert header_of_bytes(dicom, "US", InstanceNumber=b"\x07\0\1").instance_number is None


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        (b"", b"Doe^Jane", "Doe^Jane"),
        (b"ISO_IR 100", "Äneas^Rüdiger ".encode("latin-1"), "Äneas^Rüdiger"),
        (b"ISO_IR 192", "Ж^Фу ".encode(), "Ж^Фу"),
        (b"ISO_IR 144", "Фу^Ж".encode("iso8859_5"), "Фу^Ж"),
        (b"GB18030 ", "王^小东=".encode("gb18030"), "王^小东="),
        (b"\\ISO 2022 IR 87 ", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7 ", "Hong^Gildong=洪^吉洞"),
        (b"ISO-IR 100", "Ä ".encode("latin-1"), "Ä"),
        (b"NO SUCH SET ", "Ä ".encode("latin-1"), "Ä"),
        (b"\xff\xfe\xfd ", b"Doe^Jane", "Doe^Jane"),
        (b"ISO_IR 192", b"\xff\xfe^Jane ", "\ufffd\ufffd^Jane"),
        (b"\\ISO 2022 IR 87 ", b"A\x1b$Z\x80\x81\x1b", "A$Z\x80\x81"),
    ],
)
def test_character_sets(dicom, charset, raw, name):
    found = header_of_bytes(dicom, "LO", SpecificCharacterSet=charset, PatientName=raw)
    assert found.patient_name == name


@given(charset=st.binary(max_size=24), raw=st.binary(min_size=1, max_size=40))
def test_any_bytes_are_some_text(dicom, charset, raw):
    even = [value + b" " * (len(value) % 2) for value in (charset, raw)]
    found = header_of_bytes(dicom, "LO", SpecificCharacterSet=even[0], PatientName=even[1])
    assert found.patient_name is None or isinstance(found.patient_name, str)


def enhanced(dicom, shared: pydicom.Dataset | None, per_frame: list[pydicom.Dataset], **keywords: object) -> list:
    frames = np.stack([np.roll(GREY, number, axis=0) for number in range(3)])
    dataset = dicom.image(frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", **keywords)
    if shared is not None:
        dataset.SharedFunctionalGroupsSequence = [shared]
    if per_frame:
        dataset.PerFrameFunctionalGroupsSequence = per_frame
    return dicom.decoded(dicom.written(dataset))


def test_each_frame_of_an_enhanced_image_has_its_own_header(dicom):
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.9, 0.8])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    per_frame = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 5 * number])],
            FrameContentSequence=[item(FrameAcquisitionDateTime=f"2020010{number + 1}120000")],
            MREchoSequence=[item(EffectiveEchoTime=20.0 if number == 0 else 90.0)],
            MRTimingAndRelatedParametersSequence=[item(RepetitionTime=3000)],
        )
        for number in range(3)
    ]
    per_frame[1].PlaneOrientationSequence = [item(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])]
    found = enhanced(dicom, shared, per_frame, EchoPulseSequence="SPIN")
    headers = [slice_.header for slice_ in found]
    assert [slice_.frame for slice_ in found] == [0, 1, 2]
    assert [header.position_mm for header in headers] == [(0, 0, 0), (0, 0, 5), (0, 0, 10)]
    assert [header.normal for header in headers] == [(0, 0, 1), (1, 0, 0), (0, 0, 1)]
    assert {header.spacing_mm for header in headers} == {(0.9, 0.8)}
    assert [header.acquired.day for header in headers] == [1, 2, 3]
    assert [header.sequence for header in headers] == ["PD", "T2", "T2"]


def test_a_frame_without_groups_among_others_with_is_a_failure(dicom):
    per_frame = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, number])]) for number in range(2)]
    first, second, third = enhanced(dicom, None, per_frame)
    assert (first.header.position_mm, second.header.position_mm) == ((0, 0, 0), (0, 0, 1))
    assert (third.frame, third.header.sop_uid) == (2, "1.2.3.4")


SAID = [
    ("t1_mprage_sag", None, "T1"),
    ("Ax T1 +C", None, "T1+C"),
    ("T1 post Gd", None, "T1+C"),
    ("sT1W_3D_TFE", None, "T1"),
    ("t1_tse_tra_KM", None, "T1+C"),
    ("AX T1CE", None, "T1+C"),
    ("T1 pre contrast", None, "T1"),
    ("T1 without contrast", None, "T1"),
    ("T1", "GADOVIST", "T1+C"),
    ("T1", "NONE", "T1"),
    ("T1 pre", "GADOVIST", None),  # one of them is left from another series
    ("T1 posterior fossa", None, "T1"),
    ("T2_TSE_TRA", None, "T2"),
    ("Ax T2 FLAIR", None, "FLAIR"),
    ("t2_tirm_tra_dark-fluid", None, "FLAIR"),
    ("T1 FLAIR", None, "T1"),
    ("FLAIR longTR", "GADOVIST", "FLAIR"),
    ("ep2d_diff_3scan_trace", None, "DWI"),
    ("DWI b1000", None, "DWI"),
    ("T2* GRE", None, "T2*"),
    ("SWI_Images", None, "T2*"),
    ("t2_star", None, "T2*"),
    ("PD_TSE", None, "PD"),
    ("T1 and T2 fused", None, None),
    ("PD/T2 dual echo", None, None),
    ("anat-T1w", None, "T1"),
    ("ax_asc_35sl", None, None),
    ("ST12 spine", None, None),
]


@pytest.mark.parametrize(("description", "agent", "expected"), SAID, ids=str)
def test_the_contrast_by_words(description, agent, expected):
    assert said(description=description, agent=agent) == expected
    assert said(protocol=description, agent=agent) == expected


def said(**told: object) -> str | None:
    nothing = {"description": None, "protocol": None, "agent": None, "contrast": None, "scanning": ()}
    times = {"echo_ms": None, "repetition_ms": None, "inversion_ms": None}
    return sequence_of(**(nothing | times | told))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scanning", "echo", "repetition", "inversion", "expected"),
    [
        (("SE",), 12, 500, None, "T1"),
        (("SE",), 100, 4000, None, "T2"),
        (("SE",), 20, 3000, None, "PD"),
        (("SE",), 55, 2500, None, None),
        (("SE",), 12, 1500, None, None),
        (("IR", "SE"), 120, 9000, 2500, "FLAIR"),
        (("IR", "SE"), 60, 5000, 150, None),  # fat suppressed
        (("IR", "GR"), 3, 2000, 900, "T1"),
        (("GR",), 5, 30, None, None),
        (("EP", "SE"), 90, 4000, None, None),
        ((), 12, 500, None, None),
        (("SE",), None, 500, None, None),
    ],
)
def test_the_contrast_by_times(scanning, echo, repetition, inversion, expected):
    assert said(scanning=scanning, echo_ms=echo, repetition_ms=repetition, inversion_ms=inversion) == expected


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [("FLUID_ATTENUATED", "FLAIR"), ("DIFFUSION", "DWI"), ("T2_STAR", "T2*"), ("UNKNOWN", None), ("T1", "T1")],
)
def test_the_contrast_by_its_own_tag(contrast, expected):
    assert said(contrast=contrast) == expected
    assert said(contrast=contrast, description="T2 tse") == "T2"
