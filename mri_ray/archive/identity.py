"""Names that follow from content: object ids, version ids, row ids, digests of settings.

All are 32 hex digits. They depend on the key below the archive's root, never on the root, so a copied archive
keeps its ids.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

_BYTES = 16


def digest(*parts: str | bytes, key: bytes = b"") -> str:
    """Digest of a sequence of parts: 32 hex digits of BLAKE2b, keyed where a key (at most 64 bytes) is given.

    Parts are framed by their lengths, so ("ab", "c") and ("a", "bc") differ. Text is the same part as its UTF-8
    bytes.
    """
    state = hashlib.blake2b(digest_size=_BYTES, key=key)
    for part in parts:
        state.update(_framed(part))
    return state.hexdigest()


def object_id(key: str, secret: bytes = b"") -> str:
    """Names an object by its key below the archive's root; with a secret, nobody without it can test a guess."""
    return digest("object", key, key=secret)


def member_id(key: str, member: str, secret: bytes = b"") -> str:
    """Names an object in a pack by the pack's key and its path in it."""
    return digest("member", key, member, key=secret)


def version_id(key: str, size: int, etag: str, secret: bytes = b"") -> str:
    """Names one state of an object: another size or etag is another version."""
    return digest("version", key, str(size), etag, key=secret)


def version_bytes(versions: Iterable[tuple[str, int, str]], secret: bytes = b"") -> Iterator[bytes]:
    """`version_id` of many (key, size, etag), as 16 bytes instead of 32 digits, in half the time."""
    begun = hashlib.blake2b(_framed("version"), digest_size=_BYTES, key=secret)
    for key, size, etag in versions:
        state = begun.copy()
        state.update(_framed(key) + _framed(str(size)) + _framed(etag))
        yield state.digest()


def row_id(object_id: str, frame: int | None = None) -> str:
    """Names a slice: the object, and its frame; None where there is none."""
    return digest("row", object_id, *_optional(None if frame is None else str(frame)))


def digest_json(value: Any) -> str:
    """Digest of settings: dataclasses, mappings, sequences and scalars as canonical JSON.

    Key order does not matter; a tuple equals a list. Raises TypeError for what JSON cannot hold, NaN and infinity
    included.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return digest("json", text)


def _framed(part: str | bytes) -> bytes:
    data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    return len(data).to_bytes(8, "little") + data


def _optional(part: str | None) -> tuple[str, ...]:
    return ("0",) if part is None else ("1", part)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"digest_json: numbers must be finite, got {value!r}")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"digest_json: mapping keys must be text, got {list(value)!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=lambda item: (type(item).__name__, str(item)))
    raise TypeError(f"digest_json: {type(value).__name__} has no canonical JSON, got {value!r}")
