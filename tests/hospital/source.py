"""Pictures with labels: phantoms, or real slices of a folder laid out as the LGG set is (see README)."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hospital.truth import Origin
from mri_ray.archive.identity import digest
from mri_ray.phantom import PhantomConfig, generate_patient
from mri_ray.prepare.intensity import is_blank

# A source that is used up goes round again, changed; each change makes patients of their own.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda pixels: pixels,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "dimmed": lambda pixels: pixels - pixels // 16,
    "mirrored and dimmed": lambda pixels: (pixels - pixels // 16)[:, ::-1],
}

_TRIES = 20
_MIN_SIDE = 64  # pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """stored: a grey PNG, or where one lies. change: a name in CHANGES."""

    origin: Origin
    stored: bytes | Path
    change: str = ""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W)."""
        data = self.stored if isinstance(self.stored, bytes) else self.stored.read_bytes()
        plain = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert plain is not None, "the source is a PNG"
        return np.ascontiguousarray(CHANGES[self.change](plain))


class Supply:
    """Pictures, each handed out once, no two of them alike and none blank."""

    def __init__(self, studies: Iterator[list[Picture]]) -> None:
        self._studies = studies
        self._run: list[Picture] = []
        self._singles: list[Picture] = []
        self._seen: set[str] = set()
        self.given: dict[Origin, Picture] = {}

    def run(self, count: int) -> list[Picture]:
        """Neighbouring slices of one study, in its order; fewer where the source has no study as long."""
        tries = _TRIES
        while len(self._run) < count and (tries or not self._run):
            self._singles += self._run
            self._run = self._next()
            tries = max(0, tries - 1)
        taken, self._run = self._run[:count], self._run[count:]
        return self._give(taken)

    def single(self) -> Picture:
        return self._give([self._singles.pop()])[0] if self._singles else self.run(1)[0]

    def _give(self, pictures: list[Picture]) -> list[Picture]:
        self.given |= {picture.origin: picture for picture in pictures}
        return pictures

    def _next(self) -> list[Picture]:
        """The next unbroken piece of a study."""
        try:
            study = next(self._studies)
        except StopIteration:
            raise ValueError(f"source: must hold more pictures, got {len(self.given)} of use") from None
        pieces: list[list[Picture]] = [[]]
        for picture in study:
            if not self._is_new(picture.pixels):
                continue
            if pieces[-1] and pieces[-1][-1].origin.number + 1 != picture.origin.number:
                pieces.append([])
            pieces[-1].append(picture)
        longest = max(pieces, key=len)
        self._singles += [picture for piece in pieces if piece is not longest for picture in piece]
        return longest

    def _is_new(self, pixels: np.ndarray) -> bool:
        name = digest(str(pixels.shape), pixels.tobytes())
        new = name not in self._seen and not is_blank(pixels) and min(pixels.shape) >= _MIN_SIDE
        self._seen.add(name)
        return new


def studies(source: str | Path, *, seed: int, wanted: int, length: int) -> Iterator[list[Picture]]:
    """Studies of about `wanted` pictures in all, several times as many when changed copies are taken too.

    source: `phantom`, or the folder of a real set, its CSV beside it. length: of the phantoms' studies.
    """
    plain: list[list[Picture]] = []
    for study in _phantoms(seed, wanted, length) if source == "phantom" else _real(Path(source), seed):
        plain.append(study)
        yield study
    for change in list(CHANGES)[1:]:
        for study in plain:
            yield [changed(picture, change) for picture in study]


def changed(picture: Picture, change: str) -> Picture:
    """Another patient's, of the same label."""
    old = picture.origin
    origin = Origin(f"{old.patient} {change}", old.study, old.number, old.label)
    return Picture(origin=origin, stored=picture.stored, change=change)


def _phantoms(seed: int, wanted: int, length: int) -> Iterator[list[Picture]]:
    patients = max(4, -(-wanted // length))
    config = PhantomConfig(
        patients=patients, slices=length, second_study=0.2, min_side=112, max_side=168, jpeg=0.0, seed=seed
    )
    for number in range(patients):
        study: list[Picture] = []
        for item in generate_patient(config, number):
            if study and study[-1].origin.study != item.study_date:
                yield study
                study = []
            origin = Origin(item.patient, item.study_date, item.number, item.label)
            study.append(Picture(origin=origin, stored=item.encoded()))
        yield study


def _real(folder: Path, seed: int) -> Iterator[list[Picture]]:
    found: dict[tuple[str, str], list[Picture]] = {}
    with folder.with_suffix(".csv").open(newline="") as file:
        for row in csv.DictReader(file):
            origin = Origin(row["patient_id"], row["study_date"], int(row["slice"]), row["label"])
            picture = Picture(origin=origin, stored=folder / row["path"])
            found.setdefault((origin.patient, origin.study), []).append(picture)
    order = sorted(found)
    for number in np.random.default_rng([seed, 7]).permutation(len(order)):
        yield sorted(found[order[number]], key=lambda picture: picture.origin.number)
