"""DICOM pixel data -> the stored values of each frame, whatever they are packed in.

Uncompressed ones are read here, 8-bit lossy JPEGs by Pillow as the `raster` formats are, and all else by the decoders
in `compressed`, which run in a process of their own: they are given only what its own header says to be of the size
that the data set announces.
"""

import importlib.util
import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import pydicom
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import uid

import mri_ray.decode.dicom.decompress_codestream as codestream
import mri_ray.decode.dicom.decompress_items as items
from mri_ray.decode import compressed, isolated, jpeg
from mri_ray.decode.dicom.decompress_layout import Layout, fitted, layout, pixel_keyword, rgb, unpacked, value
from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason

_NATIVE = {
    uid.ImplicitVRLittleEndian: "<",
    uid.ExplicitVRLittleEndian: "<",
    uid.DeflatedExplicitVRLittleEndian: "<",
    uid.ExplicitVRBigEndian: ">",
}
_IN_FRAGMENTS = uid.UID("1.2.840.10008.1.2.1.98")  # Encapsulated Uncompressed Explicit VR Little Endian
_JPEG_8 = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)  # without any package but Pillow, if they are of 8 bits
_CODESTREAMS = (
    *_JPEG_8,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)


def frames(dataset: pydicom.Dataset, config: DecodeConfig) -> Iterator[np.ndarray | Refused]:
    """Stored values of every frame in order; a damaged or missing one is a Refused in its place.

    Integers (or floats for Float Pixel Data) of shape (rows, columns), or RGB of shape (rows, columns, 3), native byte
    order, not to be written to. Palette images give their indices. Whole frames behind those that the header announces
    are one more Refused. Raises Refused when nothing can be decoded.
    """
    syntax = uid.UID(str(dataset.file_meta.TransferSyntaxUID), validation_mode=pydicom.config.IGNORE)
    _check_syntax(syntax)
    keyword = pixel_keyword(dataset)
    found = layout(dataset, keyword, config)
    data = value(dataset, keyword)
    if not isinstance(data, bytes | bytearray) or not data:
        raise Refused(Reason.NO_PIXELS, "the pixels' element is empty")
    data = bytes(data)
    if syntax in _NATIVE:
        yield from _native(data, found, _NATIVE[syntax], in_words=dataset.get_item(keyword).VR == "OW")
        return
    extended = value(dataset, "ExtendedOffsetTable")
    single = syntax in (uid.RLELossless, _IN_FRAGMENTS)
    for item in items.frames(data, found.frames, extended if isinstance(extended, bytes) else None, single=single):
        yield item if isinstance(item, Refused) else _attempt(item, syntax, found, config)


def _check_syntax(syntax: uid.UID) -> None:
    name = syntax.name if syntax.is_transfer_syntax else "a private or unknown transfer syntax"
    if syntax in _NATIVE or syntax == _IN_FRAGMENTS:
        return
    if syntax not in (*_CODESTREAMS, uid.RLELossless):
        raise Refused(Reason.TRANSFER_SYNTAX, f"{name}: no package read here decodes it")
    if syntax not in _JPEG_8 and not _is_installed(compressed.PACKAGE):
        raise Refused(Reason.TRANSFER_SYNTAX, f"{name}: install the package {compressed.PACKAGE}")


@cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _native(data: bytes, found: Layout, order: str, *, in_words: bool) -> Iterator[np.ndarray | Refused]:
    size = found.frame_bytes
    halved = found.photometric == "YBR_FULL_422" and len(data) < size * found.frames
    size = size // 3 * 2 if halved else size
    # Bytes in 16-bit words of a big-endian file stand the other way round.
    if order == ">" and in_words and found.allocated == 8:
        even = data + b"\0" * (len(data) % 2)
        data = np.frombuffer(even, ">u2").astype("<u2").tobytes()
    for frame in range(found.frames):
        part = len(data) - frame * size
        if part < size:
            yield Refused(Reason.TRUNCATED, f"{max(part, 0)} of its {size} bytes are there")
            continue
        try:
            yield _words(data, frame * size, found, order, halved=halved)
        except Refused as refused:
            yield refused
    if len(data) - found.frames * size >= size:
        yield Refused(Reason.DAMAGED, f"{len(data) // size} frames are there, {found.frames} are announced")


