"""How the pixels of an image are stored, checked before one is decoded, and what the decoders are given of it.

Source: DICOM PS3.3, C.7.6.3 (image pixel), PS3.5, chapter 8.
"""

from dataclasses import dataclass, replace

import pydicom
from pydicom.dataelem import DataElement
from pydicom.uid import UID

import mri_ray.decode.dicom.values as values
from mri_ray.decode.dicom.elements import PIXELS, DataSet, Element, tag_of
from mri_ray.decode.limits import Refused, check_size
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_PARTIAL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
_FLOATS = {tag_of("FloatPixelData"): 32, tag_of("DoubleFloatPixelData"): 64}  # bits
_TAIL = 512  # bytes behind the last pixel that may fill up a block, if they are far less than a frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """The pixels as they are stored. bits: of those `allocated`, that hold a value, up to bit `high`.

    lacking: frames at the end that the file does not hold, since it ends too early.
    """

    element: Element
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    bits: int
    high: int
    signed: bool
    floats: bool
    lacking: int = 0

    @property
    def possible(self) -> tuple[int, int]:
        """The least and the greatest whole number that can be stored."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1


def pixels_in(dataset: DataSet) -> Element | None:
    """The element that holds the pixels."""
    return next((dataset.elements[tag] for tag in sorted(PIXELS, reverse=True) if tag in dataset), None)


def stored(dataset: DataSet, config: DecodeConfig) -> Stored:
    """How the pixels are stored, held against the limits and against the bytes that there are.

    Raises Refused: NO_PIXELS, DAMAGED_HEADER, TRUNCATED, UNSUPPORTED_MODE, or a limit's reason.
    """
    element = pixels_in(dataset)
    if element is None or (element.start == element.end and not dataset.cut):
        raise Refused(Reason.NO_PIXELS, "DICOM: an image without pixel data")
    found = _described(dataset, element)
    check_size(found.columns, found.rows, config)
    if found.frames > config.max_frames:
        raise Refused(Reason.TOO_MANY_FRAMES, f"DICOM: {found.frames} frames, at most {config.max_frames} are allowed")
    if element.undefined:
        if dataset.cut:
            raise Refused(Reason.TRUNCATED, "DICOM: it ends within its compressed pixels")
        return found
    return _measured(found)


def for_decoders(dataset: DataSet, found: Stored, syntax: UID) -> pydicom.Dataset:
    """What pydicom's decoders need, and nothing that it could warn of."""
    given = pydicom.Dataset()
    given.file_meta = pydicom.dataset.FileMetaDataset()
    given.file_meta.TransferSyntaxUID = syntax
    given.Rows, given.Columns = found.rows, found.columns
    given.NumberOfFrames = found.frames - found.lacking
    given.SamplesPerPixel = found.samples
    given.PhotometricInterpretation = found.photometric
    if found.samples > 1:
        given.PlanarConfiguration = found.planar
    given.BitsAllocated = found.allocated
    if not found.floats:
        given.BitsStored, given.HighBit = found.bits, found.high
        given.PixelRepresentation = int(found.signed)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if found.element.undefined and (table := dataset.raw(keyword)):
            given.add(DataElement(tag_of(keyword), "OV", table))
    # Of bytes in big-endian files the kind tells how they stand.
    kind = found.element.vr if found.element.vr in ("OB", "OW", "OF", "OD") else "OW"
    given.add(DataElement(found.element.tag, kind, dataset.data[found.element.start : found.element.end]))
    given[found.element.tag].is_undefined_length = found.element.undefined
    given.set_original_encoding(not dataset.syntax.explicit, dataset.syntax.order == "<", "latin_1")
    return given


