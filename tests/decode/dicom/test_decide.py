"""What an object is, what it is called, and what its tags say of it."""

import numpy as np
import pydicom
import pytest
from pydicom import uid

from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Flag, Slice

GREY = (np.add.outer(np.arange(24) * 6, np.arange(20) * 4) + 9).astype(np.uint8)
COLOUR = np.stack([GREY, GREY // 3, 255 - GREY], axis=-1)


def class_named(name: str) -> str:
    return next(number for number, entry in uid.UID_dictionary.items() if entry[0] == name)


def plain(sop_class: str | None, modality: str | None, **keywords: object) -> pydicom.Dataset:
    """An object without pixels."""
    dataset = pydicom.Dataset()
    if sop_class is not None:
        dataset.SOPClassUID = class_named(sop_class)
    if modality is not None:
        dataset.Modality = modality
    dataset.PatientID = "id-1"
    for keyword, value in keywords.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        ("MR Image Storage", "MR"),
        ("MR Image Storage", None),
        ("MR Image Storage", "OT"),
        ("Enhanced MR Image Storage", "MR"),
        ("Enhanced MR Color Image Storage", "MR"),
        ("Legacy Converted Enhanced MR Image Storage", "MR"),
        ("Secondary Capture Image Storage", "MR"),
        ("Multi-frame Grayscale Byte Secondary Capture Image Storage", "MR"),
        ("Multi-frame True Color Secondary Capture Image Storage", "MR"),
        ("Parametric Map Storage", "MR"),
        (None, "MR"),
        ("1.3.12.2.1107.5.9.1", "MR"),  # a private one
    ],
)
def test_images_of_mr_pass(dicom, sop_class, modality):
    number = sop_class if sop_class is None or sop_class[0].isdigit() else class_named(sop_class)
    found = dicom.slice(dicom.written(dicom.image(GREY, SOPClassUID=number, Modality=modality)))
    private = sop_class is None or sop_class[0].isdigit()
    assert found.header.sop_class == (None if private else sop_class)
    assert found.header.modality == modality


