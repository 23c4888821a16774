"""What a replica says of drift, over HTTP: of pictures like those of the reference, and of others."""

import io
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image
from served import served, small_bundle

from mri_ray.endpoint import metrics, reading
from mri_ray.endpoint.lane import Lane, Lanes
from mri_ray.endpoint.settings import DriftConfig, EndpointConfig
from mri_ray.learn.reference import WORDS, reference
from mri_ray.predict.predictor import Predictor
from tests.endpoint.small import lane_of

LEAST = 60


def tiff(seed: int, count: int, light: float) -> bytes:
    """Pages of one object: grey discs, of a brightness that scatters around `light`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:70j, -1:1:64j]
    pages = []
    for bright in rng.normal(light, 12, count):
        disc = np.where(x**2 + y**2 < 0.6, bright + 30 * x, 2)
        pages.append(Image.fromarray((disc + rng.integers(0, 8, disc.shape)).clip(0, 255).astype(np.uint8)))
    held = io.BytesIO()
    pages[0].save(held, "TIFF", save_all=True, append_images=pages[1:])
    return held.getvalue()


@pytest.fixture(scope="module")
def bundle():
    plain = small_bundle()
    given = reading.upload(tiff(1, 300, 110), EndpointConfig().decode, plain.prepare, slices=1000)
    found = Predictor(plain, precision="fp32", threads=1).predict(given.stacked())
    levels = np.array([picture.level for picture in given.pictures])
    words = {name: [None] * len(levels) for name in WORDS}
    return small_bundle(reference=reference({"probability": found.probability, "level": levels}, words))


def told(here) -> dict:
    (found,) = httpx.get(f"{here.url}/v1/drift").json()["bundles"]
    return found


def test_what_comes_is_held_against_the_reference(bundle):
    with served(bundle, drift=DriftConfig(window=100, least=LEAST)) as here:
        httpx.post(f"{here.url}/v1/predict", content=tiff(2, LEAST - 1, 110))
        few = told(here)
        assert few == {"bundle": bundle.digest, "status": "too few", "slices": LEAST - 1, "of": {}, "worst": None}
        httpx.post(f"{here.url}/v1/predict", content=tiff(3, 41, 110))
        steady = told(here)
        assert steady["slices"] == 100
        assert steady["of"]["level"]["psi"] < 0.25
        assert steady["of"]["manufacturer"]["psi"] == pytest.approx(0, abs=1e-9)
        httpx.post(f"{here.url}/v1/predict", content=tiff(4, 100, 190))
        drifted = told(here)
    assert drifted["status"] == "drifted"
    assert drifted["slices"] == 100
    assert drifted["of"]["level"]["ks"] > 0.9
    assert drifted["of"][drifted["worst"]]["psi"] == max(each["psi"] for each in drifted["of"].values())


def test_bundles_without_a_reference_say_so():
    with served(small_bundle()) as here:
        assert told(here)["status"] == "unknown"


def test_every_metric_is_told_with_the_tags_it_announces(bundle):
    seen: list[tuple[str, frozenset[str]]] = []

    def emit(metric, value, tags):
        assert value >= 0
        seen.append((metric.name, frozenset(tags)))

    with served(bundle, emit=emit, drift=DriftConfig(window=100, least=LEAST)) as here:
        httpx.post(f"{here.url}/v1/predict", content=tiff(5, LEAST, 110))
        assert httpx.post(f"{here.url}/v1/predict", content=b"no picture").status_code == 415
        assert httpx.get(f"{here.url}/nothing/1.2.3").status_code == 404
    announced = {metric.name: frozenset(metric.tags) for metric in metrics.EVERY}
    assert {name: tags for name, tags in seen if announced[name] != tags} == {}
    # Batches are told where they are made, the others only where something fails or stands in the shadow.
    rare = {metric.name for metric in (metrics.BATCH, metrics.FAILED, metrics.SHADOW)}
    assert {name for name, _ in seen} == announced.keys() - rare


def test_bundles_that_no_longer_answer_are_forgotten(bundle):
    config, gone = DriftConfig(window=100, least=LEAST), []
    told: list[str] = []
    watcher = metrics.Watcher(
        "m",
        config,
        lambda metric, value, tags: told.append(tags["version"]) if metric is metrics.DRIFT else None,
        lambda tags: gone.append(dict(tags)),
    )
    old, new = (lane_of(replace(bundle, threshold=threshold)) for threshold in (0.5, 0.6))
    upload = reading.upload(tiff(7, LEAST, 110), EndpointConfig().decode, bundle.prepare, slices=1000)
    found = old.predictor.predict(upload.stacked())

    def seen(lane: Lane) -> tuple[int, bool]:
        """Slices in its window, and whether its drift was told."""
        told.clear()
        watcher.scored(lane, upload, found, {})
        return watcher.window(lane).told()["slices"], lane.bundle.digest in told

    watcher.changed(Lanes(lanes=[old]))
    assert seen(old) == (LEAST, True)
    watcher.changed(Lanes(lanes=[old, new]))
    assert (gone, seen(new)) == ([], (LEAST, True))
    watcher.changed(Lanes(lanes=[new]))
    assert gone == [{"model": "m", "version": old.bundle.digest}]
    assert watcher._windows.keys() == {new.bundle.digest}
    assert seen(old) == (0, False)  # an answer that had begun before


def test_requests_are_counted_by_route_and_status_and_never_by_path(bundle):
    counts: dict[tuple[str, str], float] = {}

    def emit(metric, value, tags):
        if metric is metrics.REQUESTS:
            key = (tags["route"], tags["status"])
            counts[key] = counts.get(key, 0) + value

    with served(bundle, emit=emit) as here:
        for _ in range(3):
            httpx.post(f"{here.url}/v1/predict", content=tiff(6, 1, 110))
        httpx.post(f"{here.url}/v1/predict", content=b"no picture")
        httpx.get(f"{here.url}/v2/models/somebody/ready")
        httpx.get(f"{here.url}/somebody")
    assert counts == {
        ("/v1/predict", "200"): 3,
        ("/v1/predict", "415"): 1,
        ("/v2/models/{name}/ready", "404"): 1,
        ("none", "404"): 1,
    }
