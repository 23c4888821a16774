"""Thumbnails of pictures: vectors by which copies are found, and how far two of them show the same.

Local contrast (a picture less its neighbourhood's mean, over its neighbourhood's spread) is what is compared: it hardly
depends on brightness, contrast, gamma or sharpening. A vector is coarse, so that copies lie near each other in it
however they were made; whether two pictures that lie near are copies is told by their fine detail, once one is laid
over the other. That differs between any two heads, even where outlines and ventricles look alike.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mri_ray.records import THUMBNAIL_SIDE

COPY = 0.85  # least likeness of copies (README, "Copies")
ZOOMS = (1.0, 1.03, 1.06, 1.13)  # of copies that were cropped: by up to 3 % and 6 % on each side
TURNS = 8  # symmetries of the square
VERSIONS = [(zoom, turn) for zoom in ZOOMS for turn in range(TURNS)]
GRID = 16
LENGTH = GRID * GRID

# A neighbourhood's reach is the deviation of a Gaussian, in pixels.
_COARSE_SIDE, _COARSE_REACH = 32, 32 / 12  # of the vectors
_FINE_REACH = 2.5
_FLOOR, _SHARE = 1.0, 0.05  # of the spread: grey levels, and of the brightest; noise in dark parts is no detail
_LEAST_CONTENT = 0.1  # of a vector; less is a picture with nothing in it
_FIT_SIDE, _DOUBTFUL = 64, 0.65
_LARGEST_STRETCH, _LARGEST_SHIFT, _LEAST_OVERLAP = 0.25, 0.25, 0.5  # of a side; what is beyond lies over nothing


@dataclass(frozen=True)
class _Fit:
    """How a map is sought: on local contrast of this reach, blurred, in so many steps."""

    reach: float
    blur: float
    steps: int
    until: float


_FIT = _Fit(reach=_FIT_SIDE / 12, blur=1.6, steps=25, until=1e-3)
_REFIT = _Fit(reach=4.0, blur=1.0, steps=15, until=1e-4)


def vectors(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 (N, side, side) -> float32 (N, LENGTH) of unit length; zero where there is nothing to compare."""
    cv2.setNumThreads(1)  # its pool does not survive a fork, and the workers are the parallelism
    return _unit(np.stack([_grid(picture) for picture in thumbnails]))


def versions(thumbnails: np.ndarray) -> np.ndarray:
    """The vectors of each picture in all VERSIONS, float32 (N, len(VERSIONS), LENGTH)."""
    cv2.setNumThreads(1)
    found = np.empty((len(VERSIONS), len(thumbnails), LENGTH), np.float32)
    for number, zoom in enumerate(ZOOMS):
        grids = np.stack([_grid(zoomed(picture, zoom)) for picture in thumbnails])
        for turn in range(TURNS):
            found[number * TURNS + turn] = _unit(turned(grids, turn))
    return found.transpose(1, 0, 2)


def turned(pictures: np.ndarray, turn: int) -> np.ndarray:
    """(..., S, S) by quarter turns, mirrored first from 4 on."""
    mirrored = pictures[..., ::-1] if turn >= TURNS // 2 else pictures
    return np.ascontiguousarray(np.rot90(mirrored, turn % (TURNS // 2), axes=(-2, -1)))


def zoomed(picture: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of a picture (S, S), enlarged to its size."""
    if zoom == 1:
        return picture
    moved = (len(picture) - 1) / 2 * (1 - 1 / zoom)
    warp = np.array([[1 / zoom, 0, moved], [0, 1 / zoom, moved]])
    return cv2.warpAffine(picture, warp, picture.shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def likeness(one: np.ndarray, other: np.ndarray, version: int) -> float:
    """The correlation of the fine detail of two thumbnails uint8 (side, side), the first in one of VERSIONS.

    The second is laid over it as an affine map fits best; -1 where none does.
    """
    cv2.setNumThreads(1)
    zoom, turn = VERSIONS[version]
    first = turned(zoomed(one, zoom), turn).astype(np.float32)
    second = other.astype(np.float32)
    warp = _fitted(first, second)
    if warp is None:
        return -1.0
    found = _alike(first, second, warp)
    if not _DOUBTFUL <= found < COPY:
        return found
    # Half a pixel beside, fine detail is lost: what outlines have fitted is fitted once more by the detail itself.
    warp = _ecc(first, second, warp, _REFIT)
    return found if warp is None else max(found, _alike(first, second, warp))


def _fitted(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """The affine map (2, 3) from pixels of the first to those of the second; None where none near to identity fits."""
    size, scale = (_FIT_SIDE, _FIT_SIDE), THUMBNAIL_SIDE / _FIT_SIDE
    one, other = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (first, second))
    warp = _ecc(one, other, np.eye(2, 3, dtype=np.float32), _FIT)
    if warp is None:
        return None
    stretch, shift = np.abs(warp[:, :2] - np.eye(2)).max(), np.abs(warp[:, 2]).max()
    if stretch > _LARGEST_STRETCH or shift > _LARGEST_SHIFT * _FIT_SIDE:
        return None
    middle = np.full(2, 0.5, np.float32)  # of a pixel: what is scaled are edges, not middles
    moved = warp[:, :2] @ middle
    warp[:, 2] = (warp[:, 2] - middle + moved) * scale + middle - moved
    return warp


def _ecc(one: np.ndarray, other: np.ndarray, warp: np.ndarray, how: _Fit) -> np.ndarray | None:
    outlines = [_blurred(_contrast(picture, how.reach), how.blur) for picture in (one, other)]
    limits = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, how.steps, how.until)
    try:
        found = cv2.findTransformECC(*outlines, warp, cv2.MOTION_AFFINE, limits, None, 1)  # type: ignore[call-overload]
    except cv2.error:  # so it says that it found none
        return None
    return np.asarray(found[1], np.float32)


def _alike(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> float:
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    laid = cv2.warpAffine(second, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    shared = cv2.warpAffine(np.ones_like(second), warp, size, flags=flags) > 0.99
    if shared.mean() < _LEAST_OVERLAP:
        return -1.0
    one, other = (_contrast(picture, _FINE_REACH)[shared] for picture in (first, laid))
    one, other = one - one.mean(), other - other.mean()
    length = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / length if length else -1.0


def _grid(picture: np.ndarray) -> np.ndarray:
    """uint8 (side, side) -> float32 (GRID, GRID), zero where there is nothing to compare."""
    small = cv2.resize(picture.astype(np.float32), (_COARSE_SIDE, _COARSE_SIDE), interpolation=cv2.INTER_AREA)
    contrast = _contrast(small, _COARSE_REACH)
    if np.sqrt(np.mean(contrast**2)) < _LEAST_CONTENT:
        return np.zeros((GRID, GRID), np.float32)
    return cv2.resize(contrast, (GRID, GRID), interpolation=cv2.INTER_AREA)


def _contrast(picture: np.ndarray, reach: float) -> np.ndarray:
    mean = _blurred(picture, reach)
    spread = np.sqrt(np.maximum(_blurred(picture * picture, reach) - mean * mean, 0))
    return (picture - mean) / (spread + _FLOOR + _SHARE * picture.max())


def _blurred(picture: np.ndarray, reach: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), reach)


def _unit(grids: np.ndarray) -> np.ndarray:
    rows = grids.reshape(len(grids), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