@pytest.mark.parametrize(
    ("sop_class", "modality", "said"),
    [
        ("CT Image Storage", "CT", "CT Image Storage, modality CT"),
        ("CT Image Storage", "MR", "CT Image Storage, modality MR"),
        ("Positron Emission Tomography Image Storage", "PT", "Positron Emission Tomography Image Storage, modality PT"),
        ("Ultrasound Image Storage", "US", "Ultrasound Image Storage, modality US"),
        ("Segmentation Storage", "SEG", "Segmentation Storage, modality SEG"),
        ("Segmentation Storage", "MR", "Segmentation Storage, modality MR"),
        ("RT Dose Storage", "RTDOSE", "RT Dose Storage, modality RTDOSE"),
        ("Secondary Capture Image Storage", "OT", "Secondary Capture Image Storage, modality OT"),
        ("Secondary Capture Image Storage", None, "Secondary Capture Image Storage"),
        ("Secondary Capture Image Storage", "DOE^JANE", "Secondary Capture Image Storage"),
        (None, "CT", "a SOP class that is not the standard's, modality CT"),
        (None, "DOE^JANE", "a SOP class that is not the standard's, modality not told or not a defined term"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_other_images_are_skipped_and_named(dicom, sop_class, modality, said):
    number = "1.2.826.0.1.1" if sop_class is None else class_named(sop_class)
    failure = dicom.failure(dicom.written(dicom.image(GREY, SOPClassUID=number, Modality=modality)))
    assert (failure.reason, failure.detail) == (Reason.SKIPPED_MODALITY, said)
    assert failure.header.sop_class == sop_class


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        ("Basic Text SR Storage", "SR"),
        ("Comprehensive 3D SR Storage", "SR"),
        ("Key Object Selection Document Storage", "KO"),
        ("Grayscale Softcopy Presentation State Storage", "PR"),
        ("Blending Softcopy Presentation State Storage", "PR"),
        ("RT Structure Set Storage", "RTSTRUCT"),
        ("RT Plan Storage", "RTPLAN"),
        ("RT Beams Treatment Record Storage", "RTRECORD"),
        ("Encapsulated PDF Storage", "DOC"),
        ("12-lead ECG Waveform Storage", "ECG"),
        ("Raw Data Storage", "MR"),
        ("MR Spectroscopy Storage", "MR"),
        ("Spatial Registration Storage", "REG"),
        ("Spatial Fiducials Storage", "FID"),
        ("Real World Value Mapping Storage", "RWV"),
        ("Surface Segmentation Storage", "SEG"),
        ("Tractography Results Storage", "MR"),
        ("Hanging Protocol Storage", None),
        ("Color Palette Storage", None),
    ],
)
def test_objects_that_hold_no_image_are_skipped_and_named(dicom, sop_class, modality):
    failure = dicom.failure(dicom.written(plain(sop_class, modality)))
    assert failure.reason is Reason.SKIPPED_NO_IMAGE
    assert failure.detail == (sop_class if modality is None else f"{sop_class}, modality {modality}")
    assert failure.header.patient == "id-1"


def test_a_private_class_without_pixels_holds_no_image(dicom):
    dataset = plain(None, "MR")
    dataset.SOPClassUID = "1.3.12.2.1107.5.9.1"  # what Siemens stores beside its images
    failure = dicom.failure(dicom.written(dataset))
    assert failure.reason is Reason.SKIPPED_NO_IMAGE
    assert "1107" not in failure.detail


@pytest.mark.parametrize("named", [True, False])
def test_a_directory_is_skipped(dicom, named):
    dataset = plain("Media Storage Directory Storage" if named else None, None, DirectoryRecordSequence=[])
    assert dicom.failure(dicom.written(dataset)).reason is Reason.SKIPPED_DIRECTORY


@pytest.mark.parametrize("sop_class", ["MR Image Storage", "Enhanced MR Image Storage", None])
def test_an_image_of_mr_without_pixels(dicom, sop_class):
    dataset = plain(sop_class, "MR", Rows=24, Columns=20)
    assert dicom.failure(dicom.written(dataset)).reason is Reason.NO_PIXELS
    dataset.PixelData = b""
    dataset["PixelData"].VR = "OW"
    assert dicom.failure(dicom.written(dataset)).reason is Reason.NO_PIXELS
    other = plain("CT Image Storage", "CT", Rows=24, Columns=20)
    assert dicom.failure(dicom.written(other)).reason is Reason.SKIPPED_MODALITY


def test_an_object_that_does_not_say_what_it_is(dicom):
    for dataset in (dicom.image(GREY, SOPClassUID=None, Modality=None), plain(None, None)):
        body = dicom.written(dataset, meta=False)
        assert dicom.failure(dicom.with_meta(body)).reason is Reason.DAMAGED_HEADER


def test_the_modalities_are_configurable(dicom):
    data = dicom.written(dicom.image(GREY, SOPClassUID=uid.CTImageStorage, Modality="CT"))
    assert isinstance(dicom.decoded(data, DecodeConfig(modalities=("CT",)))[0], Slice)
    mr = dicom.written(dicom.image(GREY))
    assert dicom.failure(mr, DecodeConfig(modalities=("CT",))).reason is Reason.SKIPPED_MODALITY


FLAGS = [
    ({}, set()),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {Flag.LOCALIZER}),
    ({"SeriesDescription": "3-plane loc"}, {Flag.LOCALIZER}),
    ({"SeriesDescription": "Survey_SHC"}, {Flag.LOCALIZER}),
    ({"ProtocolName": "SCOUT"}, {Flag.LOCALIZER}),
    ({"SeriesDescription": "localizer"}, {Flag.LOCALIZER}),
    ({"SeriesDescription": "block design"}, set()),
    ({"ImageType": ["DERIVED", "PRIMARY"]}, set()),  # resampled, normalised or anonymised
    ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, set()),
    ({"ImageType": ["DERIVED", "PRIMARY", "M", "NORM", "DIS2D"]}, set()),
    ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, {Flag.DERIVED}),
    ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA", "ND"]}, {Flag.DERIVED}),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]}, set()),
    ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE", "COLLAPSE"]}, {Flag.DERIVED}),
    ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR"]}, set()),  # anatomy, cut anew
    ({"ImageType": ["DERIVED", "PRIMARY", "T1 MAP"]}, {Flag.DERIVED}),
    ({"ImageType": ["DERIVED", "SECONDARY"], "SeriesDescription": "ADC (10^-6)"}, {Flag.DERIVED}),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "SeriesDescription": "dwi for adc"}, set()),
    ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "QUANTITY"]}, {Flag.DERIVED}),
    ({"ImageType": ["DERIVED", "PRIMARY", "M", "SUBTRACTION"]}, {Flag.DERIVED}),
    ({"VolumeBasedCalculationTechnique": "MAX_IP"}, {Flag.DERIVED}),
    ({"VolumeBasedCalculationTechnique": "NONE"}, set()),
    ({"SOPClassUID": class_named("Parametric Map Storage")}, {Flag.DERIVED}),
    ({"PatientName": "QA^Phantom"}, {Flag.PHANTOM}),
    ({"PatientID": "ACR phantom 7"}, {Flag.PHANTOM}),
    ({"BodyPartExamined": "PHANTOM"}, {Flag.PHANTOM}),
    ({"StudyDescription": "Daily QA"}, {Flag.PHANTOM}),
    ({"PatientName": "Qadir^Omar"}, set()),
    ({"SOPClassUID": class_named("Secondary Capture Image Storage")}, {Flag.SECONDARY}),
    ({"ConversionType": "WSD"}, {Flag.SECONDARY}),
    ({"BurnedInAnnotation": "YES"}, {Flag.BURNED_IN}),
    ({"BurnedInAnnotation": "NO"}, set()),
    ({"LossyImageCompression": "01"}, {Flag.LOSSY}),
    ({"LossyImageCompression": "00"}, set()),
]


@pytest.mark.parametrize(("keywords", "flags"), FLAGS, ids=str)
def test_flags_by_the_tags(dicom, keywords, flags):
    assert dicom.slice(dicom.written(dicom.image(GREY, **keywords))).flags == flags


def test_several_flags_at_once(dicom):
    dataset = dicom.image(
        COLOUR,
        SOPClassUID=class_named("Secondary Capture Image Storage"),
        BurnedInAnnotation="YES",
        LossyImageCompression="01",
        ImageType=["DERIVED", "SECONDARY", "LOCALIZER", "MIP"],
    )
    expected = {Flag.COLOUR, Flag.SECONDARY, Flag.BURNED_IN, Flag.LOSSY, Flag.LOCALIZER, Flag.DERIVED}
    assert dicom.slice(dicom.written(dataset)).flags == expected
