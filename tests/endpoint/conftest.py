"""The endpoint's app with a small bundle, without Ray: by ASGI, and behind a real server on the loopback interface."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from fastapi import FastAPI

from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import EndpointConfig, KeysConfig
from mri_ray.learn.bundle import Bundle
from tests.endpoint.small import bundle_of, lane_of

Make = Callable[..., FastAPI]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return bundle_of(1)


@pytest.fixture
def make(bundle: Bundle) -> Iterator[Make]:
    """An app: `make(limits=..., lanes=[...], environment={...})`; without keys unless some are given."""
    services = []

    def made(
        *, lanes: list | None = None, environment: dict | None = None, jobs_api: object = None, **config: object
    ) -> FastAPI:
        environment = environment or {}
        config.setdefault("keys", KeysConfig(required=bool(environment)))
        service = Service(EndpointConfig(**config))
        services.append(service)
        service.use(lane.Lanes(lanes=[lane_of(bundle)] if lanes is None else lanes))
        return apps.create(service, Keys(service.config.keys, environment), scoring=jobs_api)

    yield made
    for service in services:
        service.close()


@pytest.fixture
def served() -> Iterator[Callable[[FastAPI], int]]:
    """Starts real servers for apps, each on a port of its own."""
    running = []

    def serve(app: FastAPI) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread))
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        assert server.started
        return listening.getsockname()[1]

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()
