"""What must come out of the archive: of every object its state, its slices and where their pixels come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hospital.planted import encodings
from mri_ray.errors import Reason
from mri_ray.records import Flag, Header, State

if TYPE_CHECKING:
    from hospital.source import Picture


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """The source picture behind a frame; no name in the archive repeats it. number: of the slice in its study."""

    patient: str
    study: str
    number: int
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One slice as it must come out. header: what the file tells, as far as the truth is certain, else None."""

    origin: Origin
    header: Header = field(default_factory=Header)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """One object. key: below the archive's root, of a pack's member `pack.zip!/path`.

    kind: which maker wrote it. frames: those that give a slice, in the order stored. failed: frames beside them that
    must not; None: what follows them. reason: of an object without slices. bits: 8, or more where the pipeline has to
    window. exact: decoded values equal the source's; else they are near (lossy). flags: at least these.
    named_path: the path holds the id or a name of the object's own header, letter for letter.
    """

    key: str
    kind: str
    state: State
    reason: Reason | None = None
    frames: tuple[Frame, ...] = ()
    failed: Mapping[int | None, Reason] = field(default_factory=dict)
    bits: int = 8
    exact: bool = True
    flags: frozenset[Flag] = frozenset()
    duplicate_of: str | None = None
    named_path: bool = False

    @property
    def slices(self) -> int:
        return len(self.frames)

    @property
    def label(self) -> str | None:
        """`tumor` when any slice is."""
        labels = {frame.origin.label for frame in self.frames}
        return ("tumor" if "tumor" in labels else "normal") if labels else None


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """An archive below `root` and its truth.

    counts: objects, those of each state, packs (files that are one) and inner_packs (those in them that are opened).
    labels_csv: files outside of the archive by level: path, frame, study, series, instance; a name's label is `tumor`
    when any of its slices is. series: what was done wrong on purpose to each DICOM series (`gap`, `double`,
    `one position`, `mixed orientation`), by uid; duplicates do not count. overrides: settings under which `expected`
    holds. planted: text that no output may hold.
    """

    root: Path
    expected: Mapping[str, Expected]
    counts: Mapping[str, int]
    labels_csv: Mapping[str, Path]
    series: Mapping[str, tuple[str, ...]]
    overrides: tuple[str, ...]
    planted: tuple[str, ...]
    pictures: Mapping[Origin, "Picture"]

    def pixels(self, origin: Origin) -> np.ndarray:
        """The exact source, uint8 (H, W)."""
        return self.pictures[origin].pixels

    @cached_property
    def patterns(self) -> dict[bytes, str]:
        """The planted texts in lower case, in every form in which they may stand in a file."""
        return {form.lower(): text for text in self.planted for form in encodings(text)}

    def leaks(self, data: bytes) -> list[str]:
        """Planted texts in `data`, in any case; it must be unpacked, since Parquet and gzip hide what they hold."""
        lower = data.lower()
        return sorted({text for form, text in self.patterns.items() if form in lower})
