"""Whether what comes still looks like what a bundle was made on: the last slices of a replica against its reference."""

from collections import deque
from enum import StrEnum
from typing import Any

import numpy as np

from mri_ray.endpoint.reading import Upload
from mri_ray.endpoint.settings import DriftConfig
from mri_ray.learn import reference
from mri_ray.learn.bundle import Bundle
from mri_ray.predict.predictor import Predictions
from mri_ray.records import Flag


class Status(StrEnum):
    UNKNOWN = "unknown"  # the bundle was made without a reference
    TOO_FEW = "too few"  # slices, to say anything
    STEADY = "steady"
    WATCH = "watch"
    DRIFTED = "drifted"


class Window:
    """The last slices that one bundle has answered in this replica; blank ones do not count."""

    def __init__(self, bundle: Bundle, config: DriftConfig) -> None:
        self._told, self._config = bundle.reference, config
        self._rows: deque[tuple[dict[str, float], dict[str, str]]] = deque(maxlen=int(config.window))
        self._fresh = 0

    def add(self, upload: Upload, found: Predictions) -> bool:
        """Whether enough is new that looking again pays: a tenth of the window, or the first that is enough."""
        before = len(self._rows)
        for picture, probability in zip(upload.pictures, found.probability, strict=True):
            if Flag.BLANK in picture.flags:
                continue
            words = {name: reference.word(getattr(picture.header, name)) for name in reference.WORDS}
            self._rows.append(({"probability": float(probability), "level": picture.level}, words))
            self._fresh += 1
        least = self._config.least
        due = self._fresh >= self._config.window / 10 or before < least <= len(self._rows)
        if due:
            self._fresh = 0
        return due and len(self._rows) >= least

    def told(self) -> dict[str, Any]:
        """status; slices in the window; by name psi and ks; worst: the name with the highest psi."""
        found: dict[str, Any] = {"status": Status.UNKNOWN, "slices": len(self._rows), "of": {}, "worst": None}
        if not self._told:
            return found
        if len(self._rows) < self._config.least:
            return found | {"status": Status.TOO_FEW}
        numbers = {name: np.array([row[0][name] for row in self._rows]) for name in reference.NUMBERS}
        words = {name: [row[1][name] for row in self._rows] for name in reference.WORDS}
        found["of"] = reference.compared(self._told, numbers, words)
        found["worst"] = worst = max(found["of"], key=lambda name: found["of"][name]["psi"])
        highest = found["of"][worst]["psi"]
        config = self._config
        moved = Status.DRIFTED if highest >= config.drifted else Status.WATCH
        return found | {"status": Status.STEADY if highest < config.watch else moved}
