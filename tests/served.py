"""An endpoint over HTTP for tests, in a thread of the test's own process and without Ray."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import BundleConfig, EndpointConfig, KeysConfig
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.settings import PrepareConfig

SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Served:
    url: str
    app: FastAPI
    predictor: Predictor

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


def small_bundle(**changes) -> Bundle:
    """Untrained, and with answers that differ from picture to picture."""
    model = ModelConfig(input_size=SIDE, width=4, blocks=4)
    weights = build(model, seed=1).state_dict()
    return Bundle(model=model, prepare=PrepareConfig(size=SIDE), weights=weights, temperature=0.05, **changes)


@contextmanager
def served(bundle: Bundle, emit=lambda metric, value, tags: None, **settings) -> Iterator[Served]:
    """settings: of EndpointConfig; no keys are asked for, since it listens on loopback only."""
    config = EndpointConfig(**({"keys": KeysConfig(required=False)} | settings))
    service, predictor = Service(config), Predictor(bundle, precision="fp32", threads=1)

    async def ask(pictures):
        return (await asyncio.to_thread(lane.together, predictor, [pictures]))[0]

    service.use(lane.Lanes(lanes=[lane.Lane(config=BundleConfig(uri="here"), predictor=predictor, ask=ask)]))
    app = apps.create(service, Keys(config.keys, {}), emit=emit)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
        free.listen(64)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.02)
            yield Served(url=f"http://127.0.0.1:{free.getsockname()[1]}", app=app, predictor=predictor)
        finally:
            server.should_exit = True
            thread.join(20)
            service.close()
