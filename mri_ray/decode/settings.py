"""What of an object is read, and how much of it the decoders take on before they refuse it."""

import math
from dataclasses import dataclass, field
from typing import Literal

from mri_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class NiftiConfig:
    """Which slices of a volume are read.

    axis: the plane of the slices after reorientation by the affine; `stored` takes the file's third axis as it is.
    first, last: part of the slices along that axis, from 0 (foot, right or back) to 1.
    volumes: of a series over time or directions.
    """

    axis: Literal["axial", "coronal", "sagittal", "stored"] = "axial"
    first: float = 0.0
    last: float = 1.0
    volumes: Literal["first", "all"] = "first"

    def __post_init__(self) -> None:
        for name, options in (("axis", ("axial", "coronal", "sagittal", "stored")), ("volumes", ("first", "all"))):
            if getattr(self, name) not in options:
                raise ConfigError(f"{name}: must be one of {', '.join(options)}, got {getattr(self, name)!r}")
        if not 0 <= self.first < self.last <= 1:
            raise ConfigError(f"first: must be from 0 to below last, last at most 1, got {self.first} to {self.last}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """Limits on one zip or tar with the packs within it, whole numbers of at least 1.

    max_members: its entries, folders included. max_bytes: of all its members, unpacked. max_ratio: bytes unpacked to
    packed, of a member beyond 64 MiB, and of the whole pack beyond 4 GiB. max_depth: packs within packs; 1 reads no
    inner ones.
    """

    max_members: int = 1_000_000
    max_bytes: int = 256 * 2**30
    max_ratio: int = 200
    max_depth: int = 2

    def __post_init__(self) -> None:
        _check_whole(self, "max_members", "max_bytes", "max_ratio", "max_depth")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """Limits on one object; whole numbers of at least 1 unless said otherwise.

    max_pixels: width x height of one picture, as its header announces it.
    max_bytes: the stored object, or a pack's member unpacked; a larger one is not read at all. Packs have limits of
    their own.
    max_frames: pages, frames or slices of one object; one with more is refused whole.
    min_side: pixels; a picture with a shorter side is no slice.
    modalities: of DICOM images that count as MR; others are skipped.
    timeout_s: seconds that a compressed frame may take, above 0.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 512 * 2**20
    max_frames: int = 32_000
    min_side: int = 16
    modalities: tuple[str, ...] = ("MR",)
    timeout_s: float = 60.0
    nifti: NiftiConfig = field(default_factory=NiftiConfig)
    pack: PackConfig = field(default_factory=PackConfig)

    def __post_init__(self) -> None:
        _check_whole(self, "max_pixels", "max_bytes", "max_frames", "min_side")
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"timeout_s: must be above 0 and finite, got {self.timeout_s!r}")
        if not self.modalities or not all(isinstance(name, str) and name for name in self.modalities):
            raise ConfigError(f"modalities: must name at least one DICOM modality, got {self.modalities!r}")


def _check_whole(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: must be a whole number of at least 1, got {value!r}")
