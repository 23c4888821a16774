"""Makers of what is valid and no MR image: each object must be skipped, with its class or modality named."""

from collections.abc import Callable
from functools import partial

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hospital.context import Context, Item
from hospital.dicom import EIGHT, base, encode, set_pixels
from hospital.planted import PRIVATE_STEM, uid
from hospital.slices import within
from mri_ray.errors import Reason

Tags = dict[str, object]
_IMAGES: dict[str, tuple[str, str, Tags]] = {  # SOP class, modality
    "ct": (uids.CTImageStorage, "CT", {"RescaleIntercept": "-1024", "RescaleSlope": "1", "KVP": "120"}),
    "ultrasound": (uids.UltrasoundImageStorage, "US", {"ImageType": ["ORIGINAL", "PRIMARY"]}),
    "photograph": (uids.SecondaryCaptureImageStorage, "OT", {"ConversionType": "DI"}),
    "segmentation": (uids.SegmentationStorage, "SEG", {"ImageType": ["DERIVED", "PRIMARY"], "NumberOfFrames": 1}),
    "dose": (uids.RTDoseStorage, "RTDOSE", {"DoseUnits": "GY", "DoseGridScaling": "0.01"}),
}
_OTHERS: dict[str, tuple[str, str]] = {
    "report": (uids.BasicTextSRStorage, "SR"),
    "structures": (uids.RTStructureSetStorage, "RTSTRUCT"),
    "plan": (uids.RTPlanStorage, "RTPLAN"),
    "pdf": (uids.EncapsulatedPDFStorage, "DOC"),
    "ecg": (uids.TwelveLeadECGWaveformStorage, "ECG"),
    "presentation": (uids.GrayscaleSoftcopyPresentationStateStorage, "PR"),
    "spectroscopy": (uids.MRSpectroscopyStorage, "MR"),
    "raw": (uids.RawDataStorage, "MR"),
}


def image(context: Context, kind: str) -> Item:
    """An image of another modality, its pixels noise."""
    sop_class, modality, tags = _IMAGES[kind]
    ds, series_folder = _dataset(context, sop_class, modality)
    set_pixels(ds, context.rng.integers(0, 256, (96, 80), dtype=np.uint8), EIGHT, "explicit")
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return _item(context, ds, series_folder, kind, Reason.SKIPPED_MODALITY)


def no_image(context: Context, kind: str) -> Item:
    """An object without an image, its content the least that its class is about."""
    sop_class, modality = _OTHERS[kind]
    ds, folder = _dataset(context, sop_class, modality)
    _CONTENT.get(kind, lambda ds: None)(ds)
    return _item(context, ds, folder, kind, Reason.SKIPPED_NO_IMAGE)


def directory(context: Context) -> Item:
    """A DICOMDIR of one patient."""
    ds, folder = _dataset(context, uids.MediaStorageDirectoryStorage, "")
    whole, record = Dataset(), Dataset()
    record.OffsetOfTheNextDirectoryRecord = record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.RecordInUseFlag, record.DirectoryRecordType = 0xFFFF, "PATIENT"
    record.SpecificCharacterSet = ds.SpecificCharacterSet
    record.PatientName, record.PatientID = ds.PatientName, ds.PatientID
    whole.SOPClassUID, whole.SOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    whole.FileSetID = PRIVATE_STEM
    whole.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    whole.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    whole.FileSetConsistencyFlag = 0
    whole.DirectoryRecordSequence = Sequence([record])
    data = encode(whole, "explicit")
    item = Item(key="DICOMDIR", data=data, kind="stray/directory", reason=Reason.SKIPPED_DIRECTORY)
    return within(f"{folder}/{context.name()}", [item])[0]


def _dataset(context: Context, sop_class: str, modality: str) -> tuple[Dataset, str]:
    """What an object of a known patient says before its content, and its folder."""
    known = list(context.supply.given.values())
    picture = known[int(context.rng.integers(len(known)))] if known else context.supply.single()
    series = context.series(picture)
    del context.series_made[series.uid]
    ds = base(series, uid(context.name()), 1)
    ds.SOPClassUID, ds.Modality = sop_class, modality
    for keyword in ("ImageType", "MagneticFieldStrength", "RepetitionTime", "EchoTime", "InversionTime"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds, context.folder(series)


def _item(context: Context, ds: Dataset, folder: str, kind: str, reason: Reason) -> Item:
    item = Item(key=context.name(), data=encode(ds, "explicit"), kind=f"stray/{kind}", reason=reason)
    return within(folder, [item])[0]


def _report(ds: Dataset) -> None:
    name, text = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121070", "DCM", "Findings"
    text.RelationshipType, text.ValueType = "CONTAINS", "TEXT"
    text.ConceptNameCodeSequence = Sequence([name])
    text.TextValue = ds.PatientComments
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ContentSequence = Sequence([text])


def _structures(ds: Dataset) -> None:
    region = Dataset()
    region.ROINumber, region.ROIName = 1, "TUMOR"
    ds.StructureSetLabel = PRIVATE_STEM
    ds.StructureSetROISequence = Sequence([region])


def _pdf(ds: Dataset) -> None:
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    text = f"%PDF-1.4\n% {PRIVATE_STEM}{ds.PatientID}\n%%EOF\n".encode()
    ds.EncapsulatedDocument = text + b"\n" * (len(text) % 2)


def _ecg(ds: Dataset) -> None:
    group = Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = 1, 64
    group.SamplingFrequency, group.WaveformOriginality = "500", "ORIGINAL"
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.WaveformData = np.arange(64, dtype="<i2").tobytes()
    group["WaveformData"].VR = "OW"
    ds.WaveformSequence = Sequence([group])


def _presentation(ds: Dataset) -> None:
    ds.ContentLabel, ds.ContentDescription = "STATE", ds.PatientID
    ds.PresentationLUTShape = "IDENTITY"


def _spectroscopy(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 1
    ds.DataPointColumns, ds.DataPointRows = 128, 1
    ds.SpectroscopyData = np.arange(256, dtype="<f4").tobytes()
    ds["SpectroscopyData"].VR = "OF"


_CONTENT: dict[str, Callable[[Dataset], None]] = {
    "report": _report,
    "structures": _structures,
    "pdf": _pdf,
    "ecg": _ecg,
    "presentation": _presentation,
    "spectroscopy": _spectroscopy,
}
STRAYS: tuple[Callable[[Context], Item], ...] = (
    partial(image, kind="ct"),
    partial(no_image, kind="report"),
    directory,
    *(partial(no_image, kind=kind) for kind in _OTHERS if kind != "report"),
    *(partial(image, kind=kind) for kind in _IMAGES if kind != "ct"),
)
