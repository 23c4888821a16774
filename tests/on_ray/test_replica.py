"""What a replica does of itself, without Serve around it; with it: test_serve.py."""

import asyncio
import logging
import threading

import pytest

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.endpoint import logs
from mri_ray.endpoint.settings import EndpointConfig, KeysConfig, LimitsConfig
from mri_ray.errors import BundleError, ConfigError
from mri_ray.learn import bundle as bundles
from mri_ray.on_ray import serve as on_ray_serve
from mri_ray.on_ray import serve_here
from mri_ray.on_ray.serve import Endpoint, application, build
from mri_ray.on_ray.settings import ServeRun
from tests.endpoint.small import Client, bundle_of


@pytest.fixture
def replica(monkeypatch) -> Endpoint:
    monkeypatch.setattr(logs, "to_stderr", lambda: None)  # the logs are this test's
    return Endpoint(EndpointConfig(keys=KeysConfig(required=False)))


def named(*places) -> dict:
    return {"bundles": [{"uri": str(place)} for place in places]}


@pytest.mark.parametrize(
    ("kind", "told"),
    [("BundleError", "bundle.json: must be there"), ("ConfigError", "at least one"), ("RuntimeError", "RuntimeError")],
)
def test_a_first_bundle_that_is_refused_ends_the_replica_and_says_what_to_do(
    replica, tmp_path, monkeypatch, caplog, kind, told
):
    if kind == "RuntimeError":
        monkeypatch.setattr(bundles, "load", lambda place: _fail())
    wanted = named() if kind == "ConfigError" else named(tmp_path / "none")
    with caplog.at_level(logging.INFO, "mri_ray"), pytest.raises(BundleError) as error:
        asyncio.run(replica.reconfigure(wanted))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    for text in (str(error.value), record.getMessage()):
        assert told in text
        assert "deploy again" in text
        assert "DOE" not in text
    ready = Client(replica.__serve_build_asgi_app__())("GET", "/readyz")
    assert (ready.status_code, ready.json()["refused"]) == (503, kind)


def test_a_replica_comes_to_refuse_what_the_proxy_would():
    limits = LimitsConfig(concurrent=10, retry_after_s=7)
    told = application(EndpointConfig(limits=limits))._bound_deployment
    assert told.max_ongoing_requests > limits.concurrent
    assert told.max_queued_requests == told.max_ongoing_requests
    assert told.backpressure_config.retry_after_s == 7


def test_without_keys_nothing_stands_behind_haproxy(monkeypatch):
    monkeypatch.setattr(on_ray_serve, "RAY_SERVE_ENABLE_HA_PROXY", True)
    build({"keys": {"required": True}})
    with pytest.raises(ConfigError, match=r"keys\.required: must be true behind HAProxy"):
        build({"keys": {"required": False}})


def test_a_cluster_where_serve_runs_is_left_alone(monkeypatch):
    monkeypatch.setattr(serve_here, "_has_controller", lambda: True)
    settings = config.build(ServeRun, {"bundle": "/b", "port": 1})
    with pytest.raises(ConfigError, match="must be a cluster where no Serve runs"):
        serve_here._serve(settings, settings.endpoint, print, threading.Event())


def _fail() -> None:
    raise RuntimeError("DOE^JANE")


def test_a_later_one_leaves_what_answers(replica, tmp_path, caplog):
    digest = bundles.save(bundle_of(1), Location.of(str(tmp_path / "good")))
    ask = Client(replica.__serve_build_asgi_app__())

    async def both() -> None:
        await replica.reconfigure(named(tmp_path / "good"))
        await replica.reconfigure(named(tmp_path / "none"))

    with caplog.at_level(logging.INFO, "mri_ray"):
        asyncio.run(both())
    assert "bundles refused" in caplog.text
    told = ask("GET", "/v1/model").json()
    assert (told["refused"], [one["bundle"] for one in told["bundles"]]) == ("BundleError", [digest])
    assert ask("GET", "/readyz").status_code == 200
    assert ask("GET", "/v1/model/card").text.startswith("# Model card")
