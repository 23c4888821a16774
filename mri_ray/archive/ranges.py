"""A stored object as a seekable reader that fetches what is asked for, block by block."""

import errno
import io
from collections.abc import Callable

BLOCK_BYTES = 4 * 2**20  # one request each: enough that its round trip does not matter
_BLOCKS = 2  # a zip's directory stands at its end: it and the members being read do not displace each other
_BUFFER_BYTES = 128 * 2**10  # for small reads, which then cost no Python


def changed(uri: str, when: str = "while it was read") -> OSError:
    return OSError(errno.ESTALE, f"changed {when}", uri)


def buffered(raw: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(raw, _BUFFER_BYTES)


class RangedReader(io.RawIOBase):
    """Blocks of an object of `size` bytes, of which the first is there already.

    fetch(offset, length) gives exactly that part, or raises OSError; the reader then stands where it stood.
    """

    def __init__(self, size: int, first: bytes, fetch: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._fetch = fetch
        self._blocks = {0: first}  # the one used last stands last
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a position must not be negative")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        done = 0
        while done < len(view) and self._position + done < self._size:
            number, start = divmod(self._position + done, BLOCK_BYTES)
            piece = memoryview(self._block(number))[start : start + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._position += done
        return done

    def readall(self) -> bytes:
        data = bytearray(max(0, self._size - self._position))
        self.readinto(memoryview(data))
        return bytes(data)

    def close(self) -> None:
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            if len(self._blocks) == _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            offset = number * BLOCK_BYTES
            block = self._fetch(offset, min(BLOCK_BYTES, self._size - offset))
        self._blocks[number] = block
        return block
