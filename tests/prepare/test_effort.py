"""Seconds go to the innermost stage, and to none twice."""

import pytest

from mri_ray.prepare import effort as module
from mri_ray.prepare.effort import Effort


class Clock:
    """A time that passes only where a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def test_rows_that_are_drawn_through_one_stage_after_the_other(clock):
    effort = Effort()

    def after(seconds: float, items):
        for item in items:
            clock.now += seconds
            yield item

    fetched = effort.drawing("fetch", after(1.0, range(3)))
    decoded = effort.drawing("decode", after(0.25, fetched))
    with effort.stage("write"):
        clock.now += 5.0
        assert list(decoded) == [0, 1, 2]
        clock.now += 5.0
    clock.now += 1000.0  # of no stage
    assert effort.stages_s == {"fetch": 3.0, "decode": 0.75, "write": 10.0}


def test_an_error_ends_its_stages(clock):
    effort = Effort()

    def broken():
        clock.now += 2.0
        raise OSError
        yield

    with pytest.raises(OSError), effort.stage("write"):  # noqa: PT011
        list(effort.drawing("decode", broken()))
    clock.now += 1000.0
    with effort.stage("write"):
        clock.now += 1.0
    assert effort.stages_s == {"decode": 2.0, "write": 1.0}
