"""A small bundle, pictures for it, and somebody who asks the endpoint's app."""

import asyncio
import io

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from mri_ray.endpoint import lane
from mri_ray.endpoint.settings import BundleConfig
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.settings import PrepareConfig

SIZE = 32


def bundle_of(seed: int) -> Bundle:
    model = ModelConfig(input_size=SIZE, width=2, blocks=3, dense=4)
    weights = build(model, seed=seed).state_dict()
    return Bundle(model=model, prepare=PrepareConfig(size=SIZE), weights=weights, threshold=0.4, refer=(0.35, 0.5))


def png(number: int = 0, side: int = 48) -> bytes:
    """A bright disc on noise, different for each number."""
    rng = np.random.default_rng(number)
    y, x = np.indices((side, side))
    disc = 150.0 * ((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2)
    held = io.BytesIO()
    Image.fromarray(np.clip(disc + rng.normal(40, 15, (side, side)), 0, 255).astype(np.uint8)).save(held, "PNG")
    return held.getvalue()


def lane_of(bundle: Bundle, **config: object) -> lane.Lane:
    predictor = Predictor(bundle, engine="auto")

    async def ask(pictures: np.ndarray) -> object:
        return (await asyncio.to_thread(lane.together, predictor, [pictures]))[0]

    told = BundleConfig(uri=bundle.digest, **config)
    return lane.Lane(config=told, predictor=predictor, ask=ask, at_once=lambda pictures: predictor.predict(pictures))


class Client:
    """Asks an app as somebody on this machine (or elsewhere: `host`) would."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1") -> None:
        self.app, self.host = app, host

    def __call__(self, method: str, path: str, **given: object) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=(self.host, 1), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                found = await client.request(method, path, **given)
            await self.app.state.service.settled()
            return found

        return asyncio.run(ask())