def _described(dataset: DataSet, element: Element) -> Stored:
    photometric = values.code(dataset, "PhotometricInterpretation")
    if photometric is None:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: PhotometricInterpretation is absent")
    if photometric not in _SAMPLES:
        raise Refused(Reason.UNSUPPORTED_MODE, "DICOM: a photometric interpretation that is not known here")
    samples = _size(dataset, "SamplesPerPixel", absent=_SAMPLES[photometric])
    if samples != _SAMPLES[photometric]:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {samples} samples a pixel do not go with {photometric}")
    told = (dataset.raw("NumberOfFrames") or b"").strip(b" \0")
    frames = values.whole(dataset, "NumberOfFrames") if told else 1
    frames = 1 if frames == 0 else frames  # some write it so; the length of the pixels has to agree
    if frames is None or frames < 1:
        raise Refused(Reason.DAMAGED_HEADER, "DICOM: NumberOfFrames is no number above 0")
    allocated, bits, high = _depth(dataset, element)
    floats = element.tag in _FLOATS
    if floats and samples > 1:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {photometric} stored as floats: there is no such image")
    return Stored(
        element=element,
        rows=_size(dataset, "Rows"),
        columns=_size(dataset, "Columns"),
        frames=frames,
        samples=samples,
        photometric=photometric,
        planar=_size(dataset, "PlanarConfiguration", absent=0, most=1),
        allocated=allocated,
        bits=bits,
        high=high,
        signed=not floats and bool(_size(dataset, "PixelRepresentation", most=1)),
        floats=floats,
    )


def _depth(dataset: DataSet, element: Element) -> tuple[int, int, int]:
    """Bits that are allocated to a value, bits that it has, the highest of these."""
    if (floats := _FLOATS.get(element.tag)) is not None:
        if _size(dataset, "BitsAllocated", absent=floats) != floats:
            raise Refused(Reason.DAMAGED_HEADER, f"DICOM: floats that are not of {floats} bits")
        return floats, floats, floats - 1
    allocated = _size(dataset, "BitsAllocated")
    bits = _size(dataset, "BitsStored", absent=allocated)
    high = _size(dataset, "HighBit", absent=bits - 1)
    if element.undefined or not bits <= high + 1 <= allocated:
        high = bits - 1  # as it must be (PS3.5, 8.1.1); a wrong one is a common fault
    if not 1 <= bits <= allocated:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {bits} bits up to bit {high} in {allocated}")
    if allocated not in (1, 8, 16, 32, 64):
        raise Refused(Reason.UNSUPPORTED_MODE, f"DICOM: values of {allocated} bits")
    return allocated, bits, high


def _size(dataset: DataSet, keyword: str, *, absent: int | None = None, most: int = 0xFFFF) -> int:
    if not dataset.raw(keyword) and absent is not None:
        return absent
    found = values.whole(dataset, keyword)
    if found is None or not 0 <= found <= most:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {keyword} is {'absent' if found is None else 'out of range'}")
    return found


def _measured(found: Stored) -> Stored:
    """Native pixels held against their length, announced and there."""
    announced = found.element.following - found.element.start
    have = found.element.end - found.element.start
    a_frame = found.rows * found.columns * found.samples * found.allocated  # bits
    if found.photometric == "YBR_FULL_422" and announced < a_frame * found.frames // 8:
        a_frame = a_frame * 2 // 3  # two pixels share their colour, as they should by its name
    wanted = -(-a_frame * found.frames // 8)
    if announced < wanted and found.frames == 1:
        raise Refused(Reason.TRUNCATED, f"DICOM: {announced} bytes of pixels, {wanted} are described")
    filling = max(min(_TAIL, a_frame // 32), a_frame // 8 // found.rows)  # to a whole block, or one row
    if not 0 <= announced - wanted <= filling:
        raise Refused(Reason.DAMAGED_HEADER, f"DICOM: {announced} bytes of pixels, {wanted} are described")
    if have >= wanted:
        return found
    if not (whole := 8 * have // a_frame):
        raise Refused(Reason.TRUNCATED, f"DICOM: it ends after {have} bytes of {wanted} of its pixels")
    return replace(found, lacking=found.frames - whole)
