"""A synthetic brain-MRI archive with known truth, for the demo and the tests.

Every patient is drawn by generators of its own, made from (seed, patient number, purpose): an archive that grows keeps
its earlier patients, and a patient drawn without its lesion has the same anatomy, scanner and noise. Which slices of
a study hold a lesion does not depend on their level. So nothing but the lesion tells the class.

Geometry: u to the right of the picture, v to the back of the head, the surface of the brain at radius 1.
Level: 0 at the eyes, 1 at the vertex. Intensity: white matter is 1 until the scanner's gain. Fields are float32 (H, W).
"""

import csv
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta

import cv2
import numpy as np

from mri_ray.archive.identity import digest
from mri_ray.archive.storage import Location
from mri_ray.errors import ConfigError

CLASS_FOLDERS = ("notumor", "tumor")
COLUMNS = ("path", "label", "patient_id", "study_date", "slice", "lesion_pixels", "lesion_box")


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """What to draw. A patient has one or two studies of `slices` slices each; fractions are of patients or files.

    contrast: factor on how far lesions differ from the tissue around them; 1 is demanding, 2 is easy, but there the
    brightest pixel begins to tell the class.
    """

    patients: int = 40
    slices: int = 12
    second_study: float = 0.25
    lesion_patients: float = 0.6
    testing: float = 0.2
    jpeg: float = 0.5
    min_side: int = 180
    max_side: int = 320
    contrast: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("patients", 1), ("slices", 1), ("min_side", 64), ("max_side", self.min_side), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(f"{name}: must be a whole number of at least {low}, got {value!r}")
        for name in ("second_study", "lesion_patients", "testing", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: must be from 0 to 1, got {getattr(self, name)!r}")
        if not self.contrast > 0:
            raise ConfigError(f"contrast: must be above 0, got {self.contrast!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class PhantomSlice:
    """One picture and its truth. pixels: uint8 (H, W); mask: bool (H, W), true in the lesion; number: from 1."""

    pixels: np.ndarray
    mask: np.ndarray
    key: str
    quality: int | None  # of the JPEG; None: PNG
    patient: str
    study_date: str
    number: int

    @property
    def label(self) -> str:
        return "tumor" if self.mask.any() else "normal"

    @property
    def lesion_pixels(self) -> int:
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The lesion's first and last column and row: (x0, y0, x1, y1), all inside."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])) if len(rows) else None

    def encoded(self) -> bytes:
        """The file's bytes."""
        if self.quality is None:
            return cv2.imencode(".png", self.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
        return cv2.imencode(".jpg", self.pixels, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()


@dataclass(frozen=True, kw_only=True)
class PhantomTruth:
    """What was written: pictures below `archive`, their truth in `labels` beside it. rows: as in the labels file."""

    archive: Location
    labels: Location
    rows: tuple[dict[str, str], ...]

    @property
    def patients(self) -> int:
        return len({row["patient_id"] for row in self.rows})

    @property
    def tumors(self) -> int:
        return sum(row["label"] == "tumor" for row in self.rows)


def write(location: Location, config: PhantomConfig) -> PhantomTruth:
    """Draw an archive into `images/` of a location and its truth into `labels.csv`, whose paths start below `images/`.

    The labels lie outside of the archive, since everything below an archive's root is an object to be scored.
    What is there already stays, so an archive wants a place of its own.
    """
    archive, labels = location / "images", location / "labels.csv"

    def write_patient(number: int) -> list[dict[str, str]]:
        rows = []
        for item in generate_patient(config, number):
            archive.write(item.key, item.encoded())
            rows.append(_row(item))
        return rows

    with ThreadPoolExecutor(max_workers=8) as pool:
        rows = [row for part in pool.map(write_patient, range(config.patients)) for row in part]
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: row["path"]))
    location.write("labels.csv", text.getvalue().encode())
    return PhantomTruth(archive=archive, labels=labels, rows=tuple(rows))


def generate(config: PhantomConfig) -> Iterator[PhantomSlice]:
    """All slices, patient by patient, study by study, from the base of the skull upwards."""
    for number in range(config.patients):
        yield from generate_patient(config, number)


def generate_patient(config: PhantomConfig, number: int) -> Iterator[PhantomSlice]:
    """The slices of one patient, which does not depend on how many others there are."""
    patient = f"phantom-{digest('patient', str(config.seed), str(number))[:8]}"
    rng = _generator(config, number, "calendar")
    first = date(2015, 1, 1) + timedelta(days=int(rng.integers(3000)))
    dates = [first]
    if rng.random() < config.second_study:
        dates.append(first + timedelta(days=int(rng.integers(60, 700))))
    head = _Head(_generator(config, number, "head"), config)
    lesions = _lesions(_generator(config, number, "lesion"), config) if _has_lesion(config, number) else []
    side = "Testing" if _spread(config, number, 2**0.5) < config.testing else "Training"
    for study, day in enumerate(dates):
        scan = _Scan(_generator(config, number, f"scan {study}"), head, config)
        rng = _generator(config, number, f"noise {study}")
        for index in range(config.slices):
            pixels, mask = _slice(head, scan, lesions, study, index, rng)
            name = digest("name", str(config.seed), str(number), str(study), str(index))[:12]
            quality = int(rng.integers(80, 98)) if rng.random() < config.jpeg else None
            folder = CLASS_FOLDERS[bool(mask.any())]
            yield PhantomSlice(
                pixels=pixels,
                mask=mask,
                key=f"{side}/{folder}/{name}.{'png' if quality is None else 'jpg'}",
                quality=quality,
                patient=patient,
                study_date=f"{day:%Y%m%d}",
                number=index + 1,
            )


def _row(item: PhantomSlice) -> dict[str, str]:
    box = "" if item.box is None else " ".join(map(str, item.box))
    values = (item.key, item.label, item.patient, item.study_date, item.number, item.lesion_pixels, box)
    return dict(zip(COLUMNS, map(str, values), strict=True))


def _generator(config: PhantomConfig, number: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([config.seed, number, int(digest(purpose)[:8], 16)])


def _has_lesion(config: PhantomConfig, number: int) -> bool:
    return _spread(config, number, (1 + 5**0.5) / 2) < config.lesion_patients


def _spread(config: PhantomConfig, number: int, step: float) -> float:
    """Numbers in [0, 1) that fill it evenly from the first patients on, so that small archives hold both kinds."""
    start = np.random.default_rng([config.seed, int(step * 1e6)]).random()
    return float((start + number * step) % 1)


# Anatomy


class _Head:
    """What one patient's studies share: size, shape, folds, ventricles, tissue contrast, spots and vessels."""

    def __init__(self, rng: np.random.Generator, config: PhantomConfig) -> None:
        height, width = rng.integers(config.min_side, config.max_side + 1, 2)
        self.shape = (int(height), int(height if rng.random() < 0.6 else width))
        self.aspect = rng.uniform(0.76, 0.88)
        self.length_px = rng.uniform(0.40, 0.46) * min(self.shape[0], self.shape[1] / self.aspect * 0.95)
        self.levels = np.linspace(rng.uniform(0.0, 0.1), rng.uniform(0.86, 0.95), config.slices)
        self.egg = rng.uniform(-0.02, 0.10)
        self.bend = [_bend(rng) for _ in range(4)]
        self.scalp, self.skull, self.gap = rng.uniform(0.05, 0.10), rng.uniform(0.05, 0.09), rng.uniform(0.008, 0.035)
        self.ventricles = rng.uniform(0.7, 1.5)
        self.sulci, self.sulcus_depth = rng.uniform(0.15, 0.5), rng.uniform(0.3, 0.5)
        folds = rng.normal(0, 1, (7, 9, int(rng.integers(54, 76)))).astype(np.float32)
        self.folds = np.concatenate((folds[..., -3:], folds, folds[..., :3]), axis=-1)  # round the head
        self.mottle = rng.normal(0, 1, (4, 9, 9)).astype(np.float32)
        flair = rng.random() < 0.65  # else like T1, where grey matter is the darker
        self.grey = rng.uniform(1.10, 1.30) if flair else rng.uniform(0.72, 0.87)
        self.csf = rng.uniform(0.10, 0.30) if flair else rng.uniform(0.18, 0.40)
        self.fat, self.marrow, self.muscle = rng.uniform(1.4, 2.4), rng.uniform(0.3, 1.1), rng.uniform(0.4, 0.7)
        self.caps = rng.uniform(0.0, 0.5) if flair else 0.0  # bright seams along the ventricles
        self.spots = _spots(rng)
        self.vessels = _vessels(rng)
        self.vessel_light = rng.uniform(0.2, 1.6)


def _bend(rng: np.random.Generator) -> np.ndarray:
    """A displacement field of long waves and a few short ones: nothing in a head is an ellipse or a straight line."""
    long, short = rng.normal(0, 0.024, (4, 4)), rng.normal(0, 0.011, (11, 11))
    return cv2.resize(long.astype(np.float32), (11, 11), interpolation=cv2.INTER_CUBIC) + short.astype(np.float32)


def _spots(rng: np.random.Generator) -> np.ndarray:
    """Small bright spots of white matter, rows (u, v, level, radius, light); no lesion is as small."""
    count = int(rng.poisson(14))
    angle, radius = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.15, 0.85, count)
    light = rng.uniform(0.1, 0.9, count)
    columns = (radius * np.cos(angle), radius * np.sin(angle), rng.random(count), rng.uniform(0.015, 0.045, count))
    return np.stack((*columns, light), axis=1)


def _vessels(rng: np.random.Generator) -> list[tuple[float, np.ndarray]]:
    """Winding lines of a few points (u, v), each with the level it is seen at."""
    lines = []
    for _ in range(int(rng.poisson(12))):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.98)
        start = np.array([radius * np.cos(angle), radius * np.sin(angle)])
        turns = np.cumsum(rng.normal(0, 0.6, int(rng.integers(2, 7)))) + rng.uniform(0, 2 * np.pi)
        steps = 0.05 * np.stack((np.cos(turns), np.sin(turns)), axis=1)
        lines.append((float(rng.random()), start + np.cumsum(steps, axis=0)))
    return lines


class _Scan:
    """What the slices of one study share: position, gain, coil shading, blur, noise."""

    def __init__(self, rng: np.random.Generator, head: _Head, config: PhantomConfig) -> None:
        self.angle = rng.normal(0, math.radians(4))
        self.shift_px = rng.normal(0, 0.012, 2) * head.length_px
        self.gain = rng.uniform(55, 135)
        self.noise = rng.uniform(0.01, 0.07)
        self.blur_px = rng.uniform(0.35, 0.9) * head.length_px / 110
        shading = np.exp(rng.normal(0, 0.16, (4, 4))).astype(np.float32)
        self.shading = cv2.resize(shading, head.shape[::-1], interpolation=cv2.INTER_CUBIC)
        self.slice_gain = rng.normal(1, 0.04, config.slices)


def _slice(
    head: _Head, scan: _Scan, lesions: list["_Lesion"], study: int, index: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and lesion mask of one slice; draws the same numbers from `rng` with and without a lesion."""
    plane = _Plane(head, scan, float(head.levels[index]))
    tissue = _tissue(head, plane)
    healthy = np.vdot(tissue, scan.shading)
    mask = np.zeros(head.shape, bool)
    for lesion in lesions:
        lesion.paint(tissue, mask, plane, study, index)
    # The same mean with and without lesion: what is left to see is its shape.
    gain = scan.gain * scan.slice_gain[index] * healthy / np.vdot(tissue, scan.shading)
    light: np.ndarray = tissue * scan.shading * np.float32(gain)
    light = cv2.GaussianBlur(light, (0, 0), scan.blur_px)
    noise = rng.standard_normal((2, *head.shape), dtype=np.float32) * np.float32(scan.noise * scan.gain)
    pixels = cv2.magnitude(light + noise[0], noise[1])  # Rician: the size of a complex signal with noise in both parts
    return cv2.convertScaleAbs(pixels), mask


class _Plane:
    """Coordinates of a slice's pixels. u, v, radius: float32 (H, W) where the brain's surface is at radius 1."""

    def __init__(self, head: _Head, scan: _Scan, level: float) -> None:
        self.level = level
        height, width = head.shape
        size = math.sqrt(1 - ((level - 0.35) / 0.78) ** 2)
        wall = (head.scalp + head.skull) / size**1.3  # cut at a slant near the vertex
        self.scale_px = head.length_px * size * (1 - wall)  # of v; u's is narrower by the aspect
        self.px = 1 / self.scale_px
        self.aspect = head.aspect
        self.wall = wall / (1 - wall)  # in units of the brain's radius
        self.centre_px = np.array([width / 2, height / 2]) + scan.shift_px
        cos, sin = math.cos(scan.angle), math.sin(scan.angle)
        self.turn = np.array([[cos, -sin], [sin, cos]])
        x = (np.arange(width) - self.centre_px[0]).astype(np.float32)[None, :] * np.float32(self.px)
        y = (np.arange(height) - self.centre_px[1]).astype(np.float32)[:, None] * np.float32(self.px)
        low, high = np.float32(1 - 0.6 * level), np.float32(0.8 * level)
        bend_u, bend_v = head.bend[0] * low + head.bend[1] * high, head.bend[2] * low + head.bend[3] * high
        self.v = cv2.resize(bend_v, (width, height), interpolation=cv2.INTER_CUBIC)
        self.v += y * np.float32(cos) - x * np.float32(sin)
        self.u = cv2.resize(bend_u, (width, height), interpolation=cv2.INTER_CUBIC)
        self.u += x * np.float32(cos / head.aspect) + y * np.float32(sin / head.aspect)
        self.u = self.u * (1 - np.float32(head.egg) * self.v)
        self.radius, self.angle = cv2.cartToPolar(self.u, self.v)
        self.side = np.abs(self.u)  # for what both halves have

    def within(self, field: np.ndarray, edge: float | np.ndarray, soft_px: float = 1.2) -> np.ndarray:
        """1 where field < edge, 0 beyond, with an edge a few pixels soft. field: a distance in units of the brain."""
        return np.clip((edge - field) * np.float32(self.scale_px / soft_px) + np.float32(0.5), 0, 1)

    def ellipse(
        self, across: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], tilt: float
    ) -> np.ndarray:
        """Distance from an ellipse's rim, negative inside, along `across` (u, or side for both halves) and v."""
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        du, dv = across - np.float32(centre[0]), self.v - np.float32(centre[1])
        a = (du * cos + dv * sin) * np.float32(1 / max(radii[0], 1e-3))
        b = (dv * cos - du * sin) * np.float32(1 / max(radii[1], 1e-3))
        return (cv2.magnitude(a, b) - 1) * np.float32(min(radii))

    def capsule(self, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        """Distance from a line between two points (side, v)."""
        du, dv = end[0] - start[0], end[1] - start[1]
        su, sv = self.side - np.float32(start[0]), self.v - np.float32(start[1])
        along = np.clip((su * np.float32(du) + sv * np.float32(dv)) / np.float32(du * du + dv * dv), 0, 1)
        return cv2.magnitude(su - along * np.float32(du), sv - along * np.float32(dv))

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """(u, v) -> (x, y) in pixels, without the bending."""
        return points * [self.aspect, 1] @ self.turn.T * self.scale_px + self.centre_px


def _window(level: float, low: float, high: float) -> float:
    """1 between two levels, falling to 0 within 0.08 beyond."""
    return float(np.clip(min(level - low, high - level) / 0.08 + 1, 0, 1))


def _mix(image: np.ndarray, value: float | np.ndarray, part: np.ndarray) -> None:
    """Lay a tissue over the picture where `part` is 1. image: (H, W), changed in place."""
    image += (value - image) * part


def _tissue(head: _Head, plane: _Plane) -> np.ndarray:
    """The patient without lesion: signal of a slice, float32 (H, W)."""
    image = _brain(head, plane)
    _deep(head, plane, image)
    base = _window(plane.level, -1, 0.14)
    if base:
        _skull_base(head, plane, image, base)
    _lights(head, plane, image)
    _wall(head, plane, image)
    return image


def _brain(head: _Head, plane: _Plane) -> np.ndarray:
    """Grey and white matter with folds: sulci are the zero lines of a random field that runs round the brain."""
    folds = _at_level(head.folds, plane.level)
    folds = cv2.resize(folds, (folds.shape[1] * 10, 64), interpolation=cv2.INTER_CUBIC)
    column = plane.angle * np.float32((folds.shape[1] - 60) / (2 * np.pi)) + np.float32(30)
    wave = np.abs(cv2.remap(folds, column, plane.radius * 64, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    mottle = cv2.resize(_at_level(head.mottle, plane.level), head.shape[::-1], interpolation=cv2.INTER_CUBIC)
    reach = head.sulcus_depth * (1 + 1.5 * max(plane.level - 0.65, 0) / 0.3)  # near the vertex all is cortex
    depth = np.clip((1 - plane.radius) / (np.float32(reach) * (1 + np.float32(0.3) * mottle)), 0, 1)
    image = 1 + np.float32(0.02) * mottle
    ribbon = np.maximum(plane.within(1 - plane.radius, 0.045), np.clip((0.85 * (1 - depth) - wave) * 3 + 0.5, 0, 1))
    _mix(image, head.grey, ribbon * np.clip((1 - depth) * 6, 0, 1))
    _mix(image, head.csf, np.clip((head.sulci * (1 - depth) - wave) * 5 + 0.35, 0, 1) * (depth < 1))
    open_from = 0.5 - 0.5 * _window(plane.level, 0.68, 2)  # the fissure between the halves, whole near the vertex
    wiggle = plane.side + np.float32(0.012) * mottle
    length = plane.within(open_from - np.abs(plane.v), 0, 6)
    _mix(image, head.grey, plane.within(wiggle, 0.06) * length * 0.8)
    _mix(image, head.csf, plane.within(wiggle, 0.008 + 0.03 * head.sulci) * length)
    return image


def _at_level(stack: np.ndarray, level: float) -> np.ndarray:
    """Between two of the random fields stacked from the base to the vertex, of the same strength as each."""
    place = float(np.clip(level, 0, 1)) * (len(stack) - 1.001)
    low, part = int(place), place - int(place)
    return (stack[low] * np.float32(1 - part) + stack[low + 1] * np.float32(part)) / np.float32(
        np.hypot(1 - part, part)
    )


def _deep(head: _Head, plane: _Plane, image: np.ndarray) -> None:
    """Deep grey matter, ventricles, Sylvian fissures."""
    side, level, large = plane.side, plane.level, head.ventricles
    core, body, third = _window(level, 0.3, 0.5), _window(level, 0.54, 0.68), _window(level, 0.26, 0.42)
    if core:
        for centre, radii, tilt in (
            ((0.2, -0.22), (0.07, 0.13), -0.3),
            ((0.40, -0.06), (0.09, 0.24), -0.25),
            ((0.15, 0.14), (0.12, 0.16), -0.4),
        ):
            _mix(image, head.grey, plane.within(plane.ellipse(side, centre, radii, tilt), 0, 4) * core * 0.8)
    cavities = []
    if core:
        cavities.append(plane.ellipse(side, (0.12, -0.32), (0.06 * core * large, 0.19 * core), -0.35))
        cavities.append(plane.ellipse(side, (0.30, 0.36), (0.06 * core * large, 0.2 * core), 0.35))
    if body:
        cavities.append(plane.ellipse(side, (0.13, 0.02), (0.065 * body * large, 0.44 * body), 0.12))
    if third:
        cavities.append(plane.ellipse(plane.u, (0, 0.02), (0.022 * third * large, 0.15 * third), 0))
    for rim in cavities:
        if head.caps:
            _mix(image, 1 + head.caps, plane.within(rim, 0.03, 6) * 0.7)
        _mix(image, head.csf, plane.within(rim, 0, 1.5))
    sylvian = _window(level, 0.18, 0.48)
    if sylvian:
        insula = np.abs(plane.ellipse(side, (0.36, 0.0), (0.22, 0.34), -0.2)) + np.maximum(0.52 - side, 0)
        line = cv2.min(plane.capsule((1.0, -0.2), (0.6, -0.08)), insula)
        _mix(image, head.grey, plane.within(line, 0.075, 4) * sylvian)
        width = (0.01 + 0.07 * head.sulci) * (1.6 * side - 0.5)
        _mix(image, head.csf, plane.within(line, width) * sylvian)


def _skull_base(head: _Head, plane: _Plane, image: np.ndarray, base: float) -> None:
    """Cerebellum, brainstem, petrous bones; eyes and sinuses where the face begins. base: 0 to 1 downwards."""
    rim = plane.ellipse(plane.u, (0, 0.52), (0.68, 0.44), 0)
    _mix(image, head.csf, plane.within(rim, 0.03, 2) * base)
    arcs = plane.ellipse(plane.u, (0, 0.05), (1, 0.75), 0)  # folia lie in arcs round the brainstem
    folia = head.grey - 0.12 * np.sin(arcs * 70 + 2 * np.sin(plane.u * 17)) * np.clip(plane.side * 8, 0.2, 1)
    _mix(image, folia, plane.within(rim, 0, 2) * base)
    _mix(image, head.csf, plane.within(plane.ellipse(plane.u, (0, 0.06), (0.28, 0.24), 0), 0, 3) * base)
    _mix(image, 1.0, plane.within(plane.ellipse(plane.u, (0, 0.1), (0.19, 0.18), 0), 0, 2) * base)
    _mix(image, head.csf, plane.within(plane.ellipse(plane.u, (0, 0.33), (0.08 * head.ventricles, 0.05), 0), 0) * base)
    _mix(image, 0.12, plane.within(plane.capsule((1.0, 0.22), (0.34, 0.0)), 0.045, 3) * base)
    face = _window(plane.level, -1, 0.04)
    if face:
        front = plane.within(plane.v + 0.35 * plane.side, -0.42 - 0.5 * (1 - face), 2)
        _mix(image, head.muscle, front)
        _mix(
            image, head.fat * 0.7, plane.within(plane.ellipse(plane.side, (0.36, -0.66), (0.17, 0.26), 0.3), 0) * front
        )
        eye = plane.ellipse(plane.side, (0.42, -0.76), (0.17, 0.16), 0)
        _mix(image, 0.8, plane.within(eye, 0.02) * front)
        _mix(image, head.csf * 1.3, plane.within(eye, 0) * front)
        sinus = plane.ellipse(plane.u, (0, -0.72), (0.13, 0.26), 0)
        _mix(image, 1.2, plane.within(sinus, 0.02) * front)
        _mix(image, 0.05, plane.within(sinus, 0) * front)


def _lights(head: _Head, plane: _Plane, image: np.ndarray) -> None:
    """Spots, vessels and the sagittal sinus: small, bright, and in every patient."""
    canvas = np.zeros(head.shape, np.uint8)
    near = head.spots[np.abs(head.spots[:, 2] - plane.level) < 0.06]
    for (x, y), (radius, light) in zip(plane.to_px(near[:, :2]), near[:, 3:], strict=True):
        _dot(canvas, x, y, radius * plane.scale_px, light / 2)
    vessels = np.zeros(head.shape, np.uint8)
    for level, points in head.vessels:
        if abs(level - plane.level) < 0.05:
            line = np.rint(plane.to_px(points) * 16).astype(np.int32)
            cv2.polylines(vessels, [line], False, 128, 1 + int(plane.scale_px > 120), cv2.LINE_AA, 4)
    x, y = plane.to_px(np.array([0, 0.985]))
    _dot(vessels, x, y, 0.04 * plane.scale_px, 0.5)
    light = canvas.astype(np.float32) + vessels * np.float32(head.vessel_light)
    image += cv2.GaussianBlur(light, (0, 0), 0.8) * np.float32(2 / 255)


def _dot(canvas: np.ndarray, x: float, y: float, radius: float, light: float) -> None:
    centre = (round(x * 16), round(y * 16))
    cv2.circle(canvas, centre, max(round(radius * 16), 8), round(light * 255), -1, cv2.LINE_AA, 4)


def _wall(head: _Head, plane: _Plane, image: np.ndarray) -> None:
    """Fluid, skull with marrow, scalp, air: what lies around the brain."""
    surface = 1 + plane.wall
    bone = 1 + plane.wall * head.skull / (head.skull + head.scalp)
    _mix(image, head.csf, 1 - plane.within(plane.radius, 1 - head.gap))
    _mix(image, 0.08, 1 - plane.within(plane.radius, 1))
    _mix(image, head.marrow, plane.within(np.abs(plane.radius - (1 + bone) / 2), (bone - 1) * 0.2, 2))
    _mix(image, head.fat, 1 - plane.within(plane.radius, bone, 2))
    _mix(image, head.muscle, 1 - plane.within(plane.radius, surface - 0.02))
    _mix(image, 0.0, 1 - plane.within(plane.radius, surface))


# Lesions


def _lesions(rng: np.random.Generator, config: PhantomConfig) -> list["_Lesion"]:
    return [_Lesion(rng, config) for _ in range(2 if rng.random() < 0.2 else 1)]


class _Lesion:
    """A smooth irregular blob through neighbouring slices.

    Its run of slices may start before the first and end after the last one: so each slice is as likely as any other.
    """

    def __init__(self, rng: np.random.Generator, config: PhantomConfig) -> None:
        self.extent = int(rng.integers(max(1, round(0.4 * config.slices)), config.slices + 1))
        self.start = int(rng.integers(1 - self.extent, config.slices))
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.72)
        self.u, self.v = radius * np.cos(angle), radius * np.sin(angle)
        self.drift = rng.normal(0, 0.04, 2)
        self.radius = rng.uniform(0.11, 0.30)
        self.growth = rng.uniform(0.85, 1.5)  # until the second study
        order = np.arange(1, 6)[:, None]
        waves = np.cos(order * np.linspace(0, 2 * np.pi, 128, endpoint=False) + rng.uniform(0, 2 * np.pi, (5, 1)))
        self.outline = 1 + (rng.normal(0, 0.22, (5, 1)) / order**0.7 * waves).sum(axis=0).clip(-0.5, 0.6)
        self.edge = rng.uniform(0.1, 0.7)  # the part of the radius over which it fades
        kind = rng.random()  # bright, bright with a dark centre, dark
        self.light = config.contrast * (-rng.uniform(0.3, 0.6) if kind > 0.92 else rng.uniform(0.25, 1.1))
        self.centre = rng.uniform(0.35, 0.65) if 0.6 < kind <= 0.92 else 0.0
        self.texture = rng.normal(0, 0.15, (6, 6)).astype(np.float32)

    def paint(self, tissue: np.ndarray, mask: np.ndarray, plane: _Plane, study: int, index: int) -> None:
        """Add the lesion to a slice that it crosses; tissue and mask are changed in place."""
        place = (index - self.start + 0.5) / self.extent * 2 - 1
        if not -1 < place < 1:
            return
        radius = self.radius * (self.growth if study else 1.0) * (0.5 + 0.5 * np.sqrt(1 - place**2))
        du = plane.u - np.float32(self.u + self.drift[0] * place)
        dv = plane.v - np.float32(self.v + self.drift[1] * place)
        distance, angle = cv2.cartToPolar(du * np.float32(plane.aspect), dv)
        outline = self.outline.astype(np.float32)[(angle * np.float32(128 / (2 * np.pi))).astype(np.intp) % 128]
        rim = distance / (outline * np.float32(radius))  # 1 at the edge
        part = np.clip((1 - rim) / np.float32(self.edge) + np.float32(0.5), 0, 1) * plane.within(plane.radius, 0.985)
        texture = cv2.resize(self.texture, tissue.shape[::-1], interpolation=cv2.INTER_CUBIC)
        signal = (1 + self.light) * (1 + np.float32(abs(self.light)) * texture)
        if self.centre:
            signal -= np.clip((self.centre - rim) * 5, 0, 1) * np.float32(0.4 + self.light)
        _mix(tissue, np.maximum(signal, np.float32(0.1)), part * part * (3 - 2 * part))
        mask |= part > 0.5
