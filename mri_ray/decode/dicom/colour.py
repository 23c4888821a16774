"""Colour -> grey, as `raster` makes it: ITU-R 601, and flagged only where there is real colour."""

import numpy as np
from PIL import Image

from mri_ray.decode.chroma import CELL, has_chroma

_WEIGHTS = (19595, 38470, 7471)  # of 65,536: what Pillow multiplies red, green and blue with


def to_grey(rgb: np.ndarray, bits: int) -> tuple[np.ndarray, bool]:
    """uint8 or uint16 (H, W, 3) of `bits` a channel -> grey of the same depth (H, W), and whether there was colour."""
    if rgb.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(rgb))
        return np.asarray(image.convert("L")), _coloured(image)
    upper = Image.fromarray(np.ascontiguousarray((rgb >> max(0, bits - 8)).astype(np.uint8)))
    red, green, blue = (rgb[..., channel].astype(np.uint64) * weight for channel, weight in enumerate(_WEIGHTS))
    return ((red + green + blue + 0x8000) >> 16).astype(np.uint16), _coloured(upper)


def _coloured(image: Image.Image) -> bool:
    return has_chroma(image.reduce(CELL).convert("YCbCr"))
