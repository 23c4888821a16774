"""The endpoint on a real Ray Serve: batch's numbers, bundles that change under load, replicas that die."""

import asyncio
import io
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mri_ray.archive.storage import Location
from mri_ray.learn import bundle as bundles
from tests.benchmarks.hostile import seeds
from tests.benchmarks.same import by_batch
from tests.endpoint.small import bundle_of, lane_of, png
from tests.ports import free_ports

pytestmark = pytest.mark.slow
_WAIT_S = 240


class Served:
    """An endpoint, deployed as `serve deploy` does it: from the values of a config file."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url, self._port = f"http://127.0.0.1:{port}", port
        self.uris = [str(folder / f"bundle{seed}") for seed in (1, 2)]
        self.digests = [bundles.save(bundle_of(seed), Location.of(uri)) for seed, uri in enumerate(self.uris, start=1)]

    def deploy(self, *used: str, replicas: int = 1, beside: str | None = None) -> None:
        """beside: the bundle of a second endpoint, at /beside."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        applications = [self._application("mri_ray", "/", used, replicas)]
        if beside is not None:
            applications.append(self._application("beside", "/beside", (beside,), 1))
        schema = ServeDeploySchema.model_validate({"applications": applications})
        _get_global_client().deploy_apps(schema, _blocking=False)

    def _application(self, name: str, route: str, used: tuple[str, ...], replicas: int) -> dict:
        return {
            "name": name,
            "route_prefix": route,
            "import_path": "mri_ray.on_ray.serve:build",
            "args": {"keys": {"required": False}},
            "deployments": [
                {
                    "name": "Endpoint",
                    "num_replicas": replicas,
                    "ray_actor_options": {"num_cpus": 0.1},
                    "user_config": {"bundles": [{"uri": uri} for uri in used]},
                }
            ],
        }

    def post(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/predict", content=body, timeout=60)

    def wait(self, holds: Callable[[], bool]) -> float:
        """Seconds until something holds."""
        began = time.monotonic()
        while time.monotonic() < began + _WAIT_S:
            try:
                if holds():
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError("it does not come to hold")

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200

    def running(self) -> int:
        from ray import serve

        return serve.status().applications["mri_ray"].deployments["Endpoint"].replica_states.get("RUNNING", 0)

    def replicas(self) -> list[str]:
        import ray

        named = ray.util.list_named_actors(all_namespaces=True)
        return [one["name"] for one in named if "SERVE_REPLICA" in one["name"] and "Endpoint" in one["name"]]


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory) -> Iterator[Served]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    (port,) = free_ports(1)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), proxy_location="HeadOnly")
    endpoint = Served(port, tmp_path_factory.mktemp("bundles"))
    endpoint.deploy(endpoint.uris[0])
    endpoint.wait(endpoint.ready)
    yield endpoint
    serve.shutdown()


class Load:
    """Clients that ask without pause while the context lasts; what they were answered."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self._served, self._ended = served, threading.Event()
        self.digests: Counter[str] = Counter()
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        body = png(number)
        while not self._ended.is_set():
            try:
                found = self._served.post(body)
            except httpx.HTTPError as exc:
                self.failed.append(type(exc).__name__)
                continue
            if found.status_code == 200:
                self.digests[found.json()["bundle"]] += 1
            else:
                self.failed.append(f"{found.status_code} {found.text[:200]}")


def test_answers_over_http_are_those_of_batch(served, tmp_path):
    files = []
    for number, data in enumerate(seeds()):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(data)
    from mri_ray.endpoint.settings import EndpointConfig

    expected = by_batch(files, tmp_path, lane_of(bundle_of(1)).predictor, EndpointConfig())
    for path in files:
        found = served.post(path.read_bytes())
        assert found.status_code == 200, found.text
        document = found.json()
        assert document["bundle"] == served.digests[0]
        told = [(one["frame"], one["probability"]) for one in document["slices"]]
        assert told == [(frame, pytest.approx(p, abs=1e-6)) for frame, p in expected[path]]
        assert told


def test_the_bundles_card_is_told(served):
    found = httpx.get(f"{served.url}/v1/model/card")
    assert found.text.startswith("# Model card")
    assert served.digests[0] in found.text


def test_many_at_once_are_answered_as_one_alone(served):
    alone = {number: served.post(png(number)).json()["slices"][0]["probability"] for number in range(8)}
    found: dict[int, float] = {}

    def ask(number: int) -> None:
        found[number] = served.post(png(number % 8)).json()["slices"][0]["probability"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: found[number] for number in found} == {
        number: pytest.approx(alone[number % 8], abs=1e-6) for number in range(32)
    }


def test_a_burst_is_answered_or_refused_by_the_endpoint_itself(served):
    """As many at once as a replica and the queue before it hold: Serve's own refusals are no documents."""

    async def burst() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            body = png()
            return await asyncio.gather(*(client.post(f"{served.url}/v1/predict", content=body) for _ in range(250)))

    found = Counter((one.status_code, one.headers["content-type"]) for one in asyncio.run(burst()))
    assert found.keys() <= {(200, "application/json"), (503, "application/problem+json")}
    assert found[200, "application/json"] >= 128


