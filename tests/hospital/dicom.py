"""Single MR slices as DICOM in any encoding, written with pydicom, full of identifiers."""

import io
from dataclasses import dataclass
from datetime import date

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence

from hospital import jpeg_lossless
from hospital.context import Series
from hospital.planted import ADDRESS_STEM, INSTITUTION, OPERATOR, PHONE, PHYSICIAN, SERIAL, STATION
from hospital.source import Picture
from hospital.truth import Frame
from mri_ray.records import Header

NATIVE = {
    "implicit": uids.ImplicitVRLittleEndian,
    "explicit": uids.ExplicitVRLittleEndian,
    "big-endian": uids.ExplicitVRBigEndian,
    "deflated": uids.DeflatedExplicitVRLittleEndian,
}
LOSSLESS = {
    "rle": uids.RLELossless,
    "jpeg-ls": uids.JPEGLSLossless,
    "jpeg-2000": uids.JPEG2000Lossless,
    "jpeg-lossless": uids.JPEGLosslessSV1,
    "jpeg-lossless-14": uids.JPEGLossless,
}
SYNTAXES = NATIVE | LOSSLESS
_CONTRASTS: dict[str | None, dict[str, object]] = {
    "T1": {"RepetitionTime": 500, "EchoTime": 12, "ScanningSequence": "SE", "SeriesDescription": "t1_se_tra"},
    "T1+C": {
        "RepetitionTime": 520,
        "EchoTime": 11,
        "ScanningSequence": "SE",
        "SeriesDescription": "t1_se_tra_km",
        "ContrastBolusAgent": "Gadobutrol",
    },
    "T2": {"RepetitionTime": 4800, "EchoTime": 102, "ScanningSequence": "SE", "SeriesDescription": "t2_tse_tra"},
    "FLAIR": {
        "RepetitionTime": 9000,
        "EchoTime": 110,
        "InversionTime": 2500,
        "ScanningSequence": ["SE", "IR"],
        "SeriesDescription": "t2_tirm_flair_tra",
    },
    "PD": {"RepetitionTime": 3200, "EchoTime": 14, "ScanningSequence": "SE", "SeriesDescription": "pd_tse_tra"},
    None: {},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """How 8-bit values v are stored: v * factor + offset in `bits` of BitsStored, undone by the rescale.

    factor is a power of 2 and offset a whole number, so that undoing is exact in float32.
    """

    bits: int = 8
    factor: int = 1
    offset: int = 0
    signed: bool = False

    def stored(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W) -> uint8, uint16 or int16 (H, W)."""
        if self.bits == 8:
            return pixels
        values = pixels.astype(np.int32) * self.factor + self.offset
        return values.astype(np.int16 if self.signed else np.uint16)

    @property
    def slope(self) -> str:
        return f"{1 / self.factor:g}"

    @property
    def intercept(self) -> str:
        return f"{-self.offset / self.factor:.10g}"


EIGHT = Depth()


def base(series: Series, instance: str, number: int) -> Dataset:
    """What every object of a series says but its pixels. instance: its SOP instance UID."""
    who = series.who
    ds = Dataset()
    ds.SpecificCharacterSet = who.charset
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID, ds.SOPInstanceUID = uids.MRImageStorage, instance
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = series.study_date
    ds.StudyTime = "101500"
    ds.AccessionNumber = who.accession
    ds.Modality, ds.Manufacturer = "MR", series.manufacturer
    ds.InstitutionName, ds.InstitutionAddress = INSTITUTION, f"{ADDRESS_STEM} 1, 99999 Schlumpfhausen"
    ds.ReferringPhysicianName, ds.OperatorsName = PHYSICIAN, OPERATOR
    ds.StationName, ds.DeviceSerialNumber = STATION, SERIAL
    ds.PatientName, ds.PatientID = who.name, who.patient_id
    ds.PatientBirthDate, ds.PatientSex = f"{who.born:%Y%m%d}", who.sex
    ds.PatientAddress, ds.PatientTelephoneNumbers, ds.PatientComments = who.address, PHONE, who.comment
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = f"{who.patient_id}-ALT", "TEXT"
    ds.OtherPatientIDsSequence = Sequence([other])
    ds.BodyPartExamined = "HEAD"
    ds.MagneticFieldStrength = f"{series.field_strength_t:g}"
    for keyword, value in _CONTRASTS[series.sequence].items():
        setattr(ds, keyword, value)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series.study_uid, series.uid
    ds.StudyID = who.accession
    ds.SeriesNumber, ds.InstanceNumber = series.number, number
    ds.FrameOfReferenceUID = f"{series.study_uid}.1"
    ds.ImageComments = who.comment
    private = ds.private_block(0x0009, "HOSPITAL RIS", create=True)
    private.add_new(0x01, "LO", who.private)
    private.add_new(0x02, "UN", who.comment.encode("utf-8") + b"\0" * (len(who.comment.encode("utf-8")) % 2))
    return ds


def place(ds: Dataset, series: Series, position: tuple[float, float, float]) -> None:
    """Where a single slice lies."""
    ds.SliceThickness = f"{series.gap_mm:g}"
    ds.SpacingBetweenSlices = f"{series.gap_mm:g}"
    ds.ImagePositionPatient = [f"{value:.10g}" for value in position]
    ds.ImageOrientationPatient = [f"{value:.10g}" for value in series.orientation]
    ds.PixelSpacing = [f"{value:.10g}" for value in series.spacing_mm]


def set_pixels(ds: Dataset, stored: np.ndarray, depth: Depth, syntax: str, *, inverted: bool = False) -> None:
    """Writes uint8 or 16-bit (H, W), or (N, H, W) for N frames, in an encoding of SYNTAXES."""
    frames = stored[None] if stored.ndim == 2 else stored
    if inverted:
        frames = (1 << depth.bits) - 1 - frames
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = frames.shape[1:]
    ds.BitsAllocated = 8 * frames.itemsize
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = depth.bits, depth.bits - 1, int(depth.signed)
    if syntax in NATIVE:
        data = frames.astype(frames.dtype.newbyteorder(">" if syntax == "big-endian" else "<")).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OB" if depth.bits == 8 else "OW"
    else:
        encapsulated(ds, [compressed(frame, depth.bits, syntax) for frame in frames])


def encapsulated(ds: Dataset, codestreams: list[bytes]) -> None:
    ds.PixelData = encapsulate(codestreams)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def compressed(frame: np.ndarray, bits: int, syntax: str) -> bytes:
    """The codestream of one unsigned frame (H, W) in an encoding of LOSSLESS."""
    if syntax.startswith("jpeg-lossless"):
        return jpeg_lossless.encode(frame, bits, predictor=7 if syntax == "jpeg-lossless-14" else 1)
    if syntax == "jpeg-ls":
        return imagecodecs.jpegls_encode(np.ascontiguousarray(frame))
    if syntax == "jpeg-2000":
        return imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(frame), codecformat="j2k", reversible=True, level=0, bitspersample=bits
        )
    return RLELosslessEncoder.encode(
        frame.tobytes(),
        encoding_plugin="pydicom",
        index=0,
        rows=frame.shape[0],
        columns=frame.shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=8 * frame.itemsize,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        transfer_syntax_uid=SYNTAXES[syntax],
    )


def encode(ds: Dataset, syntax: str, *, preamble: bytes | None = None) -> bytes:
    """The whole file. preamble: 128 bytes before the mark, zeros if None."""
    return encode_as(ds, SYNTAXES[syntax], preamble=preamble)


def encode_as(ds: Dataset, syntax: str, *, preamble: bytes | None = None) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uids.UID(syntax)
    ds.preamble = preamble
    buffer = io.BytesIO()
    little = syntax != uids.ExplicitVRBigEndian
    known = uids.UID(syntax).is_transfer_syntax
    options = {} if known else {"implicit_vr": False, "little_endian": little}
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True, **options)
    return buffer.getvalue()


def encode_bare(ds: Dataset, *, implicit: bool) -> bytes:
    """A little endian data set with neither preamble nor meta header."""
    ds.file_meta = FileMetaDataset()
    del ds.file_meta
    ds.preamble = None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def frame_of(
    picture: Picture, series: Series, *, instance: str, number: int | None, position: tuple[float, float, float]
) -> Frame:
    """The truth of a slice written with `base` and `place`."""
    nx, ny, nz = (float(v) for v in series.normal)
    day = series.study_date
    header = Header(
        modality="MR",
        patient=series.who.patient_id,
        study_uid=series.study_uid,
        series_uid=series.uid,
        sop_uid=instance,
        instance_number=number,
        position_mm=position,
        normal=(nx, ny, nz),
        spacing_mm=series.spacing_mm,
        acquired=date(int(day[:4]), int(day[4:6]), int(day[6:])),
        manufacturer=series.manufacturer,
        field_strength_t=series.field_strength_t,
        sequence=series.sequence,
    )
    return Frame(origin=picture.origin, header=header)
