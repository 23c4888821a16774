"""Several archives as one, of which each is a folder: what is learned from them together is listed and read as one.

A folder is named by its archive's number, not by its URI, so that copied archives keep the ids of their objects.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from mri_ray.archive.storage import Location, StorageConfig
from mri_ray.records import LISTING


@dataclass(frozen=True)
class Archives:
    """What reading an archive needs of `Location`, with the same promises. None: a folder in which nothing lies."""

    parts: tuple[Location | None, ...]

    @property
    def uri(self) -> str:
        """For messages and digests; it leads nowhere."""
        return " + ".join(part.uri if part else "nothing" for part in self.parts)

    def uri_of(self, key: str) -> str:
        part, rest = self._at(key)
        return part.uri_of(rest)

    def check(self) -> None:
        for part in filter(None, self.parts):
            part.check()

    def list(self, denied: Callable[[str], None] | None = None) -> Iterator[pa.RecordBatch]:
        """Ascending by key, as the folders' names have as many digits each."""
        for name, part in zip(self._names, self.parts, strict=True):
            if part is not None:
                deny = None if denied is None else partial(_within, denied, name)
                for batch in part.list(deny):
                    key = pc.binary_join_element_wise(name, batch["key"], "/")
                    yield pa.RecordBatch.from_arrays([key, batch["size"], batch["etag"]], schema=LISTING)

    def open(self, key: str = "", etag: str | None = None) -> BinaryIO:
        part, rest = self._at(key)
        return part.open(rest, etag)

    def read_many(self, keys: Iterable[str], threads: int | None = None) -> Iterator[bytes | OSError]:
        for name, mine in groupby(keys, key=lambda key: key.partition("/")[0]):
            part, _ = self._at(f"{name}/")
            yield from part.read_many((key.partition("/")[2] for key in mine), threads)

    def read_listed(self, listed: Iterable[tuple[str, str]]) -> Iterator[bytes | OSError]:
        for name, mine in groupby(listed, key=lambda entry: entry[0].partition("/")[0]):
            part, _ = self._at(f"{name}/")
            yield from part.read_listed((key.partition("/")[2], etag) for key, etag in mine)

    @property
    def _names(self) -> tuple[str, ...]:
        digits = len(str(len(self.parts) - 1))
        return tuple(f"{number:0{digits}}" for number in range(len(self.parts)))

    def _at(self, key: str) -> tuple[Location, str]:
        name, _, rest = key.partition("/")
        part = self.parts[int(name)]
        assert part is not None, "nothing was listed there"
        return part, rest


Archive = Location | Archives


def _within(denied: Callable[[str], None], name: str, folder: str) -> None:
    denied(f"{name}/{folder}")


def archive_of(uris: str | Sequence[str | None], config: StorageConfig | None = None) -> Archive:
    """The archive of one URI, or of several as one."""
    if isinstance(uris, str):
        return Location.of(uris, config)
    parts = [None if uri is None else Location.of(uri, config) for uri in uris]
    return parts[0] if len(parts) == 1 and parts[0] is not None else Archives(tuple(parts))


def keys_of(archive: Archive, uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """The inverse of `uri_of`, for URIs of objects of the archive."""
    if isinstance(archive, Location):
        return pc.utf8_slice_codeunits(uris, start=len(archive.uri) + 1)
    keys = uris
    for name, part in zip(archive._names, archive.parts, strict=True):
        if part is not None:
            key = pc.binary_join_element_wise(name, pc.utf8_slice_codeunits(uris, start=len(part.uri) + 1), "/")
            keys = pc.if_else(pc.starts_with(uris, f"{part.uri}/"), key, keys)
    return keys


def titles(archive: Archive, folders: Sequence[str]) -> list[str]:
    """What people call the folders: of several archives each one's own last folder, numbered where two are alike."""
    if isinstance(archive, Location):
        return list(folders)
    last = [
        next((text for text in reversed(part.uri.split("/")) if text), "") if part else "" for part in archive.parts
    ]
    told = dict(zip(archive._names, last, strict=True))
    return [
        told[folder]
        if told[folder] and last.count(told[folder]) == 1
        else f"{told[folder]} ({int(folder) + 1})".strip()
        for folder in folders
    ]


def source_of(archive: Archive, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """The number of the archive that each key is of, int32."""
    if isinstance(archive, Location):
        return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int32()), len(keys))])
    return pc.list_element(pc.split_pattern(keys, "/", max_splits=1), 0).cast(pa.int32())


def within_source(archive: Archive, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """The keys below the root of the archive that each is of."""
    return keys if isinstance(archive, Location) else pc.replace_substring_regex(keys, "^[0-9]+/", "")
