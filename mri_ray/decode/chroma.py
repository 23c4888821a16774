"""Whether a colour picture has any colour in it: grey ones are often stored as colour."""

import numpy as np
from PIL import Image

CELL = 8  # pixels; colour is looked for in the mean of cells, where the noise of earlier compression vanishes
_MAX_CHROMA = 8  # of 128; 2,491 images from the web have cells up to 6 (grey) and from 10 (coloured)


def has_chroma(cells: Image.Image) -> bool:
    """Whether a YCbCr picture, reduced by CELL, has more colour than compression leaves in grey ones."""
    chroma = np.asarray(cells)[..., 1:].astype(np.int16) - 128
    return bool((np.abs(chroma) > _MAX_CHROMA).any())
