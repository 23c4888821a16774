"""Where the head is, and how it is brought to the model's size."""

import cv2
import numpy as np
from PIL import Image

from mri_ray.prepare.settings import PrepareConfig

# Pixels of the small copy in which the head is looked for, and what counts there; tried on 5,000 public pictures.
_SMALL_SIDE = 128
_MIN_CONTRAST = 8  # grey levels above the background
_RELATIVE_CONTRAST = 0.12  # of the brightest tissue
_MIN_AREA = 0.005  # of the small copy; less is no head
_MIN_PART = 0.1  # of the largest part's area: skull and brain may come apart, several heads may be tiled
_FRAME_GREY = 128  # a bright frame is at least as bright
_FRAME_RANGE = 24  # grey levels within one of its lines
_SQUARE = 0.02  # pixels as much higher than wide, or wider, are square
_SMALLEST_MM, _LARGEST_MM, _LARGEST_SIDE = 1e-4, 100.0, 8192
_OPENING = np.ones((3, 3), np.uint8)

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two are one beyond


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means of whole blocks, uint8 (H, W) -> uint8 with no side above `side`; rows and columns left over are cut."""
    rows, columns = _block(pixels.shape, side)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    whole = pixels[: height * rows, : width * columns]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def overview(pixels: np.ndarray) -> np.ndarray:
    """The small copy in which `crop_to_head` looks for the head."""
    return shrink(pixels, _SMALL_SIDE)


def squared(pixels: np.ndarray, spacing_mm: tuple[float, float] | None) -> np.ndarray:
    """uint8 (H, W) with pixels as high as wide: a volume cut across its slices is else squeezed to a sliver.

    spacing_mm: between rows, between columns; None, or values no scanner gives, leave the picture as it is.
    """
    height, width = squared_shape(pixels.shape, spacing_mm)
    if pixels.shape == (height, width):
        return pixels
    cv2.setNumThreads(1)  # see `_head`
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def squared_shape(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None) -> tuple[int, int]:
    """Height and width of what `squared` gives."""
    height, width = shape
    if spacing_mm is None or not all(_SMALLEST_MM < side < _LARGEST_MM for side in spacing_mm):
        return height, width
    ratio = spacing_mm[0] / spacing_mm[1]
    if ratio > 1 + _SQUARE:
        height = round(height * ratio)
    elif 1 / ratio > 1 + _SQUARE:
        width = round(width / ratio)
    return (height, width) if max(height, width) <= _LARGEST_SIDE else (shape[0], shape[1])


def crop_to_head(pixels: np.ndarray, config: PrepareConfig, small: np.ndarray | None = None) -> np.ndarray:
    """The part of a uint8 (H, W) picture that `head_box` finds (a view)."""
    top, left, bottom, right = head_box(pixels, config, small)
    return pixels[top:bottom, left:right]


def head_box(pixels: np.ndarray, config: PrepareConfig, small: np.ndarray | None = None) -> Box:
    """Where the head of a uint8 (H, W) picture is, with a margin; all of the picture if there is no head.

    Bright frames, thin lines and small writing do not count. No side is cut below `config.min_crop`. `small` is the
    picture's `overview` where the caller has it already.
    """
    small = overview(pixels) if small is None else small
    inner = _within_frame(small)
    head = _head(small, inner)
    if head is None:
        return 0, 0, *pixels.shape
    box, bounds = (_enlarged(part, pixels.shape, small.shape) for part in (head, inner))
    return _padded(box, bounds, config)


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased resize of uint8 (H, W) to uint8 (size, size): aspect kept, centred on black."""
    height, width = pixels.shape
    scale = size / max(height, width)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    # Pillow's filters widen with the reduction, so fine detail is averaged and not skipped.
    resized = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR)
    out = np.zeros((size, size), np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    out[top : top + rows, left : left + columns] = np.asarray(resized)
    return out


def _block(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    block = -(-max(shape) // side)
    return min(block, shape[0]), min(block, shape[1])


def _within_frame(small: np.ndarray) -> Box:
    """What is left when even, bright lines are taken off the edges; everything if nothing would be left."""
    top, left, (bottom, right) = 0, 0, small.shape
    while True:
        before = (top, left, bottom, right)
        first, last = _even_edges(small[top:bottom, left:right])
        top, bottom = top + first, bottom - last
        first, last = _even_edges(small[top:bottom, left:right].T)
        left, right = left + first, right - last
        if top >= bottom or left >= right:
            return (0, 0, *small.shape)
        if (top, left, bottom, right) == before:
            return before


def _even_edges(lines: np.ndarray) -> tuple[int, int]:
    """How many of the first and of the last rows are of one bright grey."""
    if lines.size == 0:
        return 0, 0
    darkest, brightest = lines.min(axis=1), lines.max(axis=1)
    uneven = np.flatnonzero((brightest - darkest > _FRAME_RANGE) | (brightest < _FRAME_GREY))
    return (int(uneven[0]), len(lines) - 1 - int(uneven[-1])) if uneven.size else (len(lines), 0)


def _head(small: np.ndarray, inner: Box) -> Box | None:
    """Box around the large bright parts."""
    top, left, bottom, right = inner
    part = small[top:bottom, left:right]
    levels = np.cumsum(np.bincount(part.ravel(), minlength=256)) / part.size
    dark, bright = np.searchsorted(levels, (0.05, 0.99)).tolist()
    threshold = dark + max(_MIN_CONTRAST, _RELATIVE_CONTRAST * (bright - dark))
    # One thread: OpenCV's pool does not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(1)
    mask = cv2.morphologyEx((part > threshold).astype(np.uint8), cv2.MORPH_OPEN, _OPENING)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts = stats[1:]  # the first is the background
    if not len(parts) or parts[:, cv2.CC_STAT_AREA].max() < _MIN_AREA * part.size:
        return None
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= _MIN_PART * parts[:, cv2.CC_STAT_AREA].max()]
    x, y, width, height, _ = parts.T
    return top + int(y.min()), left + int(x.min()), top + int((y + height).max()), left + int((x + width).max())


def _enlarged(box: Box, shape: tuple[int, ...], small: tuple[int, ...]) -> Box:
    """A box in the small copy -> in the picture; what was cut off the small copy belongs to its last line."""
    rows, columns = _block(shape, _SMALL_SIDE)
    top, left, bottom, right = box
    bottom = shape[0] if bottom == small[0] else bottom * rows
    right = shape[1] if right == small[1] else right * columns
    return top * rows, left * columns, bottom, right


def _padded(box: Box, bounds: Box, config: PrepareConfig) -> Box:
    """The box with its margin, no side below the smallest allowed, moved and cut to lie within the bounds."""
    margin = 2 * round(config.margin * max(box[2] - box[0], box[3] - box[1]))
    smallest = round(config.min_crop * max(bounds[2] - bounds[0], bounds[3] - bounds[1]))
    (top, bottom), (left, right) = (
        _grown(box[axis : axis + 3 : 2], bounds[axis : axis + 3 : 2], margin, smallest) for axis in (0, 1)
    )
    return top, left, bottom, right


def _grown(ends: tuple[int, ...], bounds: tuple[int, ...], margin: int, smallest: int) -> tuple[int, int]:
    length = min(max(ends[1] - ends[0] + margin, smallest), bounds[1] - bounds[0])
    first = min(max((sum(ends) - length) // 2, bounds[0]), bounds[1] - length)
    return first, first + length
