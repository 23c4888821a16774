"""How a slice becomes the model's input."""

import math
from dataclasses import asdict, dataclass

from mri_ray.archive.identity import digest_json
from mri_ray.errors import ConfigError

_METHOD = 1  # raised when the same settings begin to give other pixels
_BOUNDS = {
    "window_floor": (0.0, 1000.0),
    "margin": (0.0, 1.0),
    "min_crop": (0.0, 1.0),
    "median": (0.1, 0.9),
    "asymmetry": (0.01, 0.1),
}
_LATER = ("median", "asymmetry")  # not of the first bundles; null where they are off


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Travels in the bundle: a model only makes sense of pictures prepared as its training's were.

    size: side of the square input, pixels, 8 to 4096.
    window_percentiles: of the intensities of a picture deeper than 8 bits; what lies outside becomes black or white.
    window_floor: narrowest intensity window that is used as it is, in standard deviations of the picture's noise.
    margin: left around the head on each side, as a fraction of the head's longer side, 0 to 1.
    min_crop: smallest side of the crop as a fraction of the picture's longer side, 0 to 1; 1 turns cropping off.
    median: the grey, as a part of white, 0.1 to 0.9, that the head's median is brought to by a gamma: two scanners, or
    two sequences, then differ less. None: greys stay as they are.
    asymmetry: what is shown is how the head differs from its own mirror image, found within this part of the side, 0.01
    to 0.1 (`symmetry.asymmetry`); less depends on the archive then. None: the head itself.
    """

    size: int = 224
    window_percentiles: tuple[float, float] = (0.5, 99.5)
    window_floor: float = 16.0
    margin: float = 0.03
    min_crop: float = 0.5
    median: float | None = None
    asymmetry: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 8 <= self.size <= 4096:
            raise ConfigError(f"size: must be a whole number from 8 to 4096, got {self.size!r}")
        _check_percentiles(self.window_percentiles)
        # A bundle's JSON holds a list, and whole numbers where they were written so; the digest must not see that.
        low, high = self.window_percentiles
        object.__setattr__(self, "window_percentiles", (float(low), float(high)))
        for name, (lowest, highest) in _BOUNDS.items():
            value = getattr(self, name)
            if value is None and name in _LATER:
                continue
            if not _is_number(value) or not lowest <= value <= highest:
                or_null = ", or null" if name in _LATER else ""
                raise ConfigError(f"{name}: must be a number from {lowest:g} to {highest:g}{or_null}, got {value!r}")
            object.__setattr__(self, name, float(value))

    def digest(self) -> str:
        """Names the preparation: equal digests give equal pixels."""
        settings = asdict(self)
        for name in _LATER:  # so that bundles from before there were these keep their digest
            if settings[name] is None:
                del settings[name]
        return digest_json({"method": _METHOD, "settings": settings})


def _check_percentiles(value: object) -> None:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(_is_number(item) for item in value)
    if not pair or not 0 <= value[0] < value[1] <= 100:  # type: ignore[index]
        raise ConfigError(f"window_percentiles: must be two ascending numbers from 0 to 100, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
