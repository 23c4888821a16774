"""run.json: what a run was told, what it found, what it made, and how long that took."""

import json
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from mri_ray import __version__
from mri_ray.archive.runs import RECORD
from mri_ray.archive.storage import Location
from mri_ray.errors import TooManyQuarantined
from mri_ray.records import SCHEMA_VERSION

LIBRARIES = (
    *("ray", "torch", "torchvision", "pyarrow", "pillow", "opencv-python-headless", "numpy"),
    *("pydicom", "imagecodecs", "nibabel"),
)


class Record:
    """Filled while a run goes on, written when it ends; `values` are those of run.json."""

    def __init__(self, job: str, settings: Any) -> None:
        now = datetime.now(UTC)
        self.run_id = f"{job}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._started = time.monotonic()
        self._timings: dict[str, float] = {}
        self.values: dict[str, Any] = {
            "run_id": self.run_id,
            "job": job,
            "started": now.isoformat(timespec="seconds"),
            "settings": asdict(settings),
            "versions": versions(),
            "warnings": [],
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the run, in seconds."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._timings[name] = self._timings.get(name, 0.0) + time.monotonic() - started

    def note(self, **values: Any) -> None:
        self.values.update(values)

    @property
    def timings_s(self) -> dict[str, float]:
        timings = self._timings | {"total": time.monotonic() - self._started}
        return {name: round(seconds, 3) for name, seconds in timings.items()}

    def write(self, output: Location) -> None:
        self.values["timings_s"] = self.timings_s
        output.write(RECORD, json.dumps(self.values, indent=2, allow_nan=False).encode())


def versions() -> dict[str, str]:
    """Of Python, the libraries that decide a result, and the tables' schema."""
    return {name: version(name) for name in LIBRARIES} | {
        "mri_ray": __version__,  # not from the metadata: a submitted working directory is not installed
        "python": platform.python_version(),
        "schema": str(SCHEMA_VERSION),
    }


def judge(counts: dict[str, int], reasons: dict[str, int], allowed: float) -> None:
    """Raise TooManyQuarantined when more than this fraction of the objects has no slice."""
    fraction = counts["quarantined"] / counts["objects"]
    if fraction > allowed:
        found = ", ".join(f"{name}: {number}" for name, number in sorted(reasons.items()))
        raise TooManyQuarantined(
            f"max_quarantined_fraction: at most {allowed:g} of the objects may be quarantined, got {fraction:.4g}: "
            f"{counts['quarantined']} of {counts['objects']}; {found}"
        )