def test_a_bad_request_harms_none_beside_it(served):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as pack:
        pack.writestr("x", b"?")
    with Load(served) as load:
        statuses = {served.post(body).status_code for body in (b"?", held.getvalue(), png()[:50]) for _ in range(5)}
    assert statuses <= {415, 422}
    assert not load.failed
    assert load.digests[served.digests[0]]


def test_bundles_change_under_load_and_back_without_a_failed_request(served):
    replicas = served.replicas()
    with Load(served) as load:
        for uri, digest in ((served.uris[1], served.digests[1]), (served.uris[0], served.digests[0])):
            served.deploy(uri)
            served.wait(lambda digest=digest: served.post(png()).json()["bundle"] == digest)
    assert load.failed == []
    assert set(load.digests) == set(served.digests)
    assert served.replicas() == replicas  # the same ones, reconfigured


def test_a_bundle_that_cannot_be_loaded_leaves_the_old_one_answering(served, tmp_path):
    served.deploy(str(tmp_path / "none"))
    served.wait(lambda: httpx.get(f"{served.url}/v1/model", timeout=5).json()["refused"] == "BundleError")
    assert served.post(png()).json()["bundle"] == served.digests[0]
    served.deploy(served.uris[0])
    served.wait(served.ready)


def test_a_first_bundle_that_cannot_be_loaded_fails_the_deployment_and_says_what_to_do(served, tmp_path):
    from ray import serve

    served.deploy(served.uris[0], beside=str(tmp_path / "none"))
    served.wait(lambda: "DEPLOY_FAILED" in str(serve.status().applications["beside"].status))
    told = serve.status().applications["beside"].deployments["Endpoint"].message
    assert "bundle.json: must be there" in told
    assert "deploy again" in told
    served.wait(lambda: httpx.get(f"{served.url}/beside/readyz", timeout=30).status_code == 503)  # Serve's own answer
    assert served.post(png()).json()["bundle"] == served.digests[0]
    served.deploy(served.uris[0])
    served.wait(lambda: "beside" not in serve.status().applications)


def test_a_replica_that_dies_is_replaced(served):
    import ray

    served.deploy(served.uris[0], replicas=2)
    served.wait(lambda: served.running() == 2)
    before = set(served.replicas())
    time.sleep(3)  # both are routed to
    with Load(served) as load:
        served.wait(lambda: load.digests.total() > 20)
        ray.kill(ray.get_actor(sorted(before)[0], namespace="serve"))
        took = served.wait(lambda: len(set(served.replicas()) - before) == 1 and len(served.replicas()) == 2)
        asked = load.digests.total()
        served.wait(lambda: load.digests.total() > asked + 20)
    assert len(load.failed) <= 4  # what it had in hand: one of each client
    assert took < _WAIT_S
    print(f"failed {len(load.failed)} of {load.digests.total()}, replaced after {took:.1f} s")
