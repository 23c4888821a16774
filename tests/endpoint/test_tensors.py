"""The Open Inference Protocol against the encoder and decoder of Triton's own client, and against broken requests."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.endpoint import tensors
from mri_ray.endpoint.tensors import ProtocolError

triton = pytest.importorskip("tritonclient.http")
SIZE, MOST = 8, 16
COLUMNS = {
    "probability": np.array([0.25, 1.0], np.float32),
    "logit": np.array([-1.5, 12.0], np.float32),
    "decision": ["negative", "positive"],
    "object": np.array([0, 0], np.int32),
    "frame": np.array([0, 1], np.int32),
}


def parsed(body: bytes, header: str | int | None = None) -> tensors.Request:
    return tensors.parse(body, None if header is None else str(header), size=SIZE, most=MOST, most_json=2**20)


def image(parts: list[bytes], *, binary: bool = True):
    shape, array = [len(parts)], np.array(parts, dtype=np.object_)
    return triton.InferInput("image", shape, "BYTES").set_data_from_numpy(array, binary_data=binary)


def pixels(values: np.ndarray, *, binary: bool = True):
    return triton.InferInput("pixels", list(values.shape), "UINT8").set_data_from_numpy(values, binary_data=binary)


def sent(tensor, outputs=None) -> tensors.Request:
    return parsed(*triton.InferenceServerClient.generate_request_body([tensor], outputs=outputs, request_id="one"))


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_arrive_as_triton_sends_them(binary):
    values = np.random.default_rng(1).integers(0, 256, (3, 1, SIZE, SIZE), np.uint8)
    request = sent(pixels(values, binary=binary))
    assert request.id == "one"
    assert request.objects is None
    np.testing.assert_array_equal(request.pixels, values)


def test_objects_arrive_as_triton_sends_them():
    parts = [b"\x89PNG\0\xff", b"", b"x" * 70_000]
    assert sent(image(parts)).objects == parts


def test_objects_in_json_are_base64():
    texts = [base64.b64encode(part).decode() for part in (b"\xff\0", b"a")]
    request = sent(image([text.encode() for text in texts], binary=False))
    assert request.objects == [b"\xff\0", b"a"]
    nested = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": [[t] for t in texts]}]}
    assert parsed(json.dumps(nested).encode()).objects == [b"\xff\0", b"a"]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_reads_the_answer(binary):
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in tensors.OUTPUTS]
    body, length = tensors.answer(sent(image([b"a"]), asked), COLUMNS, model="bundle", version="7")
    result = triton.InferenceServerClient.parse_response_body(body, header_length=length and int(length))
    reply = result.get_response()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("bundle", "7", "one")
    np.testing.assert_array_equal(result.as_numpy("probability"), COLUMNS["probability"])
    np.testing.assert_array_equal(result.as_numpy("logit"), COLUMNS["logit"])
    np.testing.assert_array_equal(result.as_numpy("frame"), [0, 1])
    told = [text if isinstance(text, str) else text.decode() for text in result.as_numpy("decision")]
    assert told == COLUMNS["decision"]


def test_what_is_asked_for_is_answered_and_nothing_else():
    request = sent(image([b"a"]), [triton.InferRequestedOutput("logit", binary_data=False)])
    body, length = tensors.answer(request, COLUMNS, model="m", version="1")
    assert length is None
    assert [output["name"] for output in json.loads(body)["outputs"]] == ["logit"]
    # A client that names no outputs gets all, as bytes where it says so.
    body, length = tensors.answer(sent(image([b"a"])), COLUMNS, model="m", version="1")
    assert [output["name"] for output in json.loads(body[: int(length)])["outputs"]] == list(tensors.OUTPUTS)


def one(**changes) -> bytes:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, SIZE, SIZE], "data": [0] * SIZE**2}
    return json.dumps({"inputs": [tensor | changes]}).encode()


@pytest.mark.parametrize(
    ("body", "header", "told"),
    [
        (b"", None, "JSON"),
        (b"[]", None, "object"),
        (b'{"inputs": 3}', None, "inputs"),
        (b'{"inputs": []}', None, "one tensor"),
        (b"[" * 100_000, None, "JSON"),
        (one(), "-1", "Content-Length"),
        (one(), "1_0", "Content-Length"),
        (one(), "99999", "Content-Length"),
        (one() + b"more", str(len(one())), "binary_data_size"),
        (one(name="picture"), None, "name"),
        (one(datatype="FP32"), None, "UINT8"),
        (one(shape=[1, 1, SIZE, SIZE + 1]), None, "shape"),
        (one(shape=[MOST + 1, 1, SIZE, SIZE]), None, "shape"),
        (one(shape=[True, 1, SIZE, SIZE]), None, "shape"),
        (one(shape=[0, 1, SIZE, SIZE]), None, "shape"),
        (one(data=[0] * 3), None, "values"),
        (one(data=[256] * SIZE**2), None, "255"),
        (one(data=[-1] * SIZE**2), None, "255"),
        (one(data=[10**40] * SIZE**2), None, "255"),
        (one(data=[0.5] * SIZE**2), None, "255"),
        (one(data=[[0], [0, 1]]), None, "evenly"),
        (one(data="text"), None, "255"),
        (one(data=["x" * 100_000, *[""] * 100_000]), None, "255"),  # as numpy's texts it would take 40 GB
        (one(data=[True] * SIZE**2), None, "255"),
        (one(parameters=[]), None, "parameters"),
        (one(parameters={"binary_data_size": 5}), None, "binary_data_size"),
        (one(name="image", datatype="BYTES", shape=[1], data=["no base64!"]), None, "base64"),
        (one(name="image", datatype="BYTES", shape=[2], data=["YQ=="]), None, "2 texts"),
    ],
)
def test_broken_requests_are_refused_by_name(body, header, told):
    with pytest.raises(ProtocolError, match=told):
        parsed(body, header)


def test_json_has_a_bound_and_bytes_behind_it_have_none():
    values = np.zeros((3, 1, SIZE, SIZE), np.uint8)
    body, header = triton.InferenceServerClient.generate_request_body([pixels(values)])
    assert len(body) > int(header)
    limits = {"size": SIZE, "most": MOST, "most_json": int(header)}
    assert tensors.parse(body, str(header), **limits).pixels.shape == values.shape
    for told in (None, str(header + 1)):
        with pytest.raises(tensors.TooMuchJsonError, match="bytes behind it"):
            tensors.parse(body, told, **limits)


@settings(deadline=None)  # a busy machine is no fault
@given(blob=st.binary(max_size=60), count=st.integers(1, MOST))
def test_any_bytes_of_a_tensor_give_its_elements_or_a_refusal(blob, count):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    try:
        found = parsed(text + blob, len(text)).objects
    except ProtocolError:
        return
    assert b"".join(len(part).to_bytes(4, "little") + part for part in found) == blob
