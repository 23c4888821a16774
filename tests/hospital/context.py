"""What the makers draw from: one generator, the pictures, the people, and names that never repeat."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from hospital.planted import Person, person, uid
from hospital.source import Picture, Supply
from hospital.truth import Frame
from mri_ray.errors import Reason
from mri_ray.records import Flag

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A file to be written, or a member to be packed; see `truth.Expected` for the fields."""

    key: str
    data: bytes
    kind: str
    frames: tuple[Frame, ...] = ()
    failed: Mapping[int | None, Reason] = field(default_factory=dict)
    reason: Reason | None = None
    bits: int = 8
    exact: bool = True
    flags: frozenset[Flag] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A file that holds others. members: their keys below the pack. failure: why it breaks off, or does not open."""

    key: str
    data: bytes
    kind: str
    members: tuple[Item, ...]
    inner: int = 0
    failure: Reason | None = None

    @property
    def objects(self) -> int:
        return len(self.members) + (self.failure is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What the slices of one series share. orientation: direction of a row, of a column, to the left, back, head."""

    who: Person
    study_date: str  # YYYYMMDD
    study_uid: str
    uid: str
    number: int
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]  # between rows, between columns
    gap_mm: float
    corner_mm: tuple[float, float, float]  # of the slice of number 0
    sequence: str | None
    manufacturer: str
    field_strength_t: float
    defects: tuple[str, ...] = ()

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def position(self, number: float) -> tuple[float, float, float]:
        """Of the first pixel's centre, in mm, as precise as DICOM's decimal strings hold it."""
        x, y, z = (round(float(v), 4) for v in np.array(self.corner_mm) + number * self.gap_mm * self.normal)
        return x, y, z


@dataclass(kw_only=True)
class Context:
    """rng: all that is random comes from it. length: of a series. seed: part of every UID."""

    seed: int
    length: int
    supply: Supply
    rng: np.random.Generator
    people: dict[str, Person] = field(default_factory=dict)
    series_made: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def run(self, room: int) -> list[Picture]:
        """A series' pictures, not more than `room`."""
        return self.supply.run(min(self.length, room))

    def who(self, picture: Picture) -> Person:
        return self.people.setdefault(picture.origin.patient, person(len(self.people)))

    def name(self) -> str:
        """A name of 10 hex digits that no file has yet."""
        while (text := f"{self.rng.integers(2**40):010x}") in self._names:
            pass
        self._names.add(text)
        return text

    def series(self, picture: Picture, *, tilted: bool = False, defects: tuple[str, ...] = ()) -> Series:
        """A new series of the study that a picture comes from."""
        who, study = self.who(picture), picture.origin.study
        number = len(self.series_made) + 1
        series_uid = uid(self.seed, "series", number)
        self.series_made[series_uid] = defects
        tilt = np.radians(self.rng.uniform(5, 20)) if tilted else 0.0
        spacing = round(float(self.rng.uniform(0.6, 1.2)), 3)
        corner = [round(float(v), 3) for v in self.rng.uniform((-130, -140, -80), (-100, -110, -40))]
        return Series(
            who=who,
            study_date=study,
            study_uid=uid(self.seed, "study", picture.origin.patient, study),
            uid=series_uid,
            number=number,
            orientation=(1.0, 0.0, 0.0, 0.0, round(float(np.cos(tilt)), 8), round(float(np.sin(tilt)), 8)),
            spacing_mm=(spacing, spacing),
            gap_mm=float(self.rng.choice([3.0, 4.5, 5.0, 6.5])),
            corner_mm=(corner[0], corner[1], corner[2]),
            sequence=self.choose("T1", "T1+C", "T2", "FLAIR", "PD", None),
            manufacturer=self.choose("SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS"),
            field_strength_t=self.choose(1.0, 1.5, 3.0),
            defects=defects,
        )

    def choose(self, *options: T) -> T:
        return options[int(self.rng.integers(len(options)))]

    def folder(self, series: Series) -> str:
        """Where a series lies, in one of the ways that hospitals have; most of them name the patient."""
        who, day = series.who, series.study_date
        return self.choose(
            f"by-name/{who.folder}_{who.born:%d%m%Y}/{day}/{series.number:04d}",
            f"pacs/{who.patient_id}/{series.study_uid}/{series.uid}",
            f"Röntgen/{who.patient_id} {who.folder}/Serie {series.number}",
            f"export/{self.name()}/{self.name()[:4].upper()}",
        )
