"""NIfTI -> slices, a few planes or one volume in memory at a time.

What becomes of a file that ends too early: slices that the file stores one after another pass up to its end; where each
slice is spread over the whole volume, none of that volume does. A gzip that turns out damaged gives none of the volume
under way. The last volume wanted is held back until its checksum has held, if it fits within `max_bytes` and if no more
than 64 MiB lie between; volumes before it have passed by then. Either way a Failure follows what passed.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mri_ray.decode.limits import Refused
from mri_ray.decode.nifti_header import NIFTI1_BYTES, NIFTI1_MARK, NIFTI2_BYTES, NIFTI2_MARK, Layout, parse
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Slice

_BLOCK = 2**20
_PIECE = 2**16
_BEHIND = 64 * 2**20  # bytes behind what is wanted that are inflated to reach the checksum
_FREE_MEMBERS = 1000  # of a gzip, beside one for each kilobyte in them
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)  # of 65536: ITU-R 601, rounded as by Pillow
_MAX_CHROMA = 8


def recognise(head: bytes) -> bool:
    """Whether an object's first 512 bytes (inflated) are those of a NIfTI-1 or -2 file with its image."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    first = NIFTI1_BYTES in sizes and head[344:348] == NIFTI1_MARK
    return first or (NIFTI2_BYTES in sizes and head[4:8] == NIFTI2_MARK)


def decode(source: BinaryIO, uri: str, config: DecodeConfig, *, gzipped: bool) -> Iterator[Slice | Failure]:
    """A slice a plane of the volume, or why there is none. `source` stands at the file's first byte.

    Slices come as a radiologist sees them: the patient's right, or in sagittal planes the front, on the left; front or
    head at the top; ordered from foot, back or right. `frame` counts them over all volumes, read or not. It is read
    forward only. Never raises for bad content; SourceLost and Refused from the source pass through.
    """
    stream = _Stream(source, config, gzipped=gzipped)
    raw = stream.read(NIFTI1_BYTES)
    if raw[4:8] == NIFTI2_MARK:
        raw += stream.read(NIFTI2_BYTES - NIFTI1_BYTES)
    try:
        if stream.fault is not None:
            raise stream.fault
        layout = parse(bytes(raw), config)
    except Refused as refused:
        yield Failure(reason=refused.reason, where=uri, detail=refused.detail)
        return
    stream.size = layout.total_bytes
    stream.skip(layout.offset - len(raw))
    given = 0
    for volume in range(layout.volumes):
        is_last = volume == layout.volumes - 1
        hold = not layout.in_order or (gzipped and is_last and layout.held_bytes <= config.max_bytes)
        for item in _volume(stream, layout, volume, hold=hold, is_last=is_last):
            given += 1
            yield item
        if stream.fault is not None:
            wanted = layout.volumes * (layout.last - layout.first)
            detail = f"{stream.fault.detail}; {given} of {wanted} slices passed"
            yield Failure(reason=stream.fault.reason, where=uri, detail=detail)
            return


def _volume(stream: "_Stream", layout: Layout, volume: int, *, hold: bool, is_last: bool) -> Iterator[Slice]:
    """The slices of the volume that the stream stands at, as far as they are whole."""
    blocks: Iterator[np.ndarray] | list[np.ndarray] = _blocks(stream, layout, volume)
    if hold:
        blocks = list(blocks)
        if is_last:
            stream.find_end(_BEHIND)
        if stream.is_damaged:
            return
    for position, picture in _pictures(blocks, layout):
        pixels, flags = _values(_upright(picture, layout), layout)
        yield Slice(
            pixels=pixels,
            bits=_bits(layout),
            frame=volume * layout.slices + position,
            header=layout.placement.header(position),
            flags=flags | {Flag.DERIVED} if layout.computed else flags,
        )
    if is_last and not hold:
        stream.find_end(_BEHIND)


