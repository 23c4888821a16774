"""Tags -> Header, of the object and of each frame. What is absent or cannot be read is None, never a guess.

Source: DICOM PS3.3, C.7.6.16.2 (the macros of enhanced images), C.8.3.1 and C.8.13 (MR).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.dicom.groups import Groups
from mri_ray.decode.dicom.plane import normal_of, position_of, spacing_of
from mri_ray.decode.dicom.sequence import sequence_of
from mri_ray.records import Header

_TEXTS = ("SeriesDescription", "ProtocolName", "StudyDescription", "PatientName", "PatientID", "BodyPartExamined")
_STRONGEST_T = 25.0
_GAUSS = (12_000.0, 120_000.0)  # 1.2 to 12 T; less, like 3000, may be gauss as well as millitesla

Texts = dict[str, str | None]
Find = Callable[[str], DataSet | None]


def texts_of(dataset: DataSet) -> Texts:
    """What people wrote about the picture, by keyword: to be searched for words, never to be repeated."""
    encodings = values.encodings_of(dataset)
    return {name: values.text(dataset, name, encodings) for name in _TEXTS}


def header_of(dataset: DataSet, sop_class: str | None, texts: Texts) -> Header:
    """What holds for all frames."""
    encodings = values.encodings_of(dataset)
    issuer, patient = values.text(dataset, "IssuerOfPatientID", encodings), texts["PatientID"]
    number = values.whole(dataset, "InstanceNumber")
    return Header(
        modality=values.code(dataset, "Modality"),
        sop_class=sop_class,
        # As HL7 joins an id to its authority: equal ids of two issuers are two patients.
        patient=f"{patient}^^^{issuer}" if patient and issuer else patient,
        patient_name=texts["PatientName"],
        study_uid=values.uid(dataset, "StudyInstanceUID"),
        series_uid=values.uid(dataset, "SeriesInstanceUID"),
        sop_uid=values.uid(dataset, "SOPInstanceUID"),
        instance_number=number if number is not None and -(2**31) <= number < 2**31 else None,
        position_mm=position_of(dataset),
        normal=normal_of(dataset),
        spacing_mm=spacing_of(dataset),
        acquired=_acquired(dataset),
        manufacturer=values.text(dataset, "Manufacturer", encodings),
        field_strength_t=_field_strength(dataset),
        sequence=_sequence(dataset, texts, lambda _: None),
        body_part=texts["BodyPartExamined"],
    )


def of_frame(header: Header, dataset: DataSet, texts: Texts, groups: Groups, frame: int) -> Header:
    """What holds for one frame of an enhanced image. Raises Refused for damaged groups."""
    if groups.shared is None and not groups.per_frame:
        return header

    def find(keyword: str) -> DataSet | None:
        return groups.find(frame, keyword)

    position, orientation = find("PlanePositionSequence"), find("PlaneOrientationSequence")
    measures, content = find("PixelMeasuresSequence"), find("FrameContentSequence")
    taken = values.day(content, "FrameAcquisitionDateTime") if content is not None else None
    return replace(
        header,
        position_mm=header.position_mm if position is None else position_of(position),
        normal=header.normal if orientation is None else normal_of(orientation),
        spacing_mm=header.spacing_mm if measures is None else spacing_of(measures),
        acquired=taken or header.acquired,
        sequence=_sequence(dataset, texts, find),
    )


def _acquired(dataset: DataSet) -> date | None:
    for keyword in ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate"):
        if (found := values.day(dataset, keyword)) is not None:
            return found
    return None


def _field_strength(dataset: DataSet) -> float | None:
    """In tesla; the known mistake of writing it in gauss is mended where it is certain."""
    found = values.number(dataset, "MagneticFieldStrength")
    if found is None or found <= 0:
        return None
    if found <= _STRONGEST_T:
        return found
    return found / 10_000 if _GAUSS[0] <= found <= _GAUSS[1] else None


def _sequence(dataset: DataSet, texts: Texts, find: Find) -> str | None:
    """From plain tags, and from the macros of enhanced images."""
    timing, echo = find("MRTimingAndRelatedParametersSequence"), find("MREchoSequence")
    modifier, kind = find("MRModifierSequence"), find("MRImageFrameTypeSequence")
    scanning = values.codes(dataset, "ScanningSequence")
    for keyword, told, name in (
        ("EchoPulseSequence", "SPIN", "SE"),
        ("EchoPulseSequence", "GRADIENT", "GR"),
        ("EchoPlanarPulseSequence", "YES", "EP"),
    ):
        if values.code(dataset, keyword) == told:
            scanning += (name,)
    if modifier is not None and values.code(modifier, "InversionRecovery") == "YES":
        scanning += ("IR",)
    agent = values.text(dataset, "ContrastBolusAgent", ("latin_1",))
    if agent is None and dataset.raw("ContrastBolusAgentSequence", 1):
        agent = "named by a code"
    return sequence_of(
        description=texts["SeriesDescription"],
        protocol=texts["ProtocolName"],
        agent=agent,
        contrast=(kind and values.code(kind, "AcquisitionContrast")) or values.code(dataset, "AcquisitionContrast"),
        scanning=scanning,
        echo_ms=values.number(echo or dataset, "EffectiveEchoTime" if echo else "EchoTime"),
        repetition_ms=values.number(timing or dataset, "RepetitionTime"),
        inversion_ms=values.number(modifier, "InversionTimes") if modifier else values.number(dataset, "InversionTime"),
    )
