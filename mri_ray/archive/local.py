"""A folder on local disk or a mounted share, with the promises of an object store."""

import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from mri_ray.archive import listing, ranges
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveFull, ArchiveNotFound

_PARTIAL = ".mri_ray-partial-"  # writes under way; never listed
_CHUNK = 8192
_FULL = (errno.ENOSPC, errno.EDQUOT)

Denied = Callable[[str], None]  # called with the key of what may not be looked into


class LocalStore:
    """The objects below one folder. Keys are paths relative to it, parts joined by "/"."""

    def __init__(self, root: str) -> None:
        self.root = root

    def check(self, *, must_exist: bool) -> None:
        if os.path.lexists(self.root):
            self._check_readable()
            if not must_exist:
                self._check_writable(self.root)
        elif must_exist:
            above = self._nearest()
            if os.path.isdir(above) and not _may(above, os.X_OK):
                raise ArchiveDenied(f"no permission to enter file://{above}: file://{self.root}")
            raise ArchiveNotFound(f"no such file or folder: file://{self.root} (it exists up to {above})")
        else:
            self._check_creatable()

    def batches(self, denied: Denied | None = None) -> Iterator[pa.RecordBatch]:
        """All files, ascending by the bytes of their keys. denied: as in `Location.list`."""
        self._check_folder()
        files = self._walk("", (_inode(self.root),), denied)
        with _explained("listing", self.root):
            while entries := list(islice(files, listing.PAGE)):
                yield listing.batch(entries)

    def keys(self, prefix: str) -> list[str]:
        folder = prefix[: prefix.rfind("/") + 1]
        path = self._path(folder.rstrip("/"))
        if not os.path.isdir(path):
            return []
        with _explained("listing", path):
            return [key for key, _, _ in self._walk(folder, (_inode(path),)) if key.startswith(prefix)]

    def read(self, key: str) -> bytes:
        return self.fetch(key)

    def fetch(self, key: str, etag: str | None = None) -> bytes:
        with _SteadyFile(self._path(key), etag) as file:
            return file.readall()

    def open(self, key: str, etag: str | None = None) -> io.BufferedReader:
        return ranges.buffered(_SteadyFile(self._path(key), etag))

    def write(self, key: str, data: bytes, *, if_absent: bool) -> bool:
        return self._write(key, io.BytesIO(data), if_absent=if_absent)

    def write_file(self, key: str, source: str, *, if_absent: bool) -> bool:
        with open(source, "rb") as file:
            return self._write(key, file, if_absent=if_absent)

    def _write(self, key: str, source: BinaryIO, *, if_absent: bool) -> bool:
        path = self._path(key)
        folder = os.path.dirname(path)
        if if_absent and os.path.lexists(path):
            return False
        partial = os.path.join(folder, f"{_PARTIAL}{uuid.uuid4().hex}")
        with _explained("writing", path):
            os.makedirs(folder, exist_ok=True)
            try:
                _write_synced(partial, source)
                return _publish(partial, path, if_absent=if_absent)
            finally:
                _remove(partial)

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained("deleting", path):
            _remove(path)

    def delete_all(self) -> None:
        if os.path.dirname(self.root) == self.root:
            raise ArchiveError(f"delete_all: must name a folder, not a whole file system, got file://{self.root}")
        with _explained("deleting", self.root), suppress(FileNotFoundError):
            shutil.rmtree(self.root)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.LocalFileSystem(), self.root

    def _path(self, key: str) -> str:
        """Where a key lies. A key never leads out of the root."""
        if not key:
            return self.root
        if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
            raise OSError(errno.EINVAL, "a key is a relative path without empty, '.' or '..' parts", key)
        return os.path.join(self.root, key)

    def _walk(
        self, folder: str, above: tuple[tuple[int, int], ...], denied: Denied | None = None
    ) -> Iterator[listing.Entry]:
        """`folder` is "" or ends in "/". `above` holds its ancestors: a link to one of them is a loop."""
        try:
            yield from self._entries(folder, above, denied)
        except PermissionError:
            if denied is None or not folder:
                raise
            denied(folder.removesuffix("/"))

    def _entries(
        self, folder: str, above: tuple[tuple[int, int], ...], denied: Denied | None
    ) -> Iterator[listing.Entry]:
        for name in _names(os.path.join(self.root, folder), denied and (lambda name: denied(folder + name))):
            key = folder + name
            path = os.path.join(self.root, key)
            try:
                if name.endswith("/"):
                    inode = _inode(path)
                    if inode not in above:
                        yield from self._walk(key, (*above, inode), denied)
                elif (entry := _entry(key, path, denied)) is not None:
                    yield entry
            except FileNotFoundError:
                continue  # gone since its folder was read

    def _check_readable(self) -> None:
        if os.path.isdir(self.root):
            if not _may(self.root, os.R_OK | os.X_OK):
                raise ArchiveDenied(f"no permission to list this folder: file://{self.root}")
        elif not os.path.exists(self.root):
            raise ArchiveNotFound(f"a link that leads nowhere: file://{self.root}")
        elif not _may(self.root, os.R_OK):
            raise ArchiveDenied(f"no permission to read this file: file://{self.root}")

    def _check_folder(self) -> None:
        self.check(must_exist=True)
        if not os.path.isdir(self.root):
            raise ArchiveNotFound(f"must be a folder, got a file: file://{self.root}")

    def _check_creatable(self) -> None:
        above = self._nearest()
        if not os.path.isdir(above):
            raise ArchiveNotFound(f"cannot be created, since file://{above} is a file: file://{self.root}")
        self._check_writable(above)

    def _check_writable(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise ArchiveNotFound(f"must be a folder to be written to, got a file: file://{folder}")
        if not _may(folder, os.W_OK | os.X_OK):  # also where the whole file system is read-only
            raise ArchiveDenied(f"no permission to write in file://{folder}: file://{self.root}")

    def _nearest(self) -> str:
        above = os.path.dirname(self.root)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        return above


class _SteadyFile(io.FileIO):
    """A file that must not be written to while it is read; one put in its place leaves it as it is.

    etag: what it was listed with; another file in its place is refused.
    """

    def __init__(self, path: str, etag: str | None = None) -> None:
        super().__init__(path)
        self._state = self._current()
        if etag is not None and etag != self._state:
            self.close()
            raise ranges.changed(f"file://{path}", "since it was listed")

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        self._check()
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self._check()
        return data

    def _check(self) -> None:
        if self._current() != self._state:
            raise ranges.changed(f"file://{self.name}")

    def _current(self) -> str:
        return _etag(os.fstat(self.fileno()))


@contextmanager
def _explained(doing: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
            where = path if _PARTIAL in str(exc.filename) else exc.filename or path
            raise ArchiveDenied(f"{doing} needs permission: file://{where}: {exc.strerror}") from exc
        if exc.errno in _FULL:
            rule = "needs space; make some there, and the same line does the rest"
            raise ArchiveFull(f"{doing} {rule}: file://{path}: {exc.strerror}") from exc
        raise ArchiveError(f"{doing} failed: file://{path}: {exc}") from exc


def _names(path: str, unnamed: Callable[[str], None] | None = None) -> Iterator[str]:
    """Names in a folder, those of folders with a closing "/", in the order of the keys they begin.

    unnamed: is told of names that are no UTF-8, which no key can hold; without it they raise ArchiveError.
    Held and sorted by Arrow: a folder of a million files takes some 50 MB.
    """
    chunks: list[pa.Array] = []
    names: list[str] = []
    with os.scandir(path) as found:
        for item in found:
            if item.name.startswith(_PARTIAL):
                continue
            shown = os.fsencode(item.name).decode("utf-8", "backslashreplace")
            if unnamed is not None and shown != item.name:
                unnamed(shown)
                continue
            is_folder = item.is_dir(follow_symlinks=False) or (item.is_symlink() and os.path.isdir(item.path))
            names.append(f"{item.name}/" if is_folder else item.name)
            if len(names) == _CHUNK:
                chunks.append(_text(names, path))
                names = []
    chunks.append(_text(names, path))
    table = pa.chunked_array(chunks, pa.string()).combine_chunks()
    table = table.take(pc.sort_indices(table))
    for start in range(0, len(table), _CHUNK):
        yield from table.slice(start, _CHUNK).to_pylist()


def _text(names: list[str], path: str) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError as exc:
        raise ArchiveError(f"file names must be UTF-8, got {os.fsencode(exc.object)!r} in file://{path}") from exc


def _entry(key: str, path: str, denied: Denied | None) -> listing.Entry | None:
    try:
        found = os.stat(path)
    except PermissionError:
        if denied is None or not os.path.islink(path):
            raise  # it is its folder that may not be entered
        denied(key)
        return None
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        found = os.lstat(path)  # a link that leads nowhere is listed, so that its reading tells
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        return None  # a socket, pipe or device holds no object
    return key, found.st_size, _etag(found)


def _etag(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def _may(path: str, mode: int) -> bool:
    """As `os.access`, but for the user as whom files will be opened."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _inode(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _write_synced(path: str, source: BinaryIO) -> None:
    # Not tempfile: its files are readable by their owner only, and other nodes may run as other users.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)
        file.flush()
        os.fsync(file.fileno())


def _publish(partial: str, path: str, *, if_absent: bool) -> bool:
    if not if_absent:
        os.replace(partial, path)
        return True
    try:
        os.link(partial, path)  # unlike rename, fails when the name is taken
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise ArchiveError(f"write if absent: needs a file system with hard links: file://{path}") from exc
        raise
    return True


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
