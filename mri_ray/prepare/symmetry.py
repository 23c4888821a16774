"""How a picture of a head differs from its own mirror image.

A healthy head is nearly its own mirror image, on whatever scanner and in whatever sequence; most lesions lie on one
side. Told apart from how pictures look otherwise, that holds for archives that no training has seen.
"""

import cv2
import numpy as np

_FINEST = 256  # pixels a side: more takes long, and shows no more within any reach
_SIDE = 48  # of the copy in which the midline is looked for
_TURN, _SHIFT = 5.0, 1.0  # first steps, in degrees and in its cells: the head was centred before
_STEPS = 3  # of them each way
_HALVINGS = 3
_BLUR = 0.2  # of the reach
_AIR = 15.5  # greys below are around the head
_INSIDE = 0.7, 0.95  # how much head there is around a place, from where it counts to where it counts in full
_EDGE = 1 / 32  # of the side: what is around a place
_LEAST_SPREAD = 0.05  # of white: less is noise
_GAIN = 2.0  # a difference of half the head's own spread is white


def asymmetry(pixels: np.ndarray, reach: float) -> np.ndarray:
    """uint8 (S, S) -> uint8 (S, S): how far each place is from every grey that the other side holds around its mirror.

    A place is black where its grey lies between the least and the greatest within `reach`, a part of the side, of its
    mirror image: no two halves fit exactly. Else it is as bright as the difference, in parts of the spread of greys in
    the head; so contrast does not matter, nor which of both is brighter. The midline is found. A picture along the
    midline has no other side, and shows little sense.
    """
    cv2.setNumThreads(1)  # the workers are the parallelism
    side = len(pixels)
    if side > _FINEST:
        small = cv2.resize(pixels, (_FINEST, _FINEST), interpolation=cv2.INTER_AREA)
        return cv2.resize(_compared(small, reach), (side, side), interpolation=cv2.INTER_LINEAR)
    return _compared(pixels, reach)


def _compared(pixels: np.ndarray, reach: float) -> np.ndarray:
    grey = pixels.astype(np.float32) / 255
    mirror = _mirror(pixels)
    smooth = cv2.GaussianBlur(grey, (0, 0), max(_BLUR * reach * len(pixels), 0.5))
    other = _warped(smooth, mirror)
    radius = max(1, round(reach * len(pixels)))
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    beyond = np.maximum(smooth - cv2.dilate(other, around), cv2.erode(other, around) - smooth).clip(min=0)
    head = cv2.GaussianBlur((pixels > _AIR).astype(np.float32), (0, 0), _EDGE * len(pixels))
    both = np.minimum(head, _warped(head, mirror))
    low, high = _INSIDE
    inside = both > high
    if not inside.any():
        return np.zeros_like(pixels)
    spread = float(smooth[inside].std()) + _LEAST_SPREAD
    found = beyond * ((both - low) / (high - low)).clip(0, 1) * (_GAIN / spread)
    return np.rint(255 * found.clip(max=1)).astype(np.uint8)


def _mirror(pixels: np.ndarray) -> np.ndarray:
    """Affine (2, 3), from and to pixels of the picture: its mirror image in its midline, as it fits the picture best.

    Tried in a small copy, in steps that become finer around the best.
    """
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)

    def cost(place: tuple[float, float]) -> float:
        return float(np.abs(_warped(small, _reflection(_SIDE, *place)) - small).mean())

    turn, shift, steps, size = 0.0, 0.0, range(-_STEPS, _STEPS + 1), 1.0
    for _ in range(_HALVINGS + 1):
        turn, shift = min(
            ((turn + i * size * _TURN, shift + j * size * _SHIFT) for i in steps for j in steps), key=cost
        )
        steps, size = range(-1, 2), size / 2
    return _reflection(len(pixels), turn, shift * len(pixels) / _SIDE)


def _reflection(side: int, turn: float, shift: float) -> np.ndarray:
    """Mirrors in a line that is turned by degrees from upright, and lies pixels to the right of the middle."""
    angle = np.deg2rad(2 * turn)
    linear = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([(side - 1) / 2 + shift, (side - 1) / 2])
    return np.column_stack([linear, middle - linear @ middle])


def _warped(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(values, affine, values.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
