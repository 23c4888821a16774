"""Which of an archive's objects a run is about."""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mri_ray.archive.identity import digest
from mri_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """A part of an archive; what is left out is for this run as if it were not there.

    include, exclude: shell patterns of paths below the archive's root, where `*` stands for any text, `/` included; a
    path needs one of include (all, if there is none) and none of exclude. fraction: of these, drawn by a hash of the
    path, so that a larger one holds a smaller one. limit: the first of these in the order of their paths.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fraction: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if not all(isinstance(pattern, str) and pattern for pattern in getattr(self, name)):
                raise ConfigError(f"{name}: must list patterns of paths, got {getattr(self, name)!r}")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction: must be above 0 and at most 1, got {self.fraction!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: must be at least 1, got {self.limit!r}")

    @property
    def is_all(self) -> bool:
        return self == SelectConfig()


def selected(pages: Iterable[pa.RecordBatch], config: SelectConfig) -> Iterator[pa.RecordBatch]:
    """The rows of a listing (`records.LISTING`) that a run is about, in the same order."""
    left = config.limit
    for page in pages:
        chosen = page.filter(pa.array(_mask(page.column("key"), config)))
        if left is not None:
            chosen = chosen.slice(0, left)
            left -= chosen.num_rows
        if chosen.num_rows:
            yield chosen
        if left == 0:
            return


def leaves_out(config: SelectConfig, folder: str) -> bool:
    """Whether all that lies in a folder is excluded: one of the patterns matches its path and its closing "/"."""
    return bool(config.exclude) and bool(_matching(pa.array([f"{folder}/"]), config.exclude)[0])


def _mask(keys: pa.Array, config: SelectConfig) -> np.ndarray:
    mask = np.ones(len(keys), bool)
    if config.include:
        mask &= _matching(keys, config.include)
    if config.exclude:
        mask &= ~_matching(keys, config.exclude)
    if config.fraction < 1:
        bound = int(config.fraction * 2**64)
        drawn = np.flatnonzero(mask)
        names = keys.take(pa.array(drawn)).to_pylist()
        mask[drawn] = [int(digest("sample", name)[:16], 16) < bound for name in names]
    return mask


def _matching(keys: pa.Array, patterns: tuple[str, ...]) -> np.ndarray:
    expression = re.compile("|".join(map(fnmatch.translate, patterns)))
    return np.array([expression.match(key) is not None for key in keys.to_pylist()], bool)
