"""A DICOM object -> its slices: parsed, judged, decompressed, rescaled, described."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mri_ray.decode.dicom.decide import decide, sop_class
from mri_ray.decode.dicom.decompress import frames
from mri_ray.decode.dicom.describe import Texts, header_of, of_frame, texts_of
from mri_ray.decode.dicom.flags import of_frame_type, of_object
from mri_ray.decode.dicom.groups import Groups, groups_of
from mri_ray.decode.dicom.mosaic import Mosaic, mosaic_of
from mri_ray.decode.dicom.parse import Parsed, parse
from mri_ray.decode.dicom.pixels import Stored, for_decoders, stored
from mri_ray.decode.dicom.rescale import rescale_of, to_pixels
from mri_ray.decode.limits import Refused, SourceLost
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason, RunError
from mri_ray.records import Failure, Flag, Header, Slice

_PIXELS_A_BYTE = 64  # thousands of frames may be a few bytes each: a small file, hours of work


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """What is known of an image before its first frame is decoded."""

    parsed: Parsed
    stored: Stored
    texts: Texts
    header: Header
    flags: frozenset[Flag]
    groups: Groups
    mosaic: Mosaic | None


def decode(data: bytes, uri: str, config: DecodeConfig) -> Iterator[Slice | Failure]:
    """A slice a frame, or of a mosaic a slice a tile, or why there is none. Never raises for bad content."""
    header = Header()
    try:
        parsed = parse(data, config)
        name = sop_class(parsed)
        texts = texts_of(parsed.dataset)
        header = header_of(parsed.dataset, name, texts)
        decide(parsed, name, config)
        yield from _frames(_image(parsed, name, texts, header, config), len(data), uri, config)
    except Refused as refused:
        yield Failure(reason=refused.reason, where=uri, detail=refused.detail, header=header)
    except (MemoryError, SourceLost, RunError):
        raise
    except Exception as exc:  # whatever a library, or this code, does not foresee in damaged content
        detail = f"DICOM: {type(exc).__name__}"
        yield Failure(reason=Reason.DAMAGED_HEADER, where=uri, detail=detail, header=header)


def _image(parsed: Parsed, name: str | None, texts: Texts, header: Header, config: DecodeConfig) -> _Image:
    if not parsed.syntax.is_transfer_syntax:
        raise Refused(Reason.TRANSFER_SYNTAX, "a transfer syntax that is not the standard's")
    found = stored(parsed.dataset, config)
    return _Image(
        parsed=parsed,
        stored=found,
        texts=texts,
        header=header,
        flags=of_object(parsed.dataset, name, parsed.syntax, texts),
        groups=groups_of(parsed.dataset, found.frames),
        mosaic=mosaic_of(parsed.dataset, found, config),
    )


def _frames(image: _Image, length: int, uri: str, config: DecodeConfig) -> Iterator[Slice | Failure]:
    found = image.stored
    given = for_decoders(image.parsed.dataset, found, image.parsed.syntax)
    affordable = max(1, max(config.max_pixels, _PIXELS_A_BYTE * length) // (found.rows * found.columns))
    done = 0
    for decoded in islice(frames(given, config), affordable):
        yield from _attempt(image, decoded, done, uri)
        done += 1
    for frame in range(done, found.frames):
        if frame >= affordable:
            detail = f"DICOM: {affordable} frames of this size are all that a file of its length may hold"
            refused = Refused(Reason.TOO_MANY_PIXELS, detail)
        else:
            refused = Refused(Reason.TRUNCATED, "DICOM: it ends before the frame does")
        yield from _attempt(image, refused, frame, uri)


def _attempt(image: _Image, decoded: np.ndarray | Refused, frame: int, uri: str) -> Iterator[Slice | Failure]:
    """A frame's slices, or why it has none."""
    header = image.header
    try:
        image.groups.check(frame)
        header = of_frame(header, image.parsed.dataset, image.texts, image.groups, frame)
        slices = [] if isinstance(decoded, Refused) else list(_slices(image, decoded, frame, header))
        refused = decoded if isinstance(decoded, Refused) else None
    except Refused as exc:
        refused = exc
    except (MemoryError, SourceLost, RunError):
        raise
    except Exception as exc:
        refused = Refused(Reason.DAMAGED, f"DICOM: {type(exc).__name__}")
    if refused is None:
        yield from slices
        return
    label = frame if frame or image.stored.frames > 1 else None
    yield Failure(reason=refused.reason, where=uri, detail=refused.detail, frame=label, header=header)


def _slices(image: _Image, decoded: np.ndarray, frame: int, header: Header) -> Iterator[Slice]:
    dataset, found, mosaic = image.parsed.dataset, image.stored, image.mosaic
    if decoded.shape[:2] != (found.rows, found.columns):
        raise Refused(Reason.DAMAGED, "DICOM: the decoded picture has another size than the header says")
    rescale = rescale_of(dataset, image.groups, frame, found)
    pixels, bits, seen = to_pixels(decoded, dataset, found, rescale)
    flags = image.flags | seen | of_frame_type(image.groups.find(frame, "MRImageFrameTypeSequence"))
    if mosaic is None:
        yield Slice(pixels=pixels, bits=bits, frame=frame, header=header, flags=flags, mode=found.photometric)
        return
    for number in range(mosaic.count):
        tile = np.ascontiguousarray(mosaic.tile(pixels, number))
        blank = {Flag.BLANK} if tile.min() == tile.max() else set()
        yield Slice(
            pixels=tile,
            bits=bits,
            frame=number,
            header=mosaic.header(header, number),
            flags=flags - {Flag.BLANK} | blank | {Flag.MOSAIC},
            mode=found.photometric,
        )
