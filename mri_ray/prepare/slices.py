"""A slice -> the model's input: the one path for training, scoring and serving."""

from dataclasses import dataclass

import numpy as np

from mri_ray.prepare.geometry import Box, fit, head_box, overview, squared
from mri_ray.prepare.intensity import is_blank, levelled, to_uint8
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Flag, Slice


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """pixels: uint8 (1, size, size); pixels / 255 is the model's input. flags: the slice's own and what was seen.

    crop: the part of the slice that they show, in pixels of the squared one (`geometry.squared`). whole: uint8 (H, W),
    that one before anything was cut off.
    """

    pixels: np.ndarray
    flags: frozenset[Flag]
    crop: Box
    whole: np.ndarray


def prepare(item: Slice, config: PrepareConfig) -> Prepared:
    """Window, crop to the head, fit and level; depends on the slice's pixels, depth and spacing and on the config."""
    pixels, flags = to_uint8(item.pixels, item.bits, config)
    pixels = squared(pixels, item.header.spacing_mm)
    flags |= item.flags
    small = overview(pixels)
    if is_blank(small):
        every = (0, 0, *pixels.shape)
        return Prepared(
            pixels=fit(pixels, config.size)[np.newaxis], flags=flags | {Flag.BLANK}, crop=every, whole=pixels
        )
    top, left, bottom, right = crop = head_box(pixels, config, small)
    head = pixels[top:bottom, left:right]
    if max(head.shape) < config.size:
        flags |= {Flag.UPSCALED}
    fitted = fit(head, config.size)
    if config.median is not None:
        fitted = levelled(fitted, config.median)
    return Prepared(pixels=fitted[np.newaxis], flags=flags, crop=crop, whole=pixels)
