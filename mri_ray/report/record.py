"""run.json: what a run was told, found and made, and how long that took; while it goes on, how far it is."""

import json
import logging
import platform
import secrets
import threading
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
from mri_ray.errors import ArchiveDenied, ArchiveError, MriRayError, TooManyQuarantined
from mri_ray.records import SCHEMA_VERSION

BEAT_S = 5.0  # between two times that a run which goes on says how far it is
_TOLD = (
    *("stage", "objects_done", "objects_total", "bytes_done", "bytes_total"),
    *("objects_per_s", "bytes_per_s", "eta_s", "quarantined"),
)
LIBRARIES = (
    *("ray", "torch", "torchvision", "pyarrow", "pillow", "opencv-python-headless", "numpy"),
    *("pydicom", "imagecodecs", "nibabel"),
)


log = logging.getLogger(__name__)


class Record:
    """Filled while a run goes on; `values` are those of run.json when it is complete."""

    def __init__(self, job: str, settings: Any) -> None:
        now = datetime.now(UTC)
        self.run_id = f"{job}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._started = time.monotonic()
        self._timings: dict[str, float] = {}
        self._progress: dict[str, Any] = {"run_id": self.run_id, "started": _text(now)} | dict.fromkeys(_TOLD)
        self._writing = threading.Lock()
        self._complete = False
        self.values: dict[str, Any] = {
            "run_id": self.run_id,
            "job": job,
            "state": "running",
            "complete": None,
            "started": _text(now),
            "settings": asdict(settings),
            "versions": versions(),
            "warnings": [],
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the run, in seconds."""
        started = time.monotonic()
        self.tell(stage=name)
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

    def tell(self, **progress: Any) -> None:
        """How far the work is: what run.json will say of it next."""
        self._progress = self._progress | progress  # a new one, since another thread may be writing the old

    def write(self, output: Location) -> None:
        """Say that the run is complete, and all that it has found."""
        with self._writing:
            self._complete = True
            self.note(state="done", complete=self.run_id, timings_s=self.timings_s, progress=self._now())
            output.write(RECORD, _json(self.values))

    @contextmanager
    def kept(self, output: Location) -> Iterator[None]:
        """Within the context run.json says every few seconds how far the run is, and afterwards how it ended.

        All else in it is what the last run that was completed has said, until this one is: other than `state`,
        `progress` and `error` nothing changes before. Raises ArchiveError, before any work, where it cannot be written.
        """
        # Not taken from `values` later: these the run's own thread goes on to fill.
        first = dict(self.values)
        self._say(output, first, state="running")
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(output, first, ended), name=RECORD, daemon=True)
        beat.start()
        try:
            yield
        except BaseException as exc:
            ended.set()
            beat.join()
            # Of errors that are not ours the text may hold anything.
            error = {"kind": type(exc).__name__, "text": str(exc) if isinstance(exc, MriRayError) else None}
            with _forgiven():
                self._say(output, self.values, state="failed", error=error)
            raise
        else:
            ended.set()
            beat.join()
            self._settle(output)

    def _settle(self, output: Location) -> None:
        """Where another run's results stay current, take back that this one is running."""
        values = json.loads(output.read(RECORD))
        if values["state"] == "running" and values["progress"]["run_id"] == self.run_id:
            output.write(RECORD, _json(values | {"state": "done"}))

    def _beat(self, output: Location, first: dict[str, Any], ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with self._writing:
                if self._complete:
                    return
                with _forgiven():
                    self._say(output, first, state="running")

    def _say(self, output: Location, first: dict[str, Any], **now: Any) -> None:
        """first: what is said where no run was ever completed.

        What is there is read each time, as another run may have been completed meanwhile. (Should that happen between
        the two lines below, its results are out of sight until this run ends: they are there, and a rerun finds them.)
        """
        before = last_complete(output)
        output.write(RECORD, _json((before or first) | now | {"progress": self._now()}))

    def _now(self) -> dict[str, Any]:
        return self._progress | {"updated": _text(datetime.now(UTC))}


def last_complete(output: Location) -> dict[str, Any] | None:
    """What the last run that was completed has said in run.json, whatever later ones are at; None when there is none.

    Raises ArchiveError when it cannot be read.
    """
    try:
        values = json.loads(output.read(RECORD))
        if values.get("state", "done") == "done":  # those of earlier versions, which name no state, were complete
            values["complete"] = values["run_id"]
        complete = values["complete"]
    except FileNotFoundError:
        return None
    except OSError as exc:
        kind = ArchiveDenied if isinstance(exc, PermissionError) else ArchiveError
        raise kind(f"output: {RECORD} must be readable, got {exc.strerror}: {output.uri_of(RECORD)}") from exc
    except (ValueError, LookupError, AttributeError):
        log.warning("%s is not what a run writes, and is replaced", output.uri_of(RECORD))
        return None
    if complete is None:
        return None
    return {name: value for name, value in values.items() if name not in ("progress", "error")}


def figures(this_run: dict[str, Any]) -> dict[str, float]:
    """The single numbers of what a run did, seconds by stage among them."""
    single = {name: value for name, value in this_run.items() if isinstance(value, int | float)}
    return single | {f"{stage}_s": seconds for stage, seconds in this_run.get("stages_s", {}).items()}


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, allow_nan=False).encode()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


@contextmanager
def _forgiven() -> Iterator[None]:
    """A run does not end because it could not say how far it is, nor hides so why it has failed."""
    try:
        yield
    except (ValueError, TypeError) as exc:  # ArchiveError, or values that JSON does not hold
        log.warning("%s could not be written: %s", RECORD, exc)


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
