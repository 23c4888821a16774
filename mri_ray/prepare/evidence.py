"""What prepared rows keep of a whole picture, before the head is cut out of it."""

from typing import Any

import cv2
import numpy as np

from mri_ray.records import THUMBNAIL_SIDE

_BORDER = 0.02  # of the longer side: so broad are the outermost lines


def evidence_of(whole: np.ndarray) -> dict[str, Any]:
    """The columns mean_level, border_level and thumbnail of a picture, uint8 (H, W)."""
    edge = max(1, round(_BORDER * max(whole.shape)))
    lines = (whole[:edge], whole[-edge:], whole[edge:-edge, :edge], whole[edge:-edge, -edge:])
    border = float(np.concatenate([line.ravel() for line in lines]).mean())
    return {
        "mean_level": float(whole.mean()),
        "border_level": border,
        "thumbnail": thumbnail(whole, border).tobytes(),
    }


def thumbnail(whole: np.ndarray, around: float) -> np.ndarray:
    """A picture uint8 (H, W) -> uint8 (THUMBNAIL_SIDE, THUMBNAIL_SIDE): aspect kept, centred on the grey `around`."""
    scale = THUMBNAIL_SIDE / max(whole.shape)
    rows, columns = (max(1, round(side * scale)) for side in whole.shape)
    small = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.full((THUMBNAIL_SIDE, THUMBNAIL_SIDE), round(around), np.uint8)
    top, left = (THUMBNAIL_SIDE - rows) // 2, (THUMBNAIL_SIDE - columns) // 2
    out[top : top + rows, left : left + columns] = small
    return out
