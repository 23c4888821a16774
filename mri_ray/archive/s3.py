"""Objects below a prefix of an S3 bucket, on AWS or any server that speaks its protocol.

s3fs lists, writes and deletes. Many small objects are read by obstore: one request each, at a fraction of the
processor time of an s3fs read, and threads run in parallel. Tables are read by pyarrow.fs.
"""

import asyncio
import errno
import io
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import obstore
import obstore.exceptions
import pyarrow as pa
import pyarrow.fs
import s3fs
from aiohttp import ClientError as BodyError
from botocore import exceptions as boto  # type: ignore[import-untyped]
from fsspec.asyn import sync

from mri_ray.archive import listing, ranges, s3_errors
from mri_ray.archive.s3_client import Client, client_of, pause
from mri_ray.archive.settings import StorageConfig
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveNotFound

_PART_BYTES = 64 * 2**20  # larger objects are sent in parts of this size
_FAILURES = (OSError, boto.BotoCoreError, BodyError)
_BROKEN_BODY = (BodyError, boto.IncompleteReadError, boto.HTTPClientError, TimeoutError)
_TAKEN = ("PreconditionFailed", "412")
_COMPLETED = ("NoSuchUpload",)  # or aborted: a repeated request finds that the parts were put together
_BEYOND = ("InvalidRange", "416")
_CONFLICT = ("ConditionalRequestConflict", "409")  # another conditional write of this key is under way
_WRITE = "write"  # the metadata that names the write an object is of


