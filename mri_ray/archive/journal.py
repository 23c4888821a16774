"""The numbered listings of a manifest: a chain that only grows, each written whole, and only if its number is free."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError

_VERSION = 1
_KEY = re.compile(r"listings/(\d{6,})\.json")


@dataclass(frozen=True)
class Shard:
    """A fixed set of objects; `bytes` is the sum of their sizes."""

    digest: str
    objects: int
    bytes: int


@dataclass(frozen=True)
class Listing:
    """One link: the shards it added, and the digest of the gone file (None when nothing is gone)."""

    retry: bool
    shards: tuple[Shard, ...]
    gone: str | None


@dataclass(frozen=True)
class Chain:
    """All listings up to a number, the first at index 0."""

    listings: tuple[Listing, ...] = ()

    @property
    def number(self) -> int:
        return len(self.listings)

    @property
    def gone(self) -> str | None:
        return self.listings[-1].gone if self.listings else None

    @property
    def shards(self) -> tuple[Shard, ...]:
        return tuple(shard for listing in self.listings for shard in listing.shards)

    @property
    def first_shards(self) -> list[Shard]:
        """The shards that hold every version exactly once: without retries."""
        return [shard for listing in self.listings if not listing.retry for shard in listing.shards]

    @property
    def last_update(self) -> int:
        """Number of the last listing that looked at the archive; retries do not."""
        return max((number for number, listing in enumerate(self.listings, 1) if not listing.retry), default=0)

    def retried_after(self, number: int) -> list[Shard]:
        return [shard for listing in self.listings[number:] if listing.retry for shard in listing.shards]


def read(location: Location, number: int | None = None) -> Chain:
    """The chain up to a listing (None: the latest). Raises ArchiveError when a link is missing or damaged."""
    there = {int(match[1]) for match in map(_KEY.fullmatch, location.keys("listings/")) if match}
    last = max(there, default=0) if number is None else number
    missing = set(range(1, last + 1)) - there
    if missing:
        raise ArchiveError(
            f"manifest: listings must be numbered without a gap, {_key(min(missing))} is missing, at {location.uri}"
        )
    keys = [_key(number) for number in range(1, last + 1)]
    links = zip(keys, bodies(location, keys), strict=True)
    return Chain(tuple(_parse(body, f"{key} at {location.uri}") for key, body in links))


def read_past(location: Location, chain: Chain) -> Chain:
    """Read again after another run took the next number: whoever loses a number sees that some run has got ahead."""
    newer = read(location)
    if newer.number <= chain.number:
        taken = _key(chain.number + 1)
        raise ArchiveError(f"manifest: {taken} exists, but the store does not list it, at {location.uri}")
    return newer


def append(location: Location, chain: Chain, listing: Listing) -> Chain | None:
    """Write the listing that follows a chain -> the longer chain; None when another run has taken its number."""
    body = json.dumps({"version": _VERSION, **asdict(listing)}, indent=1).encode()
    written = location.write(_key(chain.number + 1), body, if_absent=True)
    return Chain((*chain.listings, listing)) if written else None


def bodies(location: Location, keys: list[str]) -> Iterator[bytes]:
    """Contents of files that a listing names, in order. Raises ArchiveError for one that cannot be read."""
    for key, body in zip(keys, location.read_many(keys), strict=True):
        if isinstance(body, OSError):
            rule = "what a listing names must be there to be read"
            raise ArchiveError(f"manifest: {rule}, got {type(body).__name__} for {key} at {location.uri}") from body
        yield body


def _key(number: int) -> str:
    return f"listings/{number:06d}.json"


def _parse(body: bytes, where: str) -> Listing:
    try:
        value: dict[str, Any] = json.loads(body)
        version = int(value["version"])
        shards = tuple(Shard(**shard) for shard in value["shards"])
        listing = Listing(retry=value["retry"], shards=shards, gone=value["gone"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ArchiveError(f"manifest: a listing must be as this package writes it, got {exc!r} in {where}") from exc
    if version > _VERSION:
        raise ArchiveError(f"manifest: version at most {_VERSION}, got {version} in {where}")
    return listing
