"""A slice -> the model's input: the one path for training, scoring and serving."""

from dataclasses import dataclass

import numpy as np

from mri_ray.prepare.geometry import Box, fit, head_box, overview, squared
from mri_ray.prepare.intensity import is_blank, levelled, to_uint8
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.symmetry import asymmetry
from mri_ray.records import Flag, Slice


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """pixels: uint8 (1, size, size); pixels / 255 is the model's input. flags: the slice's own and what was seen.

    head: uint8 (size, size), what a person is to see of them: the same, but for `PrepareConfig.asymmetry`.
    crop: the part of the slice that they show, in pixels of the squared one (`geometry.squared`). whole: uint8 (H, W),
    that one before anything was cut off.
    """

    pixels: np.ndarray
    head: np.ndarray
    flags: frozenset[Flag]
    crop: Box
    whole: np.ndarray


def prepare(item: Slice, config: PrepareConfig) -> Prepared:
    """Window, crop to the head, fit, level and compare its sides.

    Depends on the slice's pixels, depth and spacing and on the config.
    """
    pixels, flags = to_uint8(item.pixels, item.bits, config)
    pixels = squared(pixels, item.header.spacing_mm)
    flags |= item.flags
    small, crop = overview(pixels), (0, 0, *pixels.shape)
    if blank := is_blank(small):
        flags |= {Flag.BLANK}
    else:
        crop = head_box(pixels, config, small)
        if max(crop[2] - crop[0], crop[3] - crop[1]) < config.size:
            flags |= {Flag.UPSCALED}
    head = fit(pixels[crop[0] : crop[2], crop[1] : crop[3]], config.size)
    if config.median is not None and not blank:
        head = levelled(head, config.median)
    return Prepared(pixels=seen(head, config)[np.newaxis], head=head, flags=flags, crop=crop, whole=pixels)


def seen(head: np.ndarray, config: PrepareConfig) -> np.ndarray:
    """What the model sees of a head, as `Prepared.head` has it: itself, or how its sides differ."""
    return head if config.asymmetry is None else asymmetry(head, config.asymmetry)
