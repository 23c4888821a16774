"""Other ways to divide a cohort, each for a training of its own whose figures stand beside those of the bundle."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mri_ray.cohort.assemble import Cohort
from mri_ray.cohort.sources import others
from mri_ray.cohort.split import SIDES, TEST, TRAIN, VALIDATION, SplitConfig, assign, leakage

FOLDS, SOURCES, NAIVE = "folds", "sources", "naive, leaky"
_SHUFFLE = 2.0**20  # of a position's 53 bits the upper ones say which fold, the lower ones which of its rows validate


@dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """kind: FOLDS, SOURCES or NAIVE. name: of this one of them. fault: why no training can be made of it."""

    kind: str
    name: str
    cohort: Cohort
    fault: str | None = None


def divisions(cohort: Cohort, config: SplitConfig, *, naive: bool, seed: int) -> list[Division]:
    """Those that the settings ask for, by kind. A single source gives none, nor a split that is naive itself."""
    found = [*_folds(cohort, config)] if config.folds else []
    if config.by_source and len(cohort.sources) > 1:
        found += _sources(cohort, config)
    if naive and config.by != "image":
        found.append(_naive(cohort, config, seed))
    return found


def _folds(cohort: Cohort, config: SplitConfig) -> Iterator[Division]:
    fold = np.minimum((cohort.position * config.folds).astype(int), config.folds - 1)
    for number in range(config.folds):
        yield _apart(cohort, config, fold == number, FOLDS, f"fold {number + 1} of {config.folds}")


def _sources(cohort: Cohort, config: SplitConfig) -> Iterator[Division]:
    for number, name in enumerate(cohort.sources):
        # A group that several sources share (a copy of a picture) must not be met before.
        tested = cohort.source == number
        spoilt = np.isin(cohort.group, cohort.group[tested]) & ~tested
        title = f"{name or 'the root'}, by what was learned from {others(cohort.sources, number)}"
        yield _apart(cohort, config, tested, SOURCES, title, without=spoilt)


def _naive(cohort: Cohort, config: SplitConfig, seed: int) -> Division:
    """Slices dealt one by one, as most who report such figures do."""
    row_ids = cohort.index["row_id"].to_pylist()
    sides = assign(replace(config, by="image"), seed=seed, keys=[], row_ids=row_ids, patients=[], groups=cohort.group)
    return _checked(replace(cohort, side=sides, leakage=leakage(sides, cohort.group)), NAIVE, "slices at random")


def _apart(
    cohort: Cohort, config: SplitConfig, tested: np.ndarray, kind: str, name: str, without: np.ndarray | None = None
) -> Division:
    """One part is the test side; of the rest, groups are dealt to training and validation by the settings' shares."""
    share = config.validation / (1 - config.test)
    within = np.modf(cohort.position * _SHUFFLE)[0]
    sides = np.where(tested, TEST, np.where(within < share, VALIDATION, TRAIN)).astype(np.int8)
    kept = np.ones(len(sides), bool) if without is None else ~without
    return _checked(cohort.only(kept, sides[kept]), kind, name)


def _checked(cohort: Cohort, kind: str, name: str) -> Division:
    fault = None
    for side in (TRAIN, VALIDATION, TEST):
        classes = len(np.unique(cohort.label[cohort.side == side]))
        if not classes:
            fault = f"its {SIDES[side]} side would be empty"
        elif side == TRAIN and classes == 1:
            fault = "its training side would hold one class only"
    return Division(kind=kind, name=name, cohort=cohort, fault=fault)
