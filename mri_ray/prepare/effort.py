"""Where the time of a shard goes: seconds by stage, measured while rows are drawn through one stage after the other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")

FETCH, DECODE, PREDICT, WRITE = "fetch", "decode", "predict", "write"  # decode: and prepare


class Effort:
    """What one shard has cost one thread.

    seconds: by stage; a stage within another is not counted twice. pictures: how many each call of the network held.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.pictures: list[int] = []
        self._within: list[str] = []  # the innermost last
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what happens within, but for stages that begin there. Not to be left open over a generator's yield."""
        self._charge()
        self._within.append(name)
        try:
            yield
        finally:
            self._charge()
            self._within.pop()

    def drawing(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; waiting for each counts as the stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    @property
    def stages_s(self) -> dict[str, float]:
        return {name: round(seconds, 4) for name, seconds in self.seconds.items()}

    def _charge(self) -> None:
        now = perf_counter()
        if self._within:
            self.seconds[self._within[-1]] += now - self._since
        self._since = now
