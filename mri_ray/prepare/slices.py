"""A slice -> the model's input: the one path for training, scoring and serving."""

from dataclasses import dataclass

import numpy as np

from mri_ray.prepare.geometry import crop_to_head, fit, overview, squared
from mri_ray.prepare.intensity import is_blank, to_uint8
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Flag, Slice


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """pixels: uint8 (1, size, size); pixels / 255 is the model's input. flags: the slice's own and what was seen.

    whole: uint8 (H, W), the slice in 8 bits before anything was cut off, with square pixels.
    """

    pixels: np.ndarray
    flags: frozenset[Flag]
    whole: np.ndarray


def prepare(item: Slice, config: PrepareConfig) -> Prepared:
    """Window, crop to the head and fit; depends on the slice's pixels, depth and spacing and on the config only."""
    pixels, flags = to_uint8(item.pixels, item.bits, config)
    pixels = squared(pixels, item.header.spacing_mm)
    flags |= item.flags
    small = overview(pixels)
    if is_blank(small):
        return Prepared(pixels=fit(pixels, config.size)[np.newaxis], flags=flags | {Flag.BLANK}, whole=pixels)
    head = crop_to_head(pixels, config, small)
    if max(head.shape) < config.size:
        flags |= {Flag.UPSCALED}
    return Prepared(pixels=fit(head, config.size)[np.newaxis], flags=flags, whole=pixels)
