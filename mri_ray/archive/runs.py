"""The runs that have written below an output: a folder each, and copies of the current one's files beside them.

runs/<run id>/begun.json   what the run works on: first of all, so that nobody removes it meanwhile
runs/<run id>/...          its tables and its report
runs/<run id>/run.json     last: the run has finished
run.json, report.html ...  copies of one run's files, run.json last: that run is the current one
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError

FOLDER, BEGUN, RECORD = "runs", "begun.json", "run.json"
# A run that was killed cannot say so; until this long after it was last heard of it may still be at work.
_PULSE_S, _MAY_WORK = 600, timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run below an output. results: its snapshot, None while the archive is listed; record: run.json, once there.

    since: when it began, and once it knows what the archive holds, when that was; heard: its last sign of life; ended:
    it said that it is over, whether it finished or not.
    """

    run_id: str
    generation: str
    results: str | None
    since: datetime
    heard: datetime
    ended: bool
    record: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        return self.record is not None

    @property
    def may_work(self) -> bool:
        return not self.finished and not self.ended and datetime.now(UTC) - self.heard < _MAY_WORK

    @property
    def looked(self) -> tuple[str, int]:
        """Which manifest, and as of which listing, a finished run's results are of."""
        assert self.record is not None
        return self.record["manifest"], self.record["listing"]


def place(output: Location, run_id: str) -> Location:
    return output / FOLDER / run_id


class Begun:
    """The note of a run under way, with a sign of life from time to time."""

    def __init__(self, output: Location, run_id: str, generation: str) -> None:
        self._place = place(output, run_id)
        self._told: dict[str, Any] = {"generation": generation, "results": None, "ended": False}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._pulse = threading.Thread(target=self._live, daemon=True)
        self.note()
        self._pulse.start()

    def note(self, **values: Any) -> None:
        now = datetime.now(UTC).isoformat()
        self._write(**values, since=now, heard=now)

    def close(self) -> None:
        self._over.set()
        self._pulse.join()
        with suppress(ArchiveError):  # whatever went wrong before is what must be told
            self._write(ended=True)

    def _live(self) -> None:
        while not self._over.wait(_PULSE_S):
            with suppress(ArchiveError):  # the next one may be heard
                self._write(heard=datetime.now(UTC).isoformat())

    def _write(self, **values: Any) -> None:
        with self._lock:
            self._told |= values
            self._place.write(BEGUN, json.dumps(self._told).encode())


@contextmanager
def begun(output: Location, run_id: str, generation: str) -> Iterator[Begun]:
    """Within the context the generation is known to be worked on."""
    run = Begun(output, run_id, generation)
    try:
        yield run
    finally:
        run.close()


def read(output: Location) -> list[Run]:
    """All runs below an output, the one that looked at the archive last first. Raises ArchiveError."""
    keys = output.keys(f"{FOLDER}/")
    notes = _documents(output, [key for key in keys if key.endswith(f"/{BEGUN}") and key.count("/") == 2])
    records = _documents(output, [key for key in keys if key.endswith(f"/{RECORD}") and key.count("/") == 2])
    found = [
        Run(
            run_id=run_id,
            generation=told["generation"],
            results=told["results"],
            since=datetime.fromisoformat(told["since"]),
            heard=datetime.fromisoformat(told["heard"]),
            ended=told["ended"],
            record=records.get(run_id),
        )
        for run_id, told in notes.items()
    ]
    return sorted(found, key=lambda run: (run.since, run.run_id), reverse=True)


def current(output: Location, runs: Sequence[Run]) -> Run | None:
    """The finished run whose snapshot run.json names, if there is one; of several, the one run.json is of."""
    with suppress(FileNotFoundError):
        record = json.loads(output.read(RECORD))
        fitting = [run for run in runs if run.finished and run.results == record.get("results")]
        return next((run for run in fitting if run.run_id == record.get("run_id")), next(iter(fitting), None))
    return None


def publish(output: Location, run_id: str) -> bool:
    """Make a finished run the current one; False where one with a later look at the archive has become that meanwhile.

    So of runs at once over a changing archive, whichever ends last, the newest results stand.
    """
    runs = read(output)
    mine = next(run for run in runs if run.run_id == run_id)
    there = current(output, runs)
    if there is not None and there.generation == mine.generation:
        (manifest, listing), (other, later) = mine.looked, there.looked
        if manifest == other and listing < later:
            return False
    point(output, run_id)
    return True


def point(output: Location, run_id: str) -> None:
    """Copy a finished run's files to the output. Nothing but run.json, which comes last, says that they are current."""
    run = place(output, run_id)
    for key in run.keys():  # noqa: SIM118 - a location is no dict
        if "/" not in key and key not in (BEGUN, RECORD):
            output.write(key, run.read(key))
    output.write(RECORD, run.read(RECORD))


def _documents(output: Location, keys: list[str]) -> dict[str, dict[str, Any]]:
    """JSON documents by the run in whose folder they lie."""
    found = {}
    for key, body in zip(keys, output.read_many(keys), strict=True):
        if isinstance(body, FileNotFoundError):
            continue  # its retention ends as we look
        if isinstance(body, OSError):
            raise ArchiveError(f"runs: {key} must be there to be read, got {body}: {output.uri}") from body
        found[key.split("/")[1]] = json.loads(body)
    return found