def _words(data: bytes, start: int, found: Layout, order: str, *, halved: bool) -> np.ndarray:
    """The frame at byte `start`. halved: two pixels share their colour."""
    count = found.rows * found.columns * (2 if halved else found.samples)
    kind = "f" if found.floats else "u"
    stored = np.frombuffer(data, f"{order}{kind}{found.allocated // 8}", count, start)
    words = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if found.floats:
        return words.reshape(found.shape)
    if halved:
        if found.columns % 2:
            raise Refused(Reason.DAMAGED, "two pixels share their colour, but a row has an odd number")
        pairs = words.reshape(found.rows, found.columns // 2, 4)
        colour = np.repeat(pairs[..., 2:], 2, axis=1)
        words = np.concatenate([pairs[..., :2].reshape(found.rows, found.columns, 1), colour], axis=-1)
    elif found.planar:
        words = np.moveaxis(words.reshape(3, found.rows, found.columns), 0, -1)
    return _coloured(unpacked(words.reshape(found.shape), found), found)


def _attempt(data: bytes, syntax: uid.UID, found: Layout, config: DecodeConfig) -> np.ndarray | Refused:
    if syntax == _IN_FRAGMENTS and len(data) < found.frame_bytes:
        return Refused(Reason.TRUNCATED, f"{len(data)} of its {found.frame_bytes} bytes are there")
    try:
        if syntax == _IN_FRAGMENTS:
            return _words(data, 0, found, "<", halved=False)
        return _rle(data, found, config) if syntax == uid.RLELossless else _codestream(data, found, config)
    except Refused as refused:
        return refused


def _rle(data: bytes, found: Layout, config: DecodeConfig) -> np.ndarray:
    depth = found.allocated // 8
    codestream.check_rle(data, found.samples * depth)
    args = (data, found.rows, found.columns, found.samples, depth)
    words = isolated.call(compressed.rle, *args, timeout_s=config.timeout_s)
    return _coloured(unpacked(_of_shape(words, found), found), found)


def _codestream(data: bytes, found: Layout, config: DecodeConfig) -> np.ndarray:
    stream = codestream.read(data)
    if (stream.rows, stream.columns, stream.components) != (found.rows, found.columns, found.samples):
        detail = f"{stream.columns} x {stream.rows} x {stream.components} in the pixels' own header"
        raise Refused(Reason.DAMAGED, f"{detail}, {found.columns} x {found.rows} x {found.samples} in the data set's")
    if not 2 <= stream.precision <= 16:
        raise Refused(Reason.UNSUPPORTED_MODE, f"compressed values of {stream.precision} bits")
    if stream.precision > found.allocated:
        detail = f"{stream.precision} bits in the pixels' own header, {found.allocated} in the data set's"
        raise Refused(Reason.DAMAGED, detail)
    if stream.codec == "jpeg-8":
        return fitted(_jpeg_8(stream, found), 8, found)
    if stream.codec == "jpeg":
        args = (stream.data, stream.scan, stream.components, stream.lossless)
        values = isolated.call(compressed.jpeg, *args, timeout_s=config.timeout_s)
    else:
        codec = compressed.jpeg_ls if stream.codec == "jpeg-ls" else compressed.jpeg_2000
        values = isolated.call(codec, stream.data, timeout_s=config.timeout_s)
    values = fitted(_of_shape(values, found), stream.precision, found)
    return _coloured(values, found, stream.coloured)


def _of_shape(values: np.ndarray, found: Layout) -> np.ndarray:
    if values.shape != found.shape or values.dtype.kind not in "ui":
        raise Refused(Reason.DAMAGED, "the decoder gives another number of pixels than announced")
    return values


def _coloured(values: np.ndarray, found: Layout, told: str | None = None) -> np.ndarray:
    """RGB of three samples. told: what the codestream says that they are."""
    if found.samples == 1 or told == "RGB" or (told is None and found.photometric == "RGB"):
        return values
    if told is None and found.photometric in ("YBR_RCT", "YBR_ICT"):
        raise Refused(Reason.UNSUPPORTED_MODE, f"{found.photometric} without the transform of JPEG 2000 that it names")
    return rgb(values, found.stored)


def _jpeg_8(stream: codestream.Codestream, found: Layout) -> np.ndarray:
    """Grey, or RGB."""
    whole = jpeg.parse(stream.data)
    image = _load(whole.data, stream, found)
    # libjpeg makes up what is missing at the end, and tells nobody.
    if not np.array_equal(image, _load(compressed.refilled(whole.data), stream, found)):
        raise Refused(Reason.TRUNCATED, "JPEG: its scan ends before the last block")
    return image


def _load(data: bytes, stream: codestream.Codestream, found: Layout) -> np.ndarray:
    try:
        image = JpegImageFile(io.BytesIO(data))
        # Where the codestream does not tell, libjpeg takes it for YBR, and converts it unless YBR is asked for.
        if stream.coloured is None and found.photometric == "RGB":
            image.draft("YCbCr", image.size)
        image.load()
    except MemoryError:
        raise
    except Exception as exc:  # Pillow raises nearly anything for damaged content
        raise Refused(Reason.DAMAGED, f"JPEG: {type(exc).__name__}") from exc
    return _of_shape(np.asarray(image), found)