class S3Store:
    """The objects below one prefix. Keys are what follows the prefix and its "/"."""

    def __init__(self, bucket: str, prefix: str, config: StorageConfig) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.config = config

    @property
    def _client(self) -> Client:
        return client_of(self.bucket, self.config)

    def check(self, *, must_exist: bool) -> None:
        page = self._call("list_objects_v2", Prefix=self._key_below(), MaxKeys=1)
        if must_exist and not page.get("Contents") and not (self.prefix and self.exists("")):
            raise ArchiveNotFound(f"no object below this prefix: {self._uri()}{self._at()}")

    def batches(self, denied: Callable[[str], None] | None = None) -> Iterator[pa.RecordBatch]:
        return listing.in_key_order(self._own_pages(), self._uri())

    def keys(self, prefix: str) -> list[str]:
        start = len(self._key_below())
        found = [item["Key"][start:] for page in self._pages(prefix) for item in page if not _is_folder_marker(item)]
        return sorted(found, key=str.encode)

    def read(self, key: str) -> bytes:
        """One GET, so whole even while the object is being replaced."""
        return self._get(key)[0]

    def open(self, key: str, etag: str | None = None) -> io.BufferedReader:
        """One GET a block. Each answer names the version it is of, so that a replaced object is noticed."""
        first, size, version = self._block(key, 0, ranges.BLOCK_BYTES)
        self._check_listed(key, etag, version)

        def fetch(offset: int, length: int) -> bytes:
            data, *found = self._block(key, offset, length)
            if found != [size, version]:
                raise ranges.changed(self._uri(key))
            return data

        return ranges.buffered(ranges.RangedReader(size, first, fetch))

    def fetch(self, key: str, etag: str | None = None) -> bytes:
        """As `read`, for many small objects. What fails is read once more the thorough way, with its retries.

        Raises OSError with ESTALE when it is not the object that was listed with this etag.
        """
        whole = self._key(key)
        if whole == whole.strip("/"):  # obstore would ask for a key without the slash
            try:
                found = obstore.get(self._client.quick, whole)
                if etag is None or _plain(found.meta.get("e_tag")) == etag:
                    return bytes(found.bytes())
            except (obstore.exceptions.BaseError, ValueError, *_FAILURES):  # ValueError: a key that is no path to it
                pass
        data, answer = self._get(key)
        self._check_listed(key, etag, answer.get("ETag"))
        return data

    def write(self, key: str, data: bytes, *, if_absent: bool) -> bool:
        return self._write(key, partial(self._put, self._key(key), data, if_absent=if_absent))

    def write_file(self, key: str, source: str, *, if_absent: bool) -> bool:
        return self._write(key, partial(self._send, self._key(key), source, if_absent=if_absent))

    def _write(self, key: str, attempt_it: Callable[[dict[str, str]], None]) -> bool:
        """attempt_it is given the object's metadata: by them a repeated request finds what the first has stored."""
        metadata = {_WRITE: uuid.uuid4().hex}
        for attempt in range(self.config.retries + 1):
            try:
                attempt_it(metadata)
            except _FAILURES as exc:
                code = s3_errors.code_of(exc)
                if code in _TAKEN + _COMPLETED:
                    if self._metadata(key).get(_WRITE) == metadata[_WRITE]:
                        return True
                    if code in _TAKEN:
                        return False
                if code not in _CONFLICT or attempt == self.config.retries:
                    raise s3_errors.as_archive_error(exc, self._uri(key), self.config) from exc
                time.sleep(pause(attempt))
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def _metadata(self, key: str) -> dict[str, str]:
        try:
            return self._call("head_object", Key=self._key(key)).get("Metadata", {})
        except ArchiveError:  # gone again, or out of reach: nothing tells that it is ours
            return {}

    def exists(self, key: str) -> bool:
        try:
            self._client.fs.call_s3("head_object", Bucket=self.bucket, Key=self._key(key))
        except FileNotFoundError:
            return False
        except _FAILURES as exc:
            raise s3_errors.as_archive_error(exc, self._uri(key), self.config) from exc
        return True

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=self._key(key))

    def delete_all(self) -> None:
        if not self.prefix:
            raise ArchiveError(f"delete_all: must name a prefix, not a whole bucket, got {self._uri()}")
        for page in self._pages(""):
            if not page:
                continue
            keys = [{"Key": item["Key"]} for item in page]
            answer = self._call("delete_objects", Delete={"Objects": keys, "Quiet": True})
            if failed := answer.get("Errors"):
                first = failed[0]
                raise ArchiveDenied(f"deleting failed ({first.get('Code')}): s3://{self.bucket}/{first.get('Key')}")

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return self._client.arrow, f"{self.bucket}/{self.prefix}".rstrip("/")

    def _block(self, key: str, offset: int, length: int) -> tuple[bytes, int, str | None]:
        """Part of an object, its size and version; nothing of one that ends before the part."""
        try:
            data, answer = self._get(key, (offset, length))
        except OSError as exc:
            if s3_errors.code_of(exc.__cause__ or exc) in _BEYOND:
                return b"", 0, None
            raise
        total = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(total) if total.isdecimal() else offset + answer["ContentLength"]
        if len(data) != min(length, size - offset):
            raise OSError(errno.EIO, "the server does not give parts of objects", self._uri(key))
        return data, size, answer.get("ETag")

    def _check_listed(self, key: str, etag: str | None, found: str | None) -> None:
        """Raises OSError with ESTALE where an answer is not of the version that was listed."""
        if etag is None or _plain(found) == etag:
            return
        # Or the server's answers and listings name one version in two ways: its listing of today tells.
        try:
            page = self._call("list_objects_v2", Prefix=self._key(key), MaxKeys=1)
        except ArchiveError as exc:
            raise OSError(errno.EIO, f"another version than the one listed, and its listing failed: {exc}") from exc
        if not any(item["Key"] == self._key(key) and _plain(item["ETag"]) == etag for item in page.get("Contents", [])):
            raise ranges.changed(self._uri(key), "since it was listed")

    def _get(self, key: str, part: tuple[int, int] | None = None) -> tuple[bytes, dict[str, Any]]:
        tries = self.config.retries + 1
        try:
            client = self._client
            return sync(client.fs.loop, _get, client.fs, self.bucket, self._key(key), tries, part)
        except _FAILURES as exc:
            raise s3_errors.as_os_error(exc, self._uri(key), self.config) from exc

    def _own_pages(self) -> Iterator[pa.RecordBatch]:
        start = len(self._key_below())
        empty = True
        for page in self._pages(""):
            empty = empty and not page
            yield listing.batch(
                (item["Key"][start:], item["Size"], _plain(item["ETag"]))
                for item in page
                if not _is_folder_marker(item)
            )
        if empty:
            raise ArchiveNotFound(f"no object below this prefix: {self._uri()}{self._at()}")

    def _pages(self, prefix: str) -> Iterator[list[dict[str, Any]]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._key_below() + prefix, MaxKeys=listing.PAGE, **token)
            yield page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _put(self, key: str, data: bytes, metadata: dict[str, str], *, if_absent: bool) -> None:
        fs = self._client.fs
        if len(data) > _PART_BYTES:
            mode = "create" if if_absent else "overwrite"
            where = f"{self.bucket}/{key}"
            fs.pipe_file(where, data, chunksize=_PART_BYTES // 2, mode=mode, Metadata=metadata)
        else:
            only_if = {"IfNoneMatch": "*"} if if_absent else {}
            fs.call_s3("put_object", Bucket=self.bucket, Key=key, Body=data, Metadata=metadata, **only_if)

    def _send(self, key: str, source: str, metadata: dict[str, str], *, if_absent: bool) -> None:
        mode = "create" if if_absent else "overwrite"
        where = f"{self.bucket}/{key}"
        self._client.fs.put_file(source, where, chunksize=_PART_BYTES // 2, mode=mode, Metadata=metadata)

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._client.fs.call_s3(method, Bucket=self.bucket, **arguments)
        except _FAILURES as exc:
            raise s3_errors.as_archive_error(exc, self._uri(arguments.get("Key", "")), self.config) from exc

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key) if part)

    def _key_below(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{self._key(key)}".rstrip("/")

    def _at(self) -> str:
        return f" at {self.config.endpoint}" if self.config.endpoint else ""


async def _get(
    fs: s3fs.S3FileSystem, bucket: str, key: str, tries: int, part: tuple[int, int] | None
) -> tuple[bytes, dict[str, Any]]:
    """An object, or its part (offset, length), and the server's answer."""
    only = {} if part is None else {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"}
    for attempt in range(tries):
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **only)
        try:
            async with answer["Body"] as body:
                if part is not None and answer["ContentLength"] > part[1]:
                    return b"", answer  # the whole instead of the part: it may not fit in memory
                return await body.read(), answer
        except _BROKEN_BODY:
            if attempt + 1 == tries:
                raise
            await asyncio.sleep(pause(attempt))
    raise AssertionError("the last attempt returns or raises")


def _plain(etag: str | None) -> str:
    """Without quotes and the mark of a weak one, which servers and what stands before them add and leave out."""
    return (etag or "").removeprefix("W/").strip('"')


def _is_folder_marker(item: dict[str, Any]) -> bool:
    return item["Size"] == 0 and item["Key"].endswith("/")
