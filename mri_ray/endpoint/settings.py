"""What the endpoint is told: bundles, limits, keys and where jobs may read and write. Imports neither Ray nor torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from mri_ray.archive.storage import Location, StorageConfig
from mri_ray.decode.settings import DecodeConfig, PackConfig
from mri_ray.errors import ConfigError

MIB = 2**20


def _above(config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not least < value < math.inf:
            raise ConfigError(f"{name}: must be above {least:g} and finite, got {value!r}")


def _decode() -> DecodeConfig:
    """An answer is waited for, and many share the memory: less than batch takes on, but the same pictures."""
    pack = PackConfig(max_members=5_000, max_bytes=2**30)
    return DecodeConfig(max_pixels=16_000_000, max_bytes=128 * MIB, max_frames=1_000, timeout_s=10.0, pack=pack)


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What one replica takes on before it refuses.

    body_mb: of one request, json_mb: of a tensor request's JSON (413). body_s: until its last byte is here, stall_s:
    without any byte (408). request_s: until it is answered (503). concurrent: requests computed or waiting at once,
    held_mb: bytes of their bodies together, held_slices: prepared slices; beyond, 503 with Retry-After: retry_after_s.
    slices: of one request, heat_maps: of one that asks for them (413). per_minute: requests of one key (429), None: as
    many as it likes.
    """

    body_mb: float = 64
    json_mb: float = 4
    body_s: float = 60
    stall_s: float = 10
    request_s: float = 60
    concurrent: int = 128
    held_mb: float = 512
    retry_after_s: int = 1
    slices: int = 2_000
    held_slices: int = 10_000
    heat_maps: int = 200
    per_minute: float | None = None

    def __post_init__(self) -> None:
        _above(self, 0, "body_mb", "body_s", "stall_s", "request_s", "concurrent", "held_mb", "retry_after_s")
        _above(self, 0, "json_mb", "slices", "held_slices", "heat_maps")
        if self.per_minute is not None:
            _above(self, 0, "per_minute")
        if self.held_mb < self.body_mb:
            raise ConfigError(f"held_mb: must be at least body_mb ({self.body_mb:g}), got {self.held_mb:g}")
        if self.held_slices < self.slices:
            raise ConfigError(f"held_slices: must be at least slices ({self.slices}), got {self.held_slices}")


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """Who may ask. required=False answers requests over the loopback interface alone, to whoever sends them; None: keys
    are required, but by `jobs.serve`, which hears that interface only.

    jwt_algorithms: of tokens that are taken beside keys, where a key to verify them is set; jwt_audience, jwt_issuer:
    what they must say. See `endpoint.keys` for where keys come from.
    """

    required: bool | None = None
    jwt_algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA", "HS256")
    jwt_audience: str = "mri_ray"
    jwt_issuer: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How requests are computed together. size: pictures at most, None: what suits the device, 8 on a CPU and 128 on a
    GPU; wait_ms: how long the first may wait for others.
    """

    size: int | None = None
    wait_ms: float = 0

    def __post_init__(self) -> None:
        if self.size is not None:
            _above(self, 0, "size")
        _above(self, -1e-9, "wait_ms")


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """Batch jobs over HTTP. Nothing may be read or written but below these prefixes; without any there are no jobs.

    timeout_s: until Ray's job API has answered (504).
    """

    archives: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    address: str | None = None  # of Ray's job API; None: this cluster's
    timeout_s: float = 30

    def __post_init__(self) -> None:
        _above(self, 0, "timeout_s")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """One of the bundles that answer. share: of the traffic, beside the others'; shadow: asked, not believed."""

    uri: str
    share: float = 1.0
    shadow: bool = False

    def __post_init__(self) -> None:
        _above(self, -1e-9, "share")


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Which bundles answer: all that `user_config` holds, and what changes while the endpoint runs."""

    bundles: tuple[BundleConfig, ...]

    def __post_init__(self) -> None:
        if not any(one.share > 0 and not one.shadow for one in self.bundles):
            raise ConfigError("bundles: at least one must have a share of the traffic and be no shadow")
        if len({one.uri for one in self.bundles}) < len(self.bundles):
            raise ConfigError("bundles: each must be named once")


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Answers to studies that DICOMweb brought. uri: where any replica finds them, None: studies are not taken in.

    keep_hours: how long. parts: instances of one request at most.
    """

    uri: str | None = None
    keep_hours: float = 72
    parts: int = 4096

    def __post_init__(self) -> None:
        _above(self, 0, "keep_hours", "parts")


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """Whether what comes still looks like what the bundle was made on. window: of the last slices, in each replica.

    least: slices below which nothing is said. watch, drifted: population stability indices from which it is.
    """

    window: int = 1000
    least: int = 200
    watch: float = 0.1
    drifted: float = 0.25

    def __post_init__(self) -> None:
        _above(self, 0, "window", "least", "watch", "drifted")
        if self.least > self.window or self.watch > self.drifted:
            raise ConfigError(
                f"least: must be at most window, and watch at most drifted, got {self.least} of {self.window}, "
                f"{self.watch:g} and {self.drifted:g}"
            )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """All that a replica is told but its bundles. threads: that compute; decoders: that decode."""

    name: str = "mri_ray"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "torch", "openvino", "ncnn"] = "auto"
    threads: int = 1
    decoders: int = 2
    batch: BatchConfig = field(default_factory=BatchConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    decode: DecodeConfig = field(default_factory=_decode)
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        _above(self, 0, "threads", "decoders")
        for prefix in (
            *((self.results.uri,) if self.results.uri else ()),
            *self.jobs.archives,
            *self.jobs.bundles,
            *self.jobs.outputs,
        ):
            Location.of(prefix, self.storage)  # raises ConfigError
