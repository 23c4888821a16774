"""The bytes of a request -> prepared slices, by the decoders and the preparation of batch."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.endpoint.problems import Problem, of_reason
from mri_ray.prepare.objects import pixel_digest
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Failure, Flag, Header

_WHERE = "upload"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One slice ready for the model. number: its place in the request; frame and member: in the object, as batch says.

    pixels: uint8 (1, S, S). head: uint8 (S, S), what a person is to see of them. header: as the file has it, for what
    must answer by its identifiers. level: as mean_level of prepared rows.
    """

    number: int
    frame: int
    member: str | None
    pixels: np.ndarray
    head: np.ndarray
    flags: frozenset[Flag]
    digest: str
    header: Header
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a request's object held: in the order stored, the slices and what failed beside them.

    members: of a pack, by their names, their numbers in the order stored; names may be those of patients.
    """

    pictures: Sequence[Picture]
    failures: Sequence[Failure]
    members: Mapping[str, int] = field(default_factory=dict)

    def stacked(self) -> np.ndarray:
        return np.stack([picture.pixels for picture in self.pictures])


def upload(body: bytes, decode: DecodeConfig, settings: PrepareConfig, *, slices: int) -> Upload:
    """Raises Problem where there is no slice, or more than `slices`."""
    pictures: list[Picture] = []
    failures: list[Failure] = []
    members: dict[str, int] = {}
    for number, item in enumerate(read(io.BytesIO(body), _WHERE, decode)):
        if number >= slices:
            raise Problem(413, f"an object may hold {slices} slices at most", reason="oversized.frames")
        if item.member is not None:
            members.setdefault(item.member, len(members))
        if isinstance(item, Failure):
            failures.append(item)
            continue
        prepared = prepare(item, settings)
        picture = Picture(
            number=number,
            frame=item.frame,
            member=item.member,
            pixels=prepared.pixels,
            head=prepared.head,
            flags=prepared.flags,
            digest=pixel_digest(item),
            header=item.header,
            level=float(prepared.whole.mean()),
        )
        pictures.append(picture)
    if not pictures:
        raise _refusal(failures)
    return Upload(pictures=pictures, failures=failures, members=members)


def _refusal(failures: Sequence[Failure]) -> Problem:
    """By the first that is a fault, else by the first of what was only passed over."""
    first = next((failure for failure in failures if not failure.reason.skips), failures[0])
    return of_reason(first.reason, first.detail)
