"""What the tags say of a picture that its reader should know, as flags; none of them hides it.

DERIVED alone in Image Type is no sign of a map: it also stands on images that were only resampled, normalised or
anonymised. The flag needs the name of a map or projection beside it. A plane cut anew through a volume (MPR) shows the
anatomy as it is, and may be all that there is in its orientation: it is none.
"""

import re
from collections.abc import Iterator

from pydicom.uid import UID

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.decide import PARAMETRIC_MAP
from mri_ray.decode.dicom.elements import DataSet
from mri_ray.records import Flag

# Words of Image Type from the third value on: those that mean a map wherever they stand, those that do beside DERIVED.
_ALWAYS = "ADC EADC DADC CBF CBV RCBF RCBV MTT TTP TMAX KTRANS MIP MINIP MAXIP PROJECTION SUBTRACTION"
_BESIDE = "FA RA MD RD AD VR EXP TENSOR COLFA PBP CURVED SUB DIFFERENCE COLLAPSE ZMAP TMAP FIELDMAP"
_MAPS = frozenset(_ALWAYS.split())
_MAPS_IF_DERIVED = _MAPS | frozenset(_BESIDE.split())
_MAPS_DESCRIBED = _MAPS | {"FA", "SUB", "FIELDMAP"}  # words of the description of a derived series
_MAP_PAIRS = re.compile(
    r"(?<![A-Z0-9])(?:[TR][12]\*?|[TR]2 ?STAR|PD|B[01]|FIELD|PHASE|PARAMETRIC|PERFUSION|DIFFUSION) ?MAP(?![A-Z])"
)
_CALCULATED = {"MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER", "CURVED_MPR", "MEAN_IP"}
_CALCULATED_CONTRAST = {"ADDITION", "DIVISION", "MASKED", "MAXIMUM", "MEAN", "MEDIAN", "MINIMUM", "MTT", "NONLINEAR"}
_CALCULATED_CONTRAST |= {"QUANTITY", "RCBF", "RCBV", "STD_DEVIATION", "SUBTRACTION", "T_TEST", "TTP", "Z_SCORE"}
_SCOUT = re.compile(
    r"(?<![a-z])(?:(?:locali[sz]|lokali[sz]|locali[sz]ad)(?:er|eur|or|atore)s?|loc|(?:aah?)?scouts?|survey|plan scan"
    r"|planscan|3 ?plane|tri ?pilot|pilot)(?![a-z])"
)
_PHANTOM = re.compile(r"phantom|(?<![a-z0-9])(?:qa|qc|acr|daily ?qa|quality (?:assurance|control))(?![a-z0-9])")
_LOSSY = {  # syntaxes: always, or perhaps
    "1.2.840.10008.1.2.4.50": True,
    "1.2.840.10008.1.2.4.51": True,
    "1.2.840.10008.1.2.4.81": True,
    "1.2.840.10008.1.2.4.91": False,
    "1.2.840.10008.1.2.4.93": False,
    "1.2.840.10008.1.2.4.203": False,
}
_PLAIN_CHARACTERS = re.compile(r"[\s_\-.,;:()/\\^]+")


def of_object(dataset: DataSet, sop_class: str | None, syntax: UID, texts: dict[str, str | None]) -> frozenset[Flag]:
    """Flags that hold for all frames. texts: by keyword, of the descriptions and names."""
    found = set(_of_image_type(values.codes(dataset, "ImageType"), texts.get("SeriesDescription")))
    described = [_plain(texts.get(name)) for name in ("SeriesDescription", "ProtocolName")]
    if any(_SCOUT.search(text) for text in described):
        found.add(Flag.LOCALIZER)
    named = [_plain(text) for text in texts.values()]
    if any(_PHANTOM.search(text) for text in named):
        found.add(Flag.PHANTOM)
    if (sop_class is not None and "Secondary Capture" in sop_class) or values.code(dataset, "ConversionType"):
        found.add(Flag.SECONDARY)
    if values.code(dataset, "BurnedInAnnotation") == "YES":
        found.add(Flag.BURNED_IN)
    if sop_class == PARAMETRIC_MAP or values.code(dataset, "VolumeBasedCalculationTechnique") in _CALCULATED:
        found.add(Flag.DERIVED)
    if _is_lossy(values.code(dataset, "LossyImageCompression"), syntax):
        found.add(Flag.LOSSY)
    return frozenset(found)


def of_frame_type(item: DataSet | None) -> frozenset[Flag]:
    """Flags that one frame of an enhanced image has by its item of the MR Image Frame Type Sequence."""
    if item is None:
        return frozenset()
    found = set(_of_image_type(values.codes(item, "FrameType")))
    if values.code(item, "VolumeBasedCalculationTechnique") in _CALCULATED:
        found.add(Flag.DERIVED)
    return frozenset(found)


def _of_image_type(image_type: tuple[str, ...], description: str | None = None) -> Iterator[Flag]:
    """Flags from the values of Image Type or of Frame Type."""
    words = {word for value in image_type for word in re.split(r"[^A-Z0-9*]+", value)}
    if "LOCALIZER" in words:
        yield Flag.LOCALIZER
    derived = image_type[:1] == ("DERIVED",)
    later = {word for value in image_type[2:] for word in re.split(r"[^A-Z0-9*]+", value)}
    named = bool(later & (_MAPS_IF_DERIVED if derived else _MAPS))
    named = named or any(_MAP_PAIRS.search(_plain(value).upper()) for value in image_type[2:])
    named = named or (len(image_type) > 3 and image_type[3] in _CALCULATED_CONTRAST)
    if derived and not named:
        told = _plain(description).upper()
        named = bool(set(told.split()) & _MAPS_DESCRIBED) or _MAP_PAIRS.search(told) is not None
    if named:
        yield Flag.DERIVED


def _plain(text: str | None) -> str:
    return _PLAIN_CHARACTERS.sub(" ", text.lower()).strip() if text else ""


def _is_lossy(told: str | None, syntax: UID) -> bool:
    """Once with loss, always: the tag tells; else the syntax, if it cannot be without."""
    if told == "01":
        return True
    certain = _LOSSY.get(str(syntax))
    return certain is True or (certain is False and told != "00")  # perhaps, and nothing denies it
