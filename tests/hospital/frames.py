"""Many slices in one DICOM object: enhanced multi-frame MR, and Siemens mosaics."""

import math
import struct
from collections.abc import Sequence as Row

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hospital.context import Context, Series
from hospital.dicom import Depth, base, compressed, encapsulated, frame_of, place, set_pixels
from hospital.planted import uid
from hospital.source import Picture
from hospital.truth import Frame


def enhanced(
    context: Context, series: Series, pictures: Row[Picture], depths: Row[Depth], syntax: str
) -> tuple[Dataset, list[Frame]]:
    """An enhanced MR of a frame a picture, each with a position and, where its depth says so, a rescale of its own.

    The frames do not stand in the order of their positions.
    """
    instance = uid(context.seed, "enhanced", series.uid)
    ds = base(series, instance, 1)
    ds.SOPClassUID = uids.EnhancedMRImageStorage
    ds.NumberOfFrames = len(pictures)
    del ds.ImageComments
    order = [int(index) for index in context.rng.permutation(len(pictures))]
    ds.SharedFunctionalGroupsSequence = Sequence([_shared(series)])
    groups: list[Dataset] = []
    frames: list[Frame] = []
    stored: list[np.ndarray] = []
    for index in order:
        picture = pictures[index]
        position = series.position(picture.origin.number)
        groups.append(_per_frame(series, picture, depths[index], position, len(groups) + 1))
        frames.append(frame_of(picture, series, instance=instance, number=1, position=position))
        stored.append(depths[index].stored(picture.pixels))
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    set_pixels(ds, np.stack(stored), depths[0], syntax)
    return ds, frames


def damage(ds: Dataset, pictures: Row[Picture], order: Row[Frame], number: int) -> None:
    """Writes 8-bit frames as JPEG 2000 whose frame `number` is none."""
    pixels = {picture.origin: picture.pixels for picture in pictures}
    streams = [compressed(pixels[frame.origin], 8, "jpeg-2000") for frame in order]
    streams[number] = streams[number][:2] + bytes(range(256)) * 2
    encapsulated(ds, streams)


def _shared(series: Series) -> Dataset:
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{series.gap_mm:g}"
    measures.PixelSpacing = [f"{value:.10g}" for value in series.spacing_mm]
    orientation.ImageOrientationPatient = [f"{value:.10g}" for value in series.orientation]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    return shared


def _per_frame(
    series: Series, picture: Picture, depth: Depth, position: tuple[float, float, float], number: int
) -> Dataset:
    content, plane, values, group = Dataset(), Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", picture.origin.number
    content.DimensionIndexValues = [1, number]
    content.FrameComments = series.who.comment
    plane.ImagePositionPatient = [f"{value:.10g}" for value in position]
    group.FrameContentSequence = Sequence([content])
    group.PlanePositionSequence = Sequence([plane])
    if depth.bits > 8:
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = depth.slope, depth.intercept, "US"
        group.PixelValueTransformationSequence = Sequence([values])
    return group


def mosaic(
    context: Context, series: Series, pictures: Row[Picture], depth: Depth, syntax: str, *, explained: bool = True
) -> tuple[Dataset, list[Frame]]:
    """Slices tiled row by row in one frame, as Siemens scanners export them; `explained`: with the tags that tell how.

    The position stands for a slice as large as the whole mosaic, concentric with the first slice.
    """
    instance = uid(context.seed, "mosaic", series.uid)
    ds = base(series, instance, 1)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    ds.Manufacturer = "SIEMENS"
    side = math.ceil(math.sqrt(len(pictures)))
    height, width = pictures[0].pixels.shape
    tiled = np.zeros((side * height, side * width), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // side * height, index % side * width
        tiled[top : top + height, left : left + width] = picture.pixels
    first = np.array(series.position(pictures[0].origin.number))
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    across = row * (side - 1) * width / 2 * series.spacing_mm[1]
    down = column * (side - 1) * height / 2 * series.spacing_mm[0]
    x, y, z = (round(float(v), 6) for v in first - across - down)
    place(ds, series, (x, y, z))
    if explained:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", len(pictures))
        csa = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        csa.add_new(0x08, "CS", "IMAGE NUM 4")
        csa.add_new(0x10, "OB", csa_header(len(pictures), series.normal))
    if depth.bits > 8:
        ds.RescaleSlope, ds.RescaleIntercept = depth.slope, depth.intercept
    set_pixels(ds, depth.stored(tiled), depth, syntax)
    told = [series.position(picture.origin.number) for picture in pictures]
    pairs = zip(pictures, told, strict=True)
    return ds, [frame_of(picture, series, instance=instance, number=1, position=at) for picture, at in pairs]


def csa_header(images: int, normal: np.ndarray) -> bytes:
    """Siemens' private header in its second form ("SV10"), with two of its elements.

    Layout as nibabel.nicom.csareader documents it: mark, count, 77; each element a name of 64 bytes, multiplicity,
    VR, syngo type, item count, 77; each item four lengths and the text, padded to 4 bytes.
    """
    elements = (
        ("NumberOfImagesInMosaic", b"US\0\0", 6, [f"{images:8d}"]),
        ("SliceNormalVector", b"FD\0\0", 4, [f"{value:16.8f}" for value in normal]),
    )
    data = b"SV10\4\3\2\1" + struct.pack("<2I", len(elements), 77)
    for name, vr, kind, values in elements:
        items = [value.encode() + b"\0" for value in values] + [b""] * (6 - len(values))
        data += name.encode().ljust(64, b"\0") + struct.pack("<i4s3i", len(values), vr, kind, len(items), 77)
        for item in items:
            data += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + b"\0" * (-len(item) % 4)
    return data + b"\0" * (len(data) % 2)
