"""Whether a colour picture has any colour in it: grey ones are often stored as colour."""

import cv2
import numpy as np
from PIL import Image

CELL = 8  # pixels; colour is looked for in the mean of cells, where the noise of earlier compression vanishes
_MAX_CHROMA = 8  # of 128; 2,491 images from the web have cells up to 6 (grey) and from 10 (coloured)


def has_chroma(cells: Image.Image | np.ndarray) -> bool:
    """Whether a YCbCr picture (H, W, 3), reduced by CELL, has more colour than compression leaves in grey ones."""
    chroma = np.asarray(cells)[..., 1:].astype(np.int16) - 128
    return bool((np.abs(chroma) > _MAX_CHROMA).any())


def is_coloured(samples: np.ndarray) -> bool:
    """The same of a YCbCr picture uint8 (H, W, 3) as it is."""
    cv2.setNumThreads(1)  # its pool does not survive a fork
    near = cv2.inRange(samples, (0, 128 - _MAX_CHROMA, 128 - _MAX_CHROMA), (255, 128 + _MAX_CHROMA, 128 + _MAX_CHROMA))
    if near.all():  # so are all means of cells
        return False
    height, width = (max(1, side // CELL) for side in samples.shape[:2])
    return has_chroma(cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA))
