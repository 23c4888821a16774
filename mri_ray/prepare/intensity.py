"""Stored intensities of any depth -> 8 bits, and whether there is anything to see."""

import math

import numpy as np

from mri_ray.prepare.geometry import shrink
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Flag

_SAMPLE = 65_536  # pixels that the window is taken from
_QUARTILE_OF_NOISE = 0.45062  # lower quartile of |a - b| for two samples of unit normal noise
_HUGE = 1e30  # larger numbers overflow float32 when subtracted
_COUNTED = 2**16  # different whole numbers at most
_AIR = 15  # greys up to this one are around the head, not of it
_LEAST_HEAD = 0.01  # of the picture; a median of less says nothing
_GAMMAS = 0.4, 2.5  # a stronger change would show noise, or hide tissue
_BLANK_SIDE = 64
_BLANK_CONTRAST = 10  # grey levels
_BLANK_AREA = 0.001


def to_uint8(pixels: np.ndarray, bits: int, config: PrepareConfig) -> tuple[np.ndarray, frozenset[Flag]]:
    """Intensities of any type (H, W) -> uint8 (H, W) and flags.

    8 bits stay as they are. Anything else is windowed by percentiles. A window narrower than `config.window_floor`
    times the noise is widened: a slice without signal stays dark and is flagged LOW_CONTRAST.
    NaN counts as the darkest number there is, infinities as the darkest and the brightest.
    """
    if pixels.dtype == np.uint8 and bits == 8:
        return pixels, frozenset()
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (lowest >= -_HUGE and highest <= _HUGE):  # so written, NaN is found too
        pixels = _finite(pixels)
        lowest, highest = float(pixels.min()), float(pixels.max())
    if bits == 8 and lowest >= 0 and highest <= 255:
        return np.rint(pixels).astype(np.uint8, order="C"), frozenset()
    low, high = _percentiles(sample := _sample(pixels), config)
    if high == low:  # all but a few pixels are equal: the few are what there is to see
        low, high = lowest, highest
    width, narrowest = max(high - low, 1 / _HUGE), config.window_floor * _noise(sample)
    flags: frozenset[Flag] = frozenset()
    if width < narrowest:
        # By the square: what is hardly below the floor hardly changes, and noise alone becomes dark.
        width, flags = narrowest**2 / width, frozenset({Flag.LOW_CONTRAST})
    scale = 255 / width
    scaled = (np.clip(pixels, low, high) - np.float32(low)) * np.float32(scale)
    return np.rint(scaled).astype(np.uint8, order="C"), flags


def levelled(pixels: np.ndarray, median: float) -> np.ndarray:
    """uint8 (S, S) -> the same, the median of its head brought to the grey `median`, a part of white, by a gamma.

    Black and white stay. The gamma lies between 0.4 and 2.5, so that what is nearly dark or bright stays so.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)[_AIR + 1 :]
    ends = np.cumsum(counts)
    if ends[-1] < _LEAST_HEAD * pixels.size:
        return pixels
    found = (_AIR + 1 + int(np.searchsorted(ends, ends[-1] / 2))) / 255
    if found >= 1:
        return pixels
    gamma = float(np.clip(math.log(median) / math.log(found), *_GAMMAS))
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return table[pixels]


def is_blank(pixels: np.ndarray) -> bool:
    """Whether a uint8 (H, W) picture is constant or as good as that: noise and single bright points do not count.

    The rule: fewer than 1 in 1,000 cells of a 64 x 64 copy differ from the median by more than 10 of 255.
    """
    cells = shrink(pixels, _BLANK_SIDE).astype(np.int16)
    return bool(np.mean(np.abs(cells - np.median(cells)) > _BLANK_CONTRAST) < _BLANK_AREA)


def _finite(pixels: np.ndarray) -> np.ndarray:
    known = pixels[np.isfinite(pixels)].clip(-_HUGE, _HUGE)
    low, high = (known.min(), known.max()) if known.size else (0, 0)
    return np.nan_to_num(pixels, nan=low, neginf=low, posinf=high).clip(-_HUGE, _HUGE)


def _sample(pixels: np.ndarray) -> np.ndarray:
    step = math.ceil(math.sqrt(pixels.size / _SAMPLE))
    return pixels[::step, ::step]


def _percentiles(sample: np.ndarray, config: PrepareConfig) -> list[float]:
    return _ranked(sample, [round(part / 100 * (sample.size - 1)) for part in config.window_percentiles])


def _noise(sample: np.ndarray) -> float:
    """Standard deviation of the noise; whole numbers are not known better than to 1.

    The lower quartile of the differences between neighbours hardly feels edges and texture.
    """
    differences = np.abs(np.diff(sample, axis=1))
    noise = _ranked(differences, [differences.size // 4])[0] / _QUARTILE_OF_NOISE if differences.size else 0.0
    return max(noise, 1.0) if _is_whole(sample) else noise


def _ranked(values: np.ndarray, places: list[int]) -> list[float]:
    """The values that would stand at these places if all were sorted.

    Whole numbers are counted, which takes a tenth of the time.
    """
    low = float(values.min())
    if float(values.max()) - low < _COUNTED and _is_whole(values):
        ends = np.cumsum(np.bincount((values - np.float32(low)).astype(np.intp).ravel()))
        return [low + int(np.searchsorted(ends, place, side="right")) for place in places]
    found = np.partition(values, places, axis=None)
    return [float(found[place]) for place in places]


def _is_whole(values: np.ndarray) -> bool:
    return np.array_equal(values, np.rint(values))
