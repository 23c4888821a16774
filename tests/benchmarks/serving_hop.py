"""What Serve itself costs a request: an app that reads the body and answers at once, alone and behind Serve.

    python -m tests.benchmarks.serving_hop PORT plain
    python -m tests.benchmarks.serving_hop PORT serve TEMP_DIR

behind Serve by the same way in as the endpoint's.
"""

import signal
import sys
import threading

import uvicorn
from fastapi import FastAPI, Request

from mri_ray.on_ray import cluster, ingress
from mri_ray.on_ray.settings import ClusterSettings

HOST = "127.0.0.1"


def make() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, float]:
        return {"bytes": len(await request.body())}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {}

    return app


class Nothing:
    def __serve_build_asgi_app__(self) -> FastAPI:
        return make()


def behind_serve(port: int, temp_dir: str) -> None:
    ended = threading.Event()
    with ingress.direct(idle_s=60), cluster.connected(ClusterSettings(temp_dir=temp_dir)):
        from ray import serve
        from ray.serve.config import HTTPOptions

        signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
        serve.start(http_options=HTTPOptions(host=HOST, port=port), proxy_location="HeadOnly")
        deployed = serve.deployment(name="Nothing", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})
        serve.run(deployed(serve.ingress(None)(Nothing)).bind(), name="nothing", route_prefix="/")
        ended.wait()
        serve.shutdown()


if __name__ == "__main__":
    if sys.argv[2] == "serve":
        behind_serve(int(sys.argv[1]), sys.argv[3])
    else:
        uvicorn.run(make(), port=int(sys.argv[1]), log_level="warning", access_log=False)
