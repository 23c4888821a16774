"""How much of an object the decoders take on before they refuse it."""

from dataclasses import dataclass, fields

from mri_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """Limits on one object; all are whole numbers of at least 1.

    max_pixels: width x height of one picture, as its header announces it.
    max_bytes: the stored object; a larger one is not read at all.
    max_frames: pages of one object; one with more is refused whole.
    min_side: pixels; a picture with a shorter side is no slice.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 512 * 2**20
    max_frames: int = 4096
    min_side: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{field.name}: must be a whole number of at least 1, got {value!r}")
