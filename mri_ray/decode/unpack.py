"""What the content of a pack is read through: unpacked piece by piece, never more in memory, and what that may cost."""

import bz2
import contextlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mri_ray.decode.limits import Refused
from mri_ray.decode.settings import PackConfig
from mri_ray.errors import Reason

INPUT_BYTES = 64 * 2**10
PIECE_BYTES = 128 * 2**10
_STEP_BYTES = 512
BUFFER_BYTES = 64 * 2**10
_MEMBER_FLOOR = 64 * 2**20  # up to here a member may inflate as it likes: masks and blank pictures do, by 1000
_PACK_FLOOR = 4 * 2**30  # the same for the sum of all, nested ones included: some 20 s of work
_ENTRY_WORK = 8 * 2**10  # an entry takes as long as so many bytes
_FREE_STREAMS = 1000
_MAX_DICTIONARY = 256 * 2**20  # bytes that an LZMA decoder may hold
STORED, DEFLATE, BZIP2, LZMA = 0, 8, 12, 14  # a zip's numbers


@dataclass(kw_only=True)
class Budget:
    """What the outermost pack may still hold, shared with the packs within it.

    packed: its size, set by whoever opens it first. members: entries so far, folders too. bytes: unpacked so far, of
    packs within it both as members and by their own members. work: the bytes, and what else took the time of bytes.
    """

    config: PackConfig
    members: int = 0
    bytes: int = 0
    packed: int | None = None
    work: int = 0

    def announce(self, members: int) -> None:
        """Raises Refused when so many more are too many."""
        if self.members + members > self.config.max_members:
            raise Refused(Reason.PACK_TOO_LARGE, f"more than {self.config.max_members} members")

    def count(self) -> None:
        """One more member. Raises Refused when it is one too many, or when the bytes are spent."""
        self.spend(0, work=_ENTRY_WORK)
        self.announce(1)
        self.members += 1

    def spend(self, size: int, *, work: int = 0) -> None:
        """Bytes that were unpacked. Raises Refused when they are too many, and at every call from then on."""
        self.bytes += size
        self.work += size + work
        if self.bytes > self.config.max_bytes:
            raise Refused(Reason.PACK_TOO_LARGE, f"more than {self.config.max_bytes} bytes unpacked")
        if self.packed is not None and self.work > max(_PACK_FLOOR, self.config.max_ratio * self.packed):
            detail = f"{self.packed} bytes unpack to {self.bytes} in {self.members} members, or more"
            raise Refused(Reason.PACK_BOMB, detail)

    def check_ratio(self, unpacked: int, packed: int) -> None:
        """Holds what one member has unpacked to against the limit; raises Refused."""
        if unpacked > _MEMBER_FLOOR and unpacked > self.config.max_ratio * packed:
            raise Refused(Reason.PACK_BOMB, f"{packed} bytes unpack to {unpacked} or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a pack lists, in the order stored.

    name: as stored, decoded. content: its bytes, piece by piece, once, until the next entry is asked for; raises
    Refused. refusal: why its content is not read.
    """

    name: str
    size: int
    content: Callable[[], Iterator[bytes]]
    is_folder: bool = False
    refusal: Refused | None = None


class PieceReader(io.RawIOBase):
    """Pieces as a reader that fills every buffer whole, but at the end. What they raise, it raises again and again."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        done = 0
        while done < len(view) and self._refill(raises=not done):
            piece = self._rest[: len(view) - done]
            view[done : done + len(piece)] = piece
            self._rest = self._rest[len(piece) :]
            done += len(piece)
        return done

    def readall(self) -> bytes:
        pieces = []
        while self._refill(raises=True):
            pieces.append(self._rest)
            self._rest = memoryview(b"")
        return b"".join(pieces)

    def _refill(self, *, raises: bool) -> bool:
        """Whether there is more. An error behind what was read already waits for the next call."""
        while not self._rest and self._error is None:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return False
            except (
                Exception
            ) as exc:  # content found damaged, or its storage lost: a reader must not take it for the end
                self._error = exc
        if not self._rest and self._error is not None and raises:
            raise self._error
        return bool(self._rest)


def reader(pieces: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(PieceReader(pieces), BUFFER_BYTES)


def unpacked(method: int, packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """A zip member's content; `size` is the announced one. Raises Refused."""
    if method == STORED:
        return packed
    if method == DEFLATE:
        return _inflated(packed)
    if method == BZIP2:
        return _decoded(bz2.BZ2Decompressor(), packed)
    assert method == LZMA, "others are refused before"
    return _lzma(packed, size)


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in packed:
        pending, out = piece, b""
        while not inflater.eof and (pending or len(out) == PIECE_BYTES):
            out = _attempt(inflater.decompress, pending)
            pending = inflater.unconsumed_tail
            yield out
        if inflater.eof:
            return


def _decoded(decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor, packed: Iterator[bytes]) -> Iterator[bytes]:
    for piece in packed:
        if decoder.eof:
            return
        yield _attempt(decoder.decompress, piece)
        while not decoder.needs_input and not decoder.eof:
            yield _attempt(decoder.decompress, b"")


def _lzma(packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Source: APPNOTE.TXT 5.8: a version, the length of the properties (5), the properties, the stream."""
    head = next(packed, b"")
    if len(head) < 9 or head[2:4] != b"\5\0":
        raise Refused(Reason.DAMAGED, "its LZMA header is damaged")
    bits, dictionary = head[4], int.from_bytes(head[5:9], "little")
    # No distance reaches further back than the content is long, whatever the header asks for.
    dictionary = max(4096, min(dictionary, size))
    if dictionary > _MAX_DICTIONARY:
        raise Refused(Reason.UNSUPPORTED_COMPRESSION, f"LZMA with a dictionary of {dictionary} bytes")
    options = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary}
    options |= {"lc": bits % 9, "lp": bits // 9 % 5, "pb": bits // 45}
    try:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[options])
    except (lzma.LZMAError, ValueError) as exc:
        raise Refused(Reason.DAMAGED, "its LZMA header is damaged") from exc

    def stream() -> Iterator[bytes]:
        yield head[9:]
        yield from packed

    yield from _decoded(decoder, stream())


def _attempt(decompress: Callable[[bytes, int], bytes], piece: bytes) -> bytes:
    try:
        return decompress(piece, PIECE_BYTES)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as exc:  # bz2 raises OSError
        raise Refused(Reason.DAMAGED, "its compressed content is damaged") from exc


def _up_to_damage(inflater: "zlib._Decompress", pending: bytes) -> Iterator[bytes]:
    """What comes before it: zlib keeps nothing of a call that fails."""
    with contextlib.suppress(zlib.error):
        while True:
            yield inflater.decompress(pending, _STEP_BYTES)
            pending = inflater.unconsumed_tail


class Gunzip:
    """gzip, of one stream or several one after another, as pieces. taken: stored bytes that went into them so far."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._pending = b""
        self._read = 0
        self._streams = 1

    @property
    def taken(self) -> int:
        return self._read - len(self._pending)

    def __iter__(self) -> Iterator[bytes]:
        """Raises Refused."""
        yield from self._stream()
        while self._begins_another():
            yield from self._stream()

    def _stream(self) -> Iterator[bytes]:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not inflater.eof:
            self._fill()
            before = inflater.copy()
            try:
                piece = inflater.decompress(self._pending, PIECE_BYTES)
            except zlib.error as exc:
                yield from _up_to_damage(before, self._pending)
                raise Refused(Reason.DAMAGED_PACK, "its gzip stream is damaged") from exc
            if not self._pending and not piece:
                raise Refused(Reason.TRUNCATED_PACK, "its gzip stream ends too early")
            self._pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            yield piece

    def _begins_another(self) -> bool:
        """Zeros are padding; what else follows the last stream is passed over, as gzip does.

        Many streams of a few bytes each would take long.
        """
        self._streams += 1
        if self._streams > _FREE_STREAMS + self.taken // 1024:
            raise Refused(Reason.DAMAGED_PACK, f"more than {_FREE_STREAMS} gzip streams of less than a kilobyte")
        while self._fill():
            self._pending = self._pending.lstrip(b"\0")
            if self._pending:
                if len(self._pending) == 1:
                    self._pending += self._source.read(1)
                    self._read += len(self._pending) - 1
                return self._pending.startswith(b"\x1f\x8b")
        return False

    def _fill(self) -> bool:
        if not self._pending:
            self._pending = self._source.read(INPUT_BYTES)
            self._read += len(self._pending)
        return bool(self._pending)
