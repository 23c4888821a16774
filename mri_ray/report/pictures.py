"""Pictures as data URIs, and heat over them."""

import base64
import io

import numpy as np
from PIL import Image

PICTURE = 240  # pixels a side; a page holds dozens
_HEAT = 0.6  # how far heat covers a picture


def picture(pixels: np.ndarray, side: int = PICTURE) -> str:
    """uint8 (H, W), or (H, W, 3) in colour -> PNG as a data URI, no more than `side` high or wide."""
    held = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture uint8 (S, S) with a heat map (S, S) from 0 to 1 over it -> uint8 (S, S, 3); what is cold stays grey."""
    from matplotlib import colormaps  # half a second, which a replica of the endpoint would wait for when it starts

    colour = colormaps["inferno"](heat)[..., :3] * 255
    share = _HEAT * heat[..., None]
    return np.rint((1 - share) * pixels[..., None] + share * colour).astype(np.uint8)
