"""What an object is: an MR image, or the reason why it is none to be read here.

A class made for MR images outweighs whatever stands as modality. Of secondary captures, parametric maps and classes
that are not the standard's the modality decides. Nothing of the object's own text is repeated: classes are named as in
the standard, modalities only where they are its defined terms.

Source: DICOM PS3.4, annex B.5 (classes), PS3.3, C.7.3.1.1.1 (modalities).
"""

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.elements import DataSet
from mri_ray.decode.dicom.parse import Parsed, uid_of
from mri_ray.decode.dicom.pixels import pixels_in
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

_DIRECTORY = "Media Storage Directory Storage"
_OF_MR = {
    "MR Image Storage",
    "Enhanced MR Image Storage",
    "Enhanced MR Color Image Storage",
    "Legacy Converted Enhanced MR Image Storage",
}
PARAMETRIC_MAP = "Parametric Map Storage"
_OF_ANY = "Secondary Capture"  # in the names of the family
_IMAGES = {  # images without the word in their names
    PARAMETRIC_MAP,
    "Enhanced US Volume Storage",
    "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
    "RT Dose Storage",
    "Segmentation Storage",
}
_NO_PICTURES = {"RT Dose Storage", "Segmentation Storage"}  # images by form, but of nothing that a scanner measured
_TERMS = """
AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DG DOC DX ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS MG
MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE
RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL
XC
"""  # of modalities, as the standard defines them
_MODALITIES = frozenset(_TERMS.split())


def sop_class(parsed: Parsed) -> str | None:
    """The name of the object's SOP class in the standard; None without one, or with one that is not of the standard."""
    found = values.uid(parsed.dataset, "SOPClassUID")
    if found is None and parsed.meta is not None:
        found = values.uid(parsed.meta, "MediaStorageSOPClassUID")
    if found is None or uid_of(found).type != "SOP Class":
        return None
    return uid_of(found).name or None


def decide(parsed: Parsed, name: str | None, config: DecodeConfig) -> None:
    """Returns for an MR image with pixels; raises Refused for anything else. name: of its SOP class."""
    dataset = parsed.dataset
    if name == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise Refused(Reason.SKIPPED_DIRECTORY, "DICOMDIR")
    modality = values.code(dataset, "Modality")
    pixels = pixels_in(dataset) is not None
    if not pixels and not _is_image(dataset, name):
        if name is None and modality is None:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: neither a SOP class nor a modality, and no pixels")
        raise Refused(Reason.SKIPPED_NO_IMAGE, _called(name, modality))
    if not _wanted(name, modality, config):
        if name is None and modality is None:
            raise Refused(Reason.DAMAGED_HEADER, "DICOM: pixels, but neither a SOP class nor a modality")
        raise Refused(Reason.SKIPPED_MODALITY, _called(name, modality))
    if not pixels:
        raise Refused(Reason.NO_PIXELS, f"{_called(name, modality)}, without pixel data")


def _is_image(dataset: DataSet, name: str | None) -> bool:
    """Whether an object without pixels should have some."""
    if name is not None:
        return "Image Storage" in name or name in _IMAGES
    return "Rows" in dataset and "Columns" in dataset


def _wanted(name: str | None, modality: str | None, config: DecodeConfig) -> bool:
    if name in _OF_MR and "MR" in config.modalities:
        return True
    if modality not in config.modalities or name in _NO_PICTURES:
        return False
    return modality != "MR" or name is None or name == PARAMETRIC_MAP or _OF_ANY in name


def _called(name: str | None, modality: str | None) -> str:
    """How an object is named to people: never by what could be made up."""
    term = modality if modality in _MODALITIES else None
    if name is None:
        return f"a SOP class that is not the standard's, modality {term or 'not told or not a defined term'}"
    return name if term is None else f"{name}, modality {term}"
