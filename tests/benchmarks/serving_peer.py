"""What others would write in place of the endpoint: FastAPI around a torch module, one picture a request.

    python -m tests.benchmarks.serving_peer BUNDLE PORT fp32|torch|ours

fp32: as users write it, Pillow and the eager network, no batching. torch: the same, with torch's network at our
precision. ours: our decoding, preparation and fast network, in a server without Ray, limits or batching.
"""

import io
import sys

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from mri_ray.archive.storage import Location
from mri_ray.decode.read import read
from mri_ray.learn import bundle as bundles
from mri_ray.learn.cnn import answer
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.slices import prepare
from mri_ray.records import Slice


def make(uri: str, way: str) -> FastAPI:
    bundle = bundles.load(Location.of(uri))
    app, net, size = FastAPI(), bundles.module(bundle), bundle.prepare.size
    predictor = Predictor(bundle, threads=1, engine="torch" if way == "torch" else "auto") if way != "fp32" else None

    def plain(body: bytes) -> float:
        picture = np.array(Image.open(io.BytesIO(body)).convert("L").resize((size, size)))
        if predictor is not None:
            return float(predictor.predict(picture[None, None]).probability[0])
        with torch.inference_mode():
            z = answer(net(torch.from_numpy(picture)[None, None].float() / 255)).logits
        return float(torch.sigmoid(z[0, 1] - z[0, 0]))

    def ours(body: bytes) -> float:
        assert predictor is not None
        (item,) = read(io.BytesIO(body), "body")
        assert isinstance(item, Slice)
        return float(predictor.predict(prepare(item, bundle.prepare).pixels[None]).probability[0])

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, float]:
        body = await request.body()
        return {"probability": await run_in_threadpool(ours if way == "ours" else plain, body)}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {}

    return app


if __name__ == "__main__":
    uvicorn.run(make(sys.argv[1], sys.argv[3]), port=int(sys.argv[2]), log_level="warning", access_log=False)