def _blocks(stream: "_Stream", layout: Layout, volume: int) -> Iterator[np.ndarray]:
    """What is wanted of the next volume, from the planes that are there in whole; nothing behind it is read.

    (planes, axis 1, axis 0) where the planes are the slices, else (slices, planes, the axis that is left).
    """
    columns, rows, count = layout.shape
    low, high = _stored_range(layout)
    axis = layout.axes[0]
    start, stop = (low, high) if axis == 2 else (0, count)
    left = count - stop if volume else 0  # of the volume before
    stream.skip((left + start) * layout.plane_bytes)
    many = max(1, _BLOCK // layout.plane_bytes)
    for plane in range(start, stop, many):
        data = stream.read(min(many, stop - plane) * layout.plane_bytes)
        whole = 0 if stream.is_damaged else len(data) // layout.plane_bytes
        if whole:
            block = np.frombuffer(data, layout.dtype, whole * rows * columns).reshape(whole, rows, columns)
            yield block if axis == 2 else np.ascontiguousarray(np.moveaxis(block, 2 - axis, 0)[low:high])
        if stream.fault is not None:
            return


def _stored_range(layout: Layout) -> tuple[int, int]:
    """The slices that are read, by their places along the stored axis."""
    if layout.flipped[0]:
        return layout.slices - layout.last, layout.slices - layout.first
    return layout.first, layout.last


def _pictures(blocks: Iterator[np.ndarray] | list[np.ndarray], layout: Layout) -> Iterator[tuple[int, np.ndarray]]:
    """Position and stored values of the slices, (higher stored axis, lower stored axis), in the order of display."""
    low, high = _stored_range(layout)
    if layout.in_order:
        planes = (plane for block in blocks for plane in block)
        yield from enumerate(planes, layout.first)
        return
    blocks = list(blocks)
    if layout.axes[0] == 2:
        planes = (plane for block in reversed(blocks) for plane in block[::-1])
        yield from enumerate(planes, layout.slices - low - sum(map(len, blocks)))
        return
    if sum(block.shape[1] for block in blocks) < layout.shape[2]:
        return
    order = range(high - low)
    for position, place in enumerate(reversed(order) if layout.flipped[0] else order, layout.first):
        yield position, np.concatenate([block[place] for block in blocks])


def _upright(picture: np.ndarray, layout: Layout) -> np.ndarray:
    _, rows, columns = layout.axes
    _, down, left = layout.flipped
    picture = picture if rows > columns else picture.T
    return picture[:: -1 if down else 1, :: -1 if left else 1]


def _values(picture: np.ndarray, layout: Layout) -> tuple[np.ndarray, frozenset[Flag]]:
    """Stored values -> float32 pixels of their own, scaled and finite, and what there is to say of them."""
    if picture.dtype.names:
        return _grey(picture)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is masked below
        if layout.scale is None:
            pixels = np.array(picture, dtype=np.float32, order="C")
        else:
            slope, intercept = layout.scale
            pixels = (picture.astype(np.float64, order="C") * slope + intercept).astype(np.float32)
    if layout.scale is None and picture.dtype.kind != "f":
        return pixels, frozenset()
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels, frozenset()
    pixels[~finite] = pixels[finite].min() if finite.any() else 0
    return pixels, frozenset({Flag.MASKED})


def _grey(picture: np.ndarray) -> tuple[np.ndarray, frozenset[Flag]]:
    """R, G, B and perhaps A, 8 bits each -> grey over black."""
    colours = np.stack([picture[name] for name in "RGB"], axis=-1).astype(np.uint32)
    if "A" in (picture.dtype.names or ()):
        colours = (colours * picture["A"][..., np.newaxis] + 127) // 255
    coloured = int((colours.max(axis=-1) - colours.min(axis=-1)).max()) > _MAX_CHROMA
    grey = (colours @ _LUMA + 0x8000) >> 16
    return grey.astype(np.float32), frozenset({Flag.COLOUR} if coloured else ())


def _bits(layout: Layout) -> int:
    """Of the stored type; 32 for bytes that are scaled, since 8 would call them grey levels ready to show."""
    if layout.dtype.names:
        return 8
    bits = 8 * layout.dtype.itemsize
    return 32 if bits == 8 and layout.scale is not None else bits


class _Stream:
    """A file's bytes, inflated if it is a gzip of one or more members.

    fault: why it gave fewer than asked for. size: of its whole content, as soon as that is known.
    """

    def __init__(self, source: BinaryIO, config: DecodeConfig, *, gzipped: bool) -> None:
        self.fault: Refused | None = None
        self.size = -1
        self._source = source
        self._config = config
        self._inflater = zlib.decompressobj(wbits=31) if gzipped else None
        self._pending = self._tail = b""
        self._taken = self._given = 0
        self._members = 1

    @property
    def is_damaged(self) -> bool:
        return self.fault is not None and self.fault.reason is not Reason.TRUNCATED

    def read(self, size: int) -> bytearray:
        """The next `size` bytes, or fewer and a fault; memory grows with what is there, not with what is asked for."""
        data = bytearray()
        while len(data) < size and self.fault is None:
            data += self._next(min(size - len(data), _BLOCK))
        return data

    def skip(self, size: int) -> None:
        while size > 0 and self.fault is None:
            size -= len(self._next(min(size, _BLOCK)))

    def find_end(self, limit: int) -> None:
        """Inflates on to the checksum of the gzip's member under way, unless it is further than `limit` bytes."""
        while self._inflater is not None and not self._inflater.eof and self.fault is None and limit > 0:
            limit -= len(self._next(min(limit, _BLOCK)))

    def _next(self, limit: int) -> bytes:
        """Some bytes, at most `limit`; none at all may also mean that there will be some at the next call."""
        if self._inflater is not None:
            return self._inflate(limit)
        data = self._source.read(limit)
        if not data:
            self.fault = Refused(Reason.TRUNCATED, "NIfTI: it ends before its last voxel")
        return data

    def _inflate(self, limit: int) -> bytes:
        assert self._inflater is not None
        if self._inflater.eof and not self._open_member():
            self.fault = Refused(Reason.TRUNCATED, "NIfTI: the content of its gzip ends before its last voxel")
            return b""
        fresh = self._pending or self._take()
        try:
            data = self._inflater.decompress(fresh, limit)
        except zlib.error:
            self.fault = Refused(Reason.DAMAGED, "gzip: its content or its checksum is wrong")
            return b""
        self._pending = self._inflater.unconsumed_tail
        self._given += len(data)
        if not (fresh or data or self._inflater.eof):
            self.fault = self._end()
        # Only beyond `max_bytes`: masks and empty volumes may shrink by any ratio.
        elif self._given > max(self._config.max_bytes, self._config.pack.max_ratio * self._taken):
            detail = f"gzip: {self._taken} bytes inflate to more than {self._given}"
            self.fault = Refused(Reason.PACK_BOMB, detail)
        elif self._members > _FREE_MEMBERS + self._given // 1024:
            self.fault = Refused(Reason.DAMAGED, f"gzip: {self._members} members of hardly any content")
        return data

    def _end(self) -> Refused:
        """Why the source ends within a member. Damaged bits can swallow the closing eight bytes, whose last four are
        the content's size: where these are there, nothing was cut off, and no voxel can be trusted."""
        if self._tail == (self.size & 0xFFFFFFFF).to_bytes(4, "little") and self.size > 0:
            return Refused(Reason.DAMAGED, "gzip: its content is wrong")
        return Refused(Reason.TRUNCATED, "gzip: it ends too early")

    def _open_member(self) -> bool:
        """Goes on to the gzip's next member, if one follows; zeros before it are padding."""
        assert self._inflater is not None
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest and (data := self._take()):
            rest = data.lstrip(b"\0")
        if not rest.startswith(b"\x1f"):
            return False
        self._pending = rest
        self._inflater = zlib.decompressobj(wbits=31)
        self._members += 1
        return True

    def _take(self) -> bytes:
        data = self._source.read(_PIECE)
        self._taken += len(data)
        self._tail = (self._tail + data)[-4:]
        return data
