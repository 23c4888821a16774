"""How object stores are reached, and how long results stay there.

Credentials are not set here: they come from the usual AWS chain of each process.
"""

import os
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from mri_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Settings of the S3 client; a local folder uses `threads` only.

    Raises ConfigError for values that cannot work.
    """

    endpoint: str | None = None  # None: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then the AWS profile
    region: str | None = None  # None: AWS_REGION, AWS_DEFAULT_REGION, then the AWS profile
    anonymous: bool = False  # send no credentials: for public buckets
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retries: int = 3  # further tries after the first, for transient errors
    threads: int = 16  # reads at once

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            _check_endpoint("endpoint", self.endpoint)
        for name in ("connect_timeout_s", "read_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: must be above 0 seconds, got {getattr(self, name)!r}")
        if self.retries < 0:
            raise ConfigError(f"retries: must be 0 or more, got {self.retries!r}")
        if self.threads < 1:
            raise ConfigError(f"threads: must be 1 or more, got {self.threads!r}")

    def with_environment(self) -> "StorageConfig":
        """The same settings with endpoint and region from this process's environment where they are not set.

        So a setting of the driver's environment reaches every node with the object; credentials do not.
        """
        endpoint = self.endpoint or _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        region = self.region or _first("AWS_REGION", "AWS_DEFAULT_REGION")
        return replace(self, endpoint=endpoint, region=region)


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """How much of earlier scorings stays below an output; None: all of it. What is current, or worked on, always stays.

    generations: with the current one. runs: of each generation, the last ones, with their snapshots.
    """

    generations: int | None = None
    runs: int | None = 7

    def __post_init__(self) -> None:
        for name in ("generations", "runs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, or null to keep all, got {value}")


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _check_endpoint(name: str, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.username or parts.password:
        raise ConfigError(f"{name}: must hold no user or password (credentials come from the AWS chain)")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{name}: must be http://host[:port] or https://host[:port], got {endpoint!r}")
