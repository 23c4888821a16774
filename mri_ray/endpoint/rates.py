"""How many requests a key may make in a time: a token bucket for each, in this replica alone.

Replicas do not agree on anything here, so a key may ask each of them as much. No library: `limits`, the one that is
well kept, has windows but no buckets, and remembers the time of every request.
"""

import math
import time
from collections.abc import Callable

from mri_ray.endpoint.problems import Problem

_MANY = 1_000  # buckets, from which those that are full again, and so say nothing, are thrown away


class Rates:
    """per_minute: of each key, and so many at once after a minute's rest; None: as many as one likes."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._left: dict[str, tuple[float, float]] = {}  # requests that are left, and when they were counted
        self._sweep_at = _MANY

    def take(self, key_id: str) -> None:
        """Count a request. Raises Problem 429 for one too many, which does not count."""
        if self._most is None:
            return
        now = self._clock()
        room = max(self._most, 1.0)  # less than one a minute still has one to begin with
        left, then = self._left.get(key_id, (room, now))
        left = min(room, left + (now - then) * self._most / 60)
        if left < 1:
            after = math.ceil((1 - left) * 60 / self._most)
            detail = f"a key may make {self._most:g} requests a minute, got more"
            raise Problem(429, detail, headers={"Retry-After": str(after)})
        self._left[key_id] = (left - 1, now)
        if len(self._left) > self._sweep_at:  # tokens bring as many ids as they have subjects
            self._sweep(now, room, self._most / 60)

    def _sweep(self, now: float, room: float, a_second: float) -> None:
        kept = {key: (left, then) for key, (left, then) in self._left.items() if left + (now - then) * a_second < room}
        self._left, self._sweep_at = kept, max(_MANY, 2 * len(kept))
