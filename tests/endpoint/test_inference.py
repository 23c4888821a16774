"""The Open Inference Protocol, asked by Triton's own client over HTTP."""

import asyncio
import base64
import io
import threading
from collections import Counter
from contextlib import closing

import httpx
import numpy as np
import pytest
from PIL import Image
from served import SIDE, served, small_bundle

from mri_ray.endpoint import tensors
from mri_ray.endpoint.metrics import DECISIONS
from mri_ray.endpoint.settings import LimitsConfig
from tests.endpoint import small

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402


@pytest.fixture(scope="module")
def here():
    with served(small_bundle()) as found:
        yield found


@pytest.fixture(scope="module")
def client(here):
    with closing(client_of(here)) as client:
        yield client


def client_of(here):
    return triton.InferenceServerClient(here.host)


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def pixels_of(values: np.ndarray, *, binary: bool = True):
    return triton.InferInput("pixels", list(values.shape), "UINT8").set_data_from_numpy(values, binary_data=binary)


def image_of(*parts: bytes):
    array = np.array(parts, dtype=np.object_)
    return triton.InferInput("image", [len(parts)], "BYTES").set_data_from_numpy(array)


def test_it_is_live_and_ready_and_tells_of_itself(here, client):
    version = here.predictor.bundle.digest
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mri_ray")
    assert client.is_model_ready("mri_ray", version)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("mri_ray")
    assert told["versions"] == [version]
    assert [(each["name"], each["datatype"], each["shape"]) for each in told["inputs"]] == [
        ("image", "BYTES", [-1]),
        ("pixels", "UINT8", [-1, 1, SIDE, SIDE]),
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_prepared_pictures_get_the_predictors_numbers(here, client, binary):
    pictures = np.random.default_rng(2).integers(0, 256, (5, 1, SIDE, SIDE), np.uint8)
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probability", "logit", "decision")]
    found = client.infer("mri_ray", [pixels_of(pictures, binary=binary)], outputs=asked, request_id="7")
    expected = here.predictor.predict(pictures)
    np.testing.assert_allclose(found.as_numpy("probability"), expected.probability, atol=1e-6)
    np.testing.assert_allclose(found.as_numpy("logit"), expected.logit, atol=1e-5)
    told = [text if isinstance(text, str) else text.decode() for text in found.as_numpy("decision")]
    assert told == [str(decision.value) for decision in expected.decision]
    assert found.get_response()["id"] == "7"
    assert found.as_numpy("frame") is None  # nobody asked for it


def test_decisions_on_prepared_pictures_are_counted_and_their_room_is_bounded():
    told: Counter[str] = Counter()

    def emit(metric, value, tags):
        if metric is DECISIONS:
            told[tags["decision"]] += value

    pictures = np.random.default_rng(2).integers(0, 256, (5, 1, SIDE, SIDE), np.uint8)
    with served(small_bundle(), emit, limits=LimitsConfig(slices=6, held_slices=6)) as here:
        with closing(client_of(here)) as client:
            client.infer("mri_ray", [pixels_of(pictures)])
        here.app.state.service._held = 2  # as others hold
        with closing(client_of(here)) as client, pytest.raises(InferenceServerException, match="as fit"):
            client.infer("mri_ray", [pixels_of(pictures)])
        expected = Counter(decision.value for decision in here.predictor.predict(pictures).decision)
    assert told == expected


def test_encoded_objects_get_what_predict_says(here, client):
    import httpx

    rng = np.random.default_rng(3)
    files = [png(rng.integers(0, 256, (80, 70), np.uint8)) for _ in range(3)]
    found = client.infer("mri_ray", [image_of(*files)], model_version=here.predictor.bundle.digest)
    said = [httpx.post(f"{here.url}/v1/predict", content=file).json() for file in files]
    expected = [answer["slices"][0]["probability"] for answer in said]
    np.testing.assert_allclose(found.as_numpy("probability"), expected, atol=1e-6)
    np.testing.assert_array_equal(found.as_numpy("object"), [0, 1, 2])
    assert found.get_response()["model_version"] == said[0]["bundle"]


def test_pages_of_one_object_come_as_rows_of_it(client):
    rng = np.random.default_rng(4)
    pages = [Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)) for _ in range(3)]
    held = io.BytesIO()
    pages[0].save(held, "TIFF", save_all=True, append_images=pages[1:])
    found = client.infer("mri_ray", [image_of(png(np.asarray(pages[0])), held.getvalue())])
    np.testing.assert_array_equal(found.as_numpy("object"), [0, 1, 1, 1])
    np.testing.assert_array_equal(found.as_numpy("frame"), [0, 0, 1, 2])
    assert found.as_numpy("probability")[0] == pytest.approx(found.as_numpy("probability")[1], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "version", "status", "told"),
    [("another", "", "404", "no such model"), ("mri_ray", "7", "404", "no such version")],
)
def test_models_that_are_not_here(client, model, version, status, told):
    picture = np.zeros((1, 1, SIDE, SIDE), np.uint8)
    with pytest.raises(InferenceServerException, match=told) as refused:
        client.infer(model, [pixels_of(picture)], model_version=version)
    assert refused.value.status() == status


def test_large_tensors_come_as_bytes_and_are_taken_apart_beside_the_event_loop(monkeypatch):
    threads = []
    parse = tensors.parse

    def watched(*given, **named):
        threads.append(threading.get_ident())
        return parse(*given, **named)

    monkeypatch.setattr(tensors, "parse", watched)
    many = np.zeros((40, 1, SIDE, SIDE), np.uint8)
    with served(small_bundle(), limits=LimitsConfig(json_mb=0.25)) as here, closing(client_of(here)) as client:
        with pytest.raises(InferenceServerException, match=r"JSON may have 262144 bytes") as refused:
            client.infer("mri_ray", [pixels_of(many, binary=False)])
        assert refused.value.status() == "413"
        assert client.infer("mri_ray", [pixels_of(many)]).as_numpy("probability").shape == (40,)
        beside = set(threads)
        for _ in range(2):
            client.infer("mri_ray", [pixels_of(many[:1])])  # a small one waits for no thread
    loop = threads[-1]
    assert threads[-2:] == [loop, loop]
    assert loop not in beside


def test_faults_come_as_the_client_expects_them(client):
    good = png(np.random.default_rng(5).integers(0, 256, (64, 64), np.uint8))
    with pytest.raises(InferenceServerException, match=r"element 1: .*no format") as refused:
        client.infer("mri_ray", [image_of(good, b"no picture")])
    assert refused.value.status() == "415"
    with pytest.raises(InferenceServerException, match=r"element 0: .*bytes") as refused:
        client.infer("mri_ray", [image_of(b"", good)])
    assert refused.value.status() == "422"
    with pytest.raises(InferenceServerException, match=r"shape: must be \[N, 1, 64, 64\]") as refused:
        client.infer("mri_ray", [pixels_of(np.zeros((1, 1, 8, 8), np.uint8))])
    assert refused.value.status() == "400"


def test_an_element_that_is_refused_ends_those_beside_it(make):
    app = make()
    elements = [base64.b64encode(each).decode() for each in (b"no picture", *map(small.png, range(15)))]
    asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [16], "data": elements}]}

    async def ask() -> tuple[int, set[asyncio.Task]]:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = await client.post("/v2/models/mri_ray/infer", json=asked)
        await asyncio.sleep(0.1)
        return found.status_code, asyncio.all_tasks() - {asyncio.current_task()}

    status, left = asyncio.run(ask())
    assert status == 415
    assert not left
