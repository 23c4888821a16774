"""Random changes of training pictures: drawing their parameters, apart from applying them."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from mri_ray.errors import ConfigError

_DRAWS = 6  # flip, rotation, zoom, shift in x, shift in y, brightness
_LIMITS = {"rotation_deg": 180.0, "flip": 1.0, "zoom": 0.9, "shift": 0.5, "brightness": 0.9}
IDENTITY = np.array([1, 0, 0, 0, 1, 0, 1], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far a training picture may be changed: x is drawn evenly from -x to x; 0 leaves the picture alone.

    rotation_deg: degrees, to 180. flip: probability (not a range) of exchanging left and right. zoom: as a part of 1,
    to 0.9. shift: as a part of the side, in x and y, to 0.5. brightness: factor on the intensities, as a part of 1,
    to 0.9.
    """

    rotation_deg: float = 15.0
    flip: float = 0.5
    zoom: float = 0.1
    shift: float = 0.05
    brightness: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, limit = getattr(self, field.name), _LIMITS[field.name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= limit:
                raise ConfigError(f"{field.name}: must be a number from 0 to {limit:g}, got {value!r}")


def draw(config: AugmentConfig, *, seed: int, epoch: int, row_ids: Sequence[str]) -> np.ndarray:
    """Parameters float32 (N, 7), each row's from seed, epoch and its id alone.

    A row holds the 2 x 3 matrix that leads from a place in the new picture to its place in the old one (x to the
    right, y down, -1 to 1 from edge to edge), row by row, then the factor on the intensities.
    """
    even = _even(seed, epoch, row_ids)
    sign = np.where(even[:, 0] < config.flip, -1.0, 1.0)
    angle, zoom, x, y, brightness = (2 * even[:, 1:] - 1).T
    angle = angle * math.radians(config.rotation_deg)
    scale = 1 / (1 + zoom * config.zoom)
    x, y = 2 * config.shift * x, 2 * config.shift * y  # the picture is 2 wide in these coordinates
    a, b, c, d = (
        sign * scale * np.cos(angle),
        -sign * scale * np.sin(angle),
        scale * np.sin(angle),
        scale * np.cos(angle),
    )
    gain = 1 + brightness * config.brightness
    return np.stack([a, b, -(a * x + b * y), c, d, -(c * x + d * y), gain], axis=1).astype(np.float32)


def apply(images: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Changed copies of uint8 (N, 1, S, S), one row of `draw` each; bilinear, black beyond the edges."""
    assert images.dtype == np.uint8
    assert images.ndim == 4
    assert images.shape[1] == 1
    assert images.shape[2] == images.shape[3], images.shape
    assert parameters.shape == (len(images), len(IDENTITY)), parameters.shape
    # One thread: OpenCV's pool does not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(1)
    out = np.empty(images.shape, np.uint8)
    size = images.shape[2]
    for image, changed, row in zip(images[:, 0], out[:, 0], parameters.astype(np.float64), strict=True):
        matrix = _in_pixels(row[:6].reshape(2, 3), size)
        warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        cv2.convertScaleAbs(warped, dst=changed, alpha=row[6])
    return out


def _even(seed: int, epoch: int, row_ids: Sequence[str]) -> np.ndarray:
    """Evenly distributed numbers from 0 to below 1, float64 (N, 6).

    They are a hash, not a generator's stream: no library's next version changes them.
    """
    data = b"".join(
        hashlib.blake2b(f"{seed}:{epoch}:{row_id}".encode(), digest_size=8 * _DRAWS).digest() for row_id in row_ids
    )
    return (np.frombuffer(data, "<u8").reshape(-1, _DRAWS) >> np.uint64(11)) * 2.0**-53


def _in_pixels(unit: np.ndarray, size: int) -> np.ndarray:
    """The same map between pixel indices."""
    turn, centre = unit[:, :2], np.full(2, (size - 1) / 2)
    offset = centre - turn @ centre + unit[:, 2] * size / 2
    return np.column_stack([turn, offset])
