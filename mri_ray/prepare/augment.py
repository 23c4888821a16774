"""Random changes of training pictures: drawing their parameters, apart from applying them."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np

from mri_ray.errors import ConfigError

_PLACE_DRAWS = 6  # flip, rotation, zoom, shift in x, shift in y, brightness
_LOOK_DRAWS = 18
_LIMITS = {
    "rotation_deg": 180.0,
    "flip": 1.0,
    "zoom": 0.9,
    "shift": 0.5,
    "stretch": 0.5,
    "crop": 0.9,
    "brightness": 0.9,
    "contrast": 0.9,
    "gamma": 2.0,
    "background": 0.5,
    "invert": 1.0,
    "bias": 1.0,
    "blur": 0.05,
    "noise": 0.2,
}
_GREY = 0.4  # of head and background together, which contrast leaves where it is

# Columns of the parameters.
_MATRIX, _GAIN, _CONTRAST, _GAMMA, _BACKGROUND, _INVERTED = slice(0, 6), 6, 7, 8, 9, 10
_BLUR, _NOISE, _NOISE_AT, _BIAS = 11, 12, slice(13, 15), slice(15, 19)
IDENTITY = np.array([1, 0, 0, 0, 1, 0, *(1, 1, 1, 0, 0), *(0, 0, 0, 0), *(0, 0, 0, 0)], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far a training picture may be changed: x is drawn evenly from -x to x; 0 leaves the picture alone.

    Where it lies: rotation_deg: degrees, to 180. flip: probability (not a range) of exchanging left and right. zoom: as
    a part of 1, to 0.9. shift: as a part of the side, in x and y, to 0.5. stretch: of the width against the height, as
    a part of 1, to 0.5. crop: from 0 to this part of the side is cut off, anywhere, and the rest enlarged, to 0.9.
    How it looks: brightness, contrast: factors, as a part of 1, to 0.9. gamma: the exponent's logarithm, to 2. invert:
    probability of exchanging black and white. And of every second picture, from 0 to x: background: a grey below which
    nothing is, as a part of white, to 0.5; bias: how far the coil's sensitivity varies from corner to corner, as a
    logarithm, to 1; blur: standard deviation as a part of the side, to 0.05; noise: standard deviation as a part of
    white, to 0.2.
    """

    rotation_deg: float = 15.0
    flip: float = 0.5
    zoom: float = 0.1
    shift: float = 0.05
    stretch: float = 0.0
    crop: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.0
    gamma: float = 0.0
    background: float = 0.0
    invert: float = 0.0
    bias: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, limit = getattr(self, field.name), _LIMITS[field.name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= limit:
                raise ConfigError(f"{field.name}: must be a number from 0 to {limit:g}, got {value!r}")


def draw(config: AugmentConfig, *, seed: int, epoch: int, row_ids: Sequence[str]) -> np.ndarray:
    """Parameters float32 (N, len(IDENTITY)), each row's from seed, epoch and its id alone.

    A row holds the 2 x 3 matrix that leads from a place in the new picture to its place in the old one (x to the
    right, y down, -1 to 1 from edge to edge), row by row, then what changes its looks.
    """
    place, look = (_even(seed, epoch, row_ids, kind) for kind in (_PLACE_DRAWS, _LOOK_DRAWS))
    found = np.tile(IDENTITY.astype(np.float64), (len(row_ids), 1))
    found[:, _MATRIX] = _matrices(config, place, look[:, :4])
    either = 2 * look - 1
    found[:, _GAIN] = 1 + (2 * place[:, 5] - 1) * config.brightness
    found[:, _CONTRAST] = 1 + either[:, 4] * config.contrast
    found[:, _GAMMA] = np.exp(either[:, 5] * config.gamma)
    found[:, _BACKGROUND] = _seldom(look[:, 6]) * config.background
    found[:, _INVERTED] = look[:, 7] < config.invert
    found[:, _BLUR] = _seldom(look[:, 8]) * config.blur
    found[:, _NOISE] = _seldom(look[:, 9]) * config.noise
    found[:, _NOISE_AT] = look[:, 10:12] * (found[:, _NOISE, None] > 0)
    found[:, _BIAS] = either[:, 12:16] * (_seldom(look[:, 16]) * config.bias)[:, None]
    return found.astype(np.float32)


def _matrices(config: AugmentConfig, place: np.ndarray, look: np.ndarray) -> np.ndarray:
    """The first six columns of the parameters, float64 (N, 6)."""
    sign = np.where(place[:, 0] < config.flip, -1.0, 1.0)
    angle, zoom, x, y, _ = (2 * place[:, 1:] - 1).T
    angle = angle * math.radians(config.rotation_deg)
    scale = 1 / (1 + zoom * config.zoom)
    wide = 1 + (2 * look[:, 0] - 1) * config.stretch
    kept = 1 - look[:, 1] * config.crop
    x, y = 2 * config.shift * x, 2 * config.shift * y  # the picture is 2 wide in these coordinates
    a, b, c, d = (
        sign * scale * np.cos(angle) * wide,
        -sign * scale * np.sin(angle),
        scale * np.sin(angle) * wide,
        scale * np.cos(angle),
    )
    # What is kept of the old picture lies anywhere within it.
    left, up = ((1 - kept) * (2 * look[:, axis] - 1) for axis in (2, 3))
    offset = left - kept * (a * x + b * y), up - kept * (c * x + d * y)
    return np.stack([kept * a, kept * b, offset[0], kept * c, kept * d, offset[1]], axis=1)


def _seldom(even: np.ndarray) -> np.ndarray:
    """0 for every second, else evenly from 0 to 1."""
    return np.clip(2 * even - 1, 0, None)


def apply(images: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Changed copies of uint8 (N, 1, S, S), one row of `draw` each; bilinear, black beyond the edges."""
    out = _warped(images, parameters, cv2.INTER_LINEAR)
    levels = _levels(parameters)
    for changed, row, table in zip(out[:, 0], parameters.astype(np.float64), levels, strict=True):
        if row[_BLUR]:
            cv2.GaussianBlur(changed, (0, 0), row[_BLUR] * len(changed), dst=changed)
        cv2.LUT(changed, table, dst=changed)
        if row[_BIAS].any():
            field = cv2.resize(np.exp(row[_BIAS]).reshape(2, 2), changed.shape, interpolation=cv2.INTER_LINEAR)
            changed[:] = np.rint(np.clip(changed * field, 0, 255))
        if row[_NOISE]:
            top, left = (int(part * len(changed)) for part in row[_NOISE_AT])
            noise = _noise(len(changed))[top : top + len(changed), left : left + len(changed)]
            changed[:] = np.rint(np.clip(changed + noise * np.float32(255 * row[_NOISE]), 0, 255))
    return out


def moved(masks: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Masks uint8 (N, 1, S, S), changed copies: moved as `apply` moves their pictures, values as they are."""
    return _warped(masks, parameters, cv2.INTER_NEAREST)


def _warped(images: np.ndarray, parameters: np.ndarray, interpolation: int) -> np.ndarray:
    assert images.dtype == np.uint8
    assert images.ndim == 4
    assert images.shape[1] == 1
    assert images.shape[2] == images.shape[3], images.shape
    assert parameters.shape == (len(images), len(IDENTITY)), parameters.shape
    # One thread: OpenCV's pool does not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(1)
    out = np.empty(images.shape, np.uint8)
    size = images.shape[2]
    for image, changed, row in zip(images[:, 0], out[:, 0], parameters[:, _MATRIX].astype(np.float64), strict=True):
        matrix = _in_pixels(row.reshape(2, 3), size)
        cv2.warpAffine(image, matrix, (size, size), dst=changed, flags=interpolation | cv2.WARP_INVERSE_MAP)
    return out


def _levels(parameters: np.ndarray) -> np.ndarray:
    """What each grey becomes, uint8 (N, 256): gamma, contrast, brightness, background, inversion, in this order."""
    gain, contrast, gamma, background, inverted = (
        parameters[:, _GAIN : _INVERTED + 1, None].astype(np.float64).swapaxes(0, 1)
    )
    grey = (np.arange(256) / 255) ** gamma
    grey = np.clip(_GREY + (grey - _GREY) * contrast, 0, 1) * gain
    grey = background + np.clip(grey, 0, 1) * (1 - background)
    return np.rint(255 * np.where(inverted > 0, 1 - grey, grey)).astype(np.uint8)


@lru_cache(maxsize=2)
def _noise(size: int) -> np.ndarray:
    """Unit normal noise, float32, twice as high and wide as a picture: a picture's is a part of it.

    Of the generator whose numbers numpy promises to keep.
    """
    return np.random.RandomState(0).standard_normal((2 * size, 2 * size)).astype(np.float32)


def _even(seed: int, epoch: int, row_ids: Sequence[str], draws: int) -> np.ndarray:
    """Evenly distributed numbers from 0 to below 1, float64 (N, draws); other numbers for another count of them.

    They are a hash, not a generator's stream: no library's next version changes them.
    """
    if draws > 8:  # as many as a digest holds
        return np.concatenate(
            [_even(seed, epoch, [f"{row_id}:{part}" for row_id in row_ids], 6) for part in range(-(-draws // 6))],
            axis=1,
        )
    data = b"".join(
        hashlib.blake2b(f"{seed}:{epoch}:{row_id}".encode(), digest_size=8 * draws).digest() for row_id in row_ids
    )
    return (np.frombuffer(data, "<u8").reshape(-1, draws) >> np.uint64(11)) * 2.0**-53


def _in_pixels(unit: np.ndarray, size: int) -> np.ndarray:
    """The same map between pixel indices."""
    turn, centre = unit[:, :2], np.full(2, (size - 1) / 2)
    offset = centre - turn @ centre + unit[:, 2] * size / 2
    return np.column_stack([turn, offset])
