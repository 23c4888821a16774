"""How often a key may ask."""

import pytest

from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.rates import Rates
from mri_ray.endpoint.settings import LimitsConfig
from mri_ray.errors import ConfigError
from tests.endpoint.small import Client, png

SECRETS = {name: f"{name}-secret-0123456789" for name in ("ward", "night")}
KEYS = {"MRI_RAY_API_KEYS": "".join(f"{name} predict {secret}\n" for name, secret in SECRETS.items())}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, key_id: str, times: int = 100) -> tuple[int, str | None]:
    """How many requests go through, and after how long the next may come."""
    for number in range(times):
        try:
            rates.take(key_id)
        except Problem as problem:
            return number, problem.headers["Retry-After"]
    return times, None


def test_a_minute_at_once_and_then_as_it_flows():
    clock = Clock()
    rates = Rates(12, clock)
    assert taken(rates, "a") == (12, "5")
    assert taken(rates, "b") == (12, "5")  # each key has its own
    clock.now += 4
    assert taken(rates, "a") == (0, "1")
    clock.now += 1
    assert taken(rates, "a") == (1, "5")
    clock.now += 3600
    assert taken(rates, "a") == (12, "5")


def test_less_than_one_a_minute_is_some_too():
    clock = Clock()
    rates = Rates(0.5, clock)
    assert taken(rates, "a") == (1, "120")
    clock.now += 120
    assert taken(rates, "a") == (1, "120")


def test_without_a_rate_there_is_no_end():
    assert taken(Rates(None), "a", 10_000) == (10_000, None)


def test_keys_that_rest_are_forgotten():
    clock = Clock()
    rates = Rates(60, clock)
    for number in range(5_000):
        clock.now += 1
        rates.take(f"jwt-{number}")
    assert len(rates._left) <= 1_001


def test_a_key_that_asks_too_often_is_told_when_and_others_are_answered(make):
    ask = Client(make(environment=KEYS, limits=LimitsConfig(per_minute=2)))

    def status(name: str) -> int:
        return ask("POST", "/v1/predict", content=png(), headers={"X-API-Key": SECRETS[name]}).status_code

    assert [status("ward") for _ in range(3)] == [200, 200, 429]
    assert status("night") == 200
    for path in ("/v1/model", "/v2/models/mri_ray"):
        refused = ask("GET", path, headers={"X-API-Key": SECRETS["ward"]})
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert ask("GET", "/readyz").status_code == 200


def test_a_rate_is_above_nothing():
    with pytest.raises(ConfigError, match="per_minute"):
        LimitsConfig(per_minute=0)
