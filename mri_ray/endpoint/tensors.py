"""The Open Inference Protocol, version 2, as bytes and JSON: requests taken apart, answers put together.

Tensors come as JSON, or behind it as they lie in memory (the binary tensor extension), which the header
Inference-Header-Content-Length announces: so many bytes are JSON. Source: the KServe protocol's documents.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mri_ray.errors import UserError

HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)
IMAGE, PIXELS = "image", "pixels"  # inputs: encoded objects, or prepared pictures
_DTYPES: dict[str, np.dtype] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
# An object may hold several slices: `object` tells whose one is, counting the elements of `image`; `frame` its place.
OUTPUTS = {"probability": "FP32", "logit": "FP32", "decision": "BYTES", "object": "INT32", "frame": "INT32"}
_LENGTH = struct.Struct("<I")


class ProtocolError(UserError):
    """A request that breaks the protocol's rules."""


class TooMuchJsonError(ProtocolError):
    """A request with more JSON than may be parsed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """objects: encoded, or None; pixels: uint8 (N, 1, S, S), or None; one of them is there.

    outputs: those asked for, by name, and whether as bytes.
    """

    id: str | None
    objects: list[bytes] | None = None
    pixels: np.ndarray | None = None
    outputs: Mapping[str, bool] = field(default_factory=dict)


def parse(body: bytes, header: str | None, *, size: int, most: int, most_json: int) -> Request:
    """A request of which the header tells how much is JSON; None: all of it.

    size: of prepared pictures, pixels a side. most: pictures or objects of one request. most_json: bytes. Raises
    ProtocolError.
    """
    cut = _json_length(header, len(body))
    if cut > most_json:  # no thread helps: while Python parses JSON, nothing else of the process runs
        raise TooMuchJsonError(f"body: its JSON may have {most_json} bytes, and tensors as bytes behind it, got {cut}")
    document = _document(body[:cut])
    inputs = _listed(document, "inputs")
    if len(inputs) != 1:
        raise ProtocolError(f"inputs: must be one tensor, {IMAGE} or {PIXELS}, got {len(inputs)}")
    (tensor,) = inputs
    name, shape, count = _shape(tensor, size, most)
    blob = _blob(tensor, body[cut:])
    wanted = _outputs(document)
    if name == IMAGE:
        objects = _split(blob, count) if blob is not None else _decoded(tensor.get("data"), count)
        return Request(id=_id(document), objects=objects, outputs=wanted)
    values = _flat(tensor.get("data"), count) if blob is None else np.frombuffer(blob, np.uint8)
    if values.size != math.prod(shape):
        raise ProtocolError(f"{PIXELS}: must hold {math.prod(shape)} values for its shape, got {values.size}")
    return Request(id=_id(document), pixels=values.reshape(shape), outputs=wanted)


def answer(
    request: Request, columns: Mapping[str, Sequence[Any] | np.ndarray], *, model: str, version: str
) -> tuple[bytes, str | None]:
    """The reply's body and the header's value, None where all of it is JSON. columns: of OUTPUTS, equally long."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, as_bytes in request.outputs.items():
        datatype, values = OUTPUTS[name], columns[name]
        told: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
        if as_bytes:
            blobs.append(_packed(datatype, values))
            told["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            told["data"] = [str(v) for v in values] if datatype == "BYTES" else np.asarray(values).tolist()
        outputs.append(told)
    reply = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        reply["id"] = request.id
    text = json.dumps(reply, allow_nan=False).encode()
    return b"".join([text, *blobs]), str(len(text)) if blobs else None


def server(version: str) -> dict[str, Any]:
    return {"name": "mri_ray", "version": version, "extensions": list(EXTENSIONS)}


def model(name: str, versions: Sequence[str], size: int) -> dict[str, Any]:
    """A model's metadata. Of the two inputs a request brings one."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "mri_ray",
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, 1, size, size]},
        ],
        "outputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()],
    }


def _json_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    # As digits only: int() takes blanks, underscores and signs too.
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header) <= size):
        raise ProtocolError(f"{HEADER}: must be a number of bytes, at most the body's {size}, got {header[:32]!r}")
    return int(header)


def _document(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"body: must be a JSON object, got {type(exc).__name__}") from exc
    if not isinstance(found, dict):
        raise ProtocolError(f"body: must be a JSON object, got {type(found).__name__}")
    return found


def _listed(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ProtocolError(f"{name}: must be a list of objects, got {type(found).__name__}")
    return found


def _id(document: dict[str, Any]) -> str | None:
    found = document.get("id")
    if found is not None and not isinstance(found, str):
        raise ProtocolError(f"id: must be text, got {type(found).__name__}")
    return found


def _parameters(part: dict[str, Any]) -> dict[str, Any]:
    found = part.get("parameters", {})
    if not isinstance(found, dict):
        raise ProtocolError(f"parameters: must be an object, got {type(found).__name__}")
    return found


def _shape(tensor: dict[str, Any], size: int, most: int) -> tuple[str, list[int], int]:
    """Name, shape, and how many objects or pictures."""
    name, datatype, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
    expected = {IMAGE: "BYTES", PIXELS: "UINT8"}.get(name) if isinstance(name, str) else None
    if expected is None:
        raise ProtocolError(f"inputs: must be {IMAGE} or {PIXELS}, got another name")
    if datatype != expected:
        raise ProtocolError(f"{name}: must be {expected}, got another datatype")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise ProtocolError(f"{name}: shape: must be a list of whole numbers, got another value")
    fits = shape[1:] in ([], [1]) if name == IMAGE else shape[1:] == [1, size, size]
    if not fits or not 1 <= shape[0] <= most:
        rule = "[N] or [N, 1]" if name == IMAGE else f"[N, 1, {size}, {size}]"
        raise ProtocolError(f"{name}: shape: must be {rule} with N from 1 to {most}, got {shape[:8]}")
    return str(name), shape, shape[0]


def _blob(tensor: dict[str, Any], behind: bytes) -> bytes | None:
    """The tensor's bytes behind the JSON; None where its values stand in it."""
    length = _parameters(tensor).get("binary_data_size")
    if length is None:
        if behind:
            raise ProtocolError(f"binary_data_size: must tell of the {len(behind)} bytes behind the JSON, got nothing")
        return None
    if type(length) is not int or length != len(behind):
        raise ProtocolError(
            f"binary_data_size: must be the {len(behind)} bytes behind the JSON, got {str(length)[:32]}"
        )
    if "data" in tensor:
        raise ProtocolError("data: must not stand beside binary_data_size, got both")
    return behind


def _split(blob: bytes, count: int) -> list[bytes]:
    """Elements of a BYTES tensor: each behind its length, four bytes, the lowest first."""
    parts: list[bytes] = []
    at = 0
    for _ in range(count):
        if at + _LENGTH.size > len(blob):
            raise ProtocolError(f"{IMAGE}: must hold {count} elements, got {len(parts)}")
        (length,) = _LENGTH.unpack_from(blob, at)
        at += _LENGTH.size
        if at + length > len(blob):
            raise ProtocolError(f"{IMAGE}: element {len(parts)} must end within the tensor, got {length} bytes for it")
        parts.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise ProtocolError(f"{IMAGE}: must end behind its {count} elements, got {len(blob) - at} more bytes")
    return parts


def _decoded(data: Any, count: int) -> list[bytes]:
    """JSON holds no bytes: its elements are base64."""
    elements = data if isinstance(data, list) else []
    if len(elements) == count and all(isinstance(one, list) and len(one) == 1 for one in elements):
        elements = [one[0] for one in elements]  # of the shape [N, 1]
    if len(elements) != count or not all(isinstance(one, str) for one in elements):
        raise ProtocolError(f"{IMAGE}: data: must be {count} texts, got {type(data).__name__} of {len(elements)}")
    try:
        return [base64.b64decode(one, validate=True) for one in elements]
    except (binascii.Error, ValueError) as exc:
        raise ProtocolError(f"{IMAGE}: data: must be base64, or come as bytes, got neither") from exc


def _flat(data: Any, count: int) -> np.ndarray:
    """Values of a UINT8 tensor in JSON, nested or not."""
    try:
        # As objects: numpy would make all texts as long as the longest one.
        values = np.array(data if isinstance(data, list) else [None], dtype=object).ravel()
    except (ValueError, OverflowError, RecursionError) as exc:
        raise ProtocolError(f"{PIXELS}: data: must be numbers nested evenly, got {type(exc).__name__}") from exc
    if any(isinstance(one, list) for one in values):
        raise ProtocolError(f"{PIXELS}: data: must be numbers nested evenly, got other lists")
    if not all(type(one) is int and 0 <= one <= 255 for one in values):
        raise ProtocolError(f"{PIXELS}: data: must be whole numbers from 0 to 255, got others for {count} pictures")
    return values.astype(np.uint8)


def _outputs(document: dict[str, Any]) -> dict[str, bool]:
    every = _parameters(document).get("binary_data_output", False) is True
    wanted = {}
    for output in _listed(document, "outputs"):
        name = output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise ProtocolError(f"outputs: must be among {', '.join(OUTPUTS)}, got another name")
        parameters = _parameters(output)
        if "classification" in parameters:
            raise ProtocolError("classification: is an extension that is not offered here, got it asked for")
        wanted[name] = parameters.get("binary_data", every) is True
    return wanted or dict.fromkeys(OUTPUTS, every)


def _packed(datatype: str, values: Sequence[Any] | np.ndarray) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values).astype(_DTYPES[datatype]).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
