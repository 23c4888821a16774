"""One way to name data, wherever it lies: a local path, file:///path or s3://bucket/prefix."""

import errno
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from mri_ray.archive.ahead import in_order
from mri_ray.archive.local import LocalStore
from mri_ray.archive.settings import StorageConfig
from mri_ray.errors import ArchiveFull, ConfigError

if TYPE_CHECKING:
    from mri_ray.archive.s3 import S3Store

__all__ = ["Location", "StorageConfig"]

Keys = list[str]  # named here, since Location.list hides the built-in in annotations
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A place and what lies below it: objects named by keys, "folder/name" relative to the place.

    A plain value: it pickles without credentials or connections, which every process finds for itself. The key ""
    names the location itself, for one that is a single object. Safe to use from several threads.
    """

    uri: str  # normal form, without a closing "/": "file:///abs/path" or "s3://bucket/prefix"
    config: StorageConfig = field(default_factory=StorageConfig)

    @classmethod
    def of(cls, uri_or_path: str, config: StorageConfig | None = None) -> "Location":
        """The location of a path or URI. Nothing is percent-decoded. Raises ConfigError for any other scheme."""
        config = (config or StorageConfig()).with_environment()
        text = os.fspath(uri_or_path)
        if not text:
            raise ConfigError("location: must be a path, file:///path or s3://bucket/prefix, got ''")
        found = _SCHEME.fullmatch(text)
        scheme, rest = (found[1].lower(), found[2]) if found else ("", text)
        if scheme == "s3":
            bucket, _, prefix = rest.partition("/")
            if not bucket:
                raise ConfigError(f"location: must name a bucket, as s3://bucket/prefix, got {text!r}")
            return cls(f"s3://{bucket}/{prefix}".rstrip("/"), config)
        if scheme == "file" and not rest.startswith("/"):
            raise ConfigError(f"location: must be absolute, as file:///path, got {text!r}")
        if scheme not in ("", "file"):
            raise ConfigError(f"location: must be a path, file:///path or s3://bucket/prefix, got {text!r}")
        path = os.path.abspath(rest if scheme else os.path.expanduser(rest))
        return cls(f"file:///{path.lstrip('/')}", config)

    def __truediv__(self, part: str) -> "Location":
        return Location.of(self.uri_of(part), self.config)

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the URI: "labels.csv" of "s3://bucket/labels.csv"."""
        return self.uri.rpartition("/")[2]

    def uri_of(self, key: str) -> str:
        return f"{self.uri.removesuffix('/')}/{key}" if key else self.uri

    def check(self, *, must_exist: bool = True) -> None:
        """Whether it can be used, before any work starts.

        must_exist=False is for an output: a bucket that answers, or a folder that is there or can be made.
        Raises ArchiveNotFound, ArchiveDenied or ArchiveUnreachable, naming the URI and the cause.
        """
        self._store.check(must_exist=must_exist)

    def list(self, denied: Callable[[str], None] | None = None) -> Iterator[pa.RecordBatch]:
        """All objects as batches of `records.LISTING`, ascending by the bytes of the key.

        denied: is called with the key of every folder below the location that may not be looked into, and the listing
        goes on without it; None: that is an error. A bucket is listed whole or not at all.
        Names are held by Arrow, not as Python objects: those of one folder a level on local disk, those of one
        top-level folder on S3. Zero-byte keys ending in "/" (folder markers) are no objects. Raises as `check`.
        """
        return self._store.batches(denied)

    def keys(self, prefix: str = "") -> Keys:
        """Keys that begin with `prefix`, ascending; [] when there are none. For small listings only."""
        return self._store.keys(prefix)

    def read(self, key: str = "") -> bytes:
        """The whole object. Raises FileNotFoundError, PermissionError or another OSError."""
        return self._store.read(key)

    def open(self, key: str = "", etag: str | None = None) -> BinaryIO:
        """A seekable reader that fetches the object's parts as they are asked for; for one thread, to be closed.

        Raises as `read`, here and at every read: OSError with ESTALE too, when the object is replaced meanwhile (on a
        mounted share as far as it tells), or is not the one that was listed with this etag. Holds at most some 8 MiB.
        """
        return self._store.open(key, etag)

    def read_many(self, keys: Iterable[str], threads: int | None = None) -> Iterator[bytes | OSError]:
        """Objects in the order of the keys, read by threads that run ahead by at most twice their number.

        An object that cannot be read yields its error (as `read` would raise it) in its place.
        """
        fetch = self._store.fetch
        return in_order(lambda key: _attempt(fetch, key), keys, threads or self.config.threads)

    def read_listed(self, listed: Iterable[tuple[str, str]]) -> Iterator[bytes | OSError]:
        """As `read_many`, of (key, etag) as `list` gave them: one replaced since yields OSError with ESTALE."""
        fetch = self._store.fetch
        return in_order(lambda entry: _attempt(fetch, *entry), listed, self.config.threads)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Stores an object whole or not at all.

        With if_absent, returns False and changes nothing when something is there; of writers at once, one wins.
        Raises ArchiveError.
        """
        return self._store.write(key, data, if_absent=if_absent)

    def exists(self, key: str = "") -> bool:
        return self._store.exists(key)

    def delete(self, key: str = "") -> None:
        """Removes one object; none there is no error."""
        self._store.delete(key)

    def delete_all(self) -> None:
        """Removes everything below this location. Refuses a whole bucket or file system."""
        self._store.delete_all()

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """The place as a pyarrow file system and a path in it. Its pickle holds no credentials either."""
        return self._store.arrow()

    def read_table(self, key: str = "", columns: Keys | None = None) -> pa.Table:
        """A Parquet object, or some of its columns (then only their bytes are fetched). Raises as `read`."""
        if columns is None:
            return pq.ParquetFile(pa.BufferReader(self.read(key))).read()
        filesystem, path = self.arrow()
        with filesystem.open_input_file(f"{path}/{key}" if key else path) as file:
            return pq.ParquetFile(file, pre_buffer=True).read(columns)

    def write_table(
        self, key: str, table: pa.Table, *, if_absent: bool = False, row_group_size: int | None = None
    ) -> bool:
        """A table as one Parquet object (zstd), as `write`. row_group_size: rows that can be read by themselves."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
        return self.write(key, buffer.getvalue(), if_absent=if_absent)

    def write_batches(
        self,
        key: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        *,
        if_absent: bool = False,
        row_group_size: int | None = None,
    ) -> bool:
        """A table of any size as one Parquet object, as `write_table`; it is gathered on disk, not in memory.

        All row groups but the last hold row_group_size rows, however many the batches have.
        """
        with _space_for(key), tempfile.TemporaryDirectory(prefix="mri_ray-") as folder:
            path = os.path.join(folder, "table.parquet")
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in batches if row_group_size is None else _regrouped(batches, row_group_size):
                    writer.write_batch(batch, row_group_size)
            return self._store.write_file(key, path, if_absent=if_absent)

    def read_batches(self, key: str, rows: int) -> Iterator[pa.RecordBatch]:
        """A Parquet object, so many rows at a time. Raises as `read`."""
        filesystem, path = self.arrow()
        with filesystem.open_input_file(f"{path}/{key}") as file:
            yield from pq.ParquetFile(file).iter_batches(rows)

    @property
    def _store(self) -> "LocalStore | S3Store":
        if self.uri.startswith("s3://"):
            from mri_ray.archive.s3 import S3Store  # its clients are slow to import, and every process would

            bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
            return S3Store(bucket, prefix, self.config)
        return LocalStore(self.uri.removeprefix("file://"))


@contextmanager
def _space_for(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ArchiveFull(
            f"gathering {key} needs space on local disk; make some there, or set TMPDIR to where there is some: "
            f"{tempfile.gettempdir()}: {os.strerror(exc.errno)}"
        ) from exc


def _regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of so many, the last of fewer."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held).combine_chunks()
            yield from table.slice(0, rows).to_batches()
            held, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def _attempt(fetch: Callable[..., bytes], *what: str) -> bytes | OSError:
    try:
        return fetch(*what)
    except OSError as exc:
        return exc
