"""What a replica refuses, by a real server: too much, too slow, too many."""

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from starlette.responses import Response

from mri_ray.endpoint.limits import Limits, Room
from mri_ray.endpoint.logs import ACCESS
from mri_ray.endpoint.settings import LimitsConfig
from tests.endpoint.small import Client, bundle_of, lane_of, png


def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts with pauses until the server hangs up or has answered; what came back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.settimeout(20)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/predict HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


def test_a_body_that_stalls_is_cut_off(make, served):
    port = served(make(limits=LimitsConfig(stall_s=0.3)))
    answer = exchange(port, head("Content-Length: 1000"), b"x")
    assert b" 408 " in answer.splitlines()[0]
    assert b"connection: close" in answer.lower()


def test_a_body_that_drips_is_cut_off(make, served):
    port = served(make(limits=LimitsConfig(stall_s=5, body_s=0.5)))
    answer = exchange(port, head("Content-Length: 1000"), *[b"x"] * 12, pause_s=0.1)
    assert b" 408 " in answer.splitlines()[0]


def test_a_chunked_body_without_end_is_cut_off(make, served):
    port = served(make(limits=LimitsConfig(body_mb=0.1, held_mb=1)))
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    answer = exchange(port, head("Transfer-Encoding: chunked"), *[chunk] * 400)
    assert not answer or b" 413 " in answer.splitlines()[0]
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


def test_a_length_that_is_too_large_is_refused_unread(make, served):
    port = served(make(limits=LimitsConfig(body_mb=0.1, held_mb=1)))
    answer = exchange(port, head("Content-Length: 10000000"))
    assert b" 413 " in answer.splitlines()[0]


@pytest.mark.parametrize("kind", ["body", "form"])
def test_nothing_is_held_on_disk_and_bytes_are_given_back(make, kind, monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "SpooledTemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    app = make()
    large = png(side=1500)
    assert len(large) > 2**20
    given = {"content": large} if kind == "body" else {"files": {"file": large}}
    assert Client(app)("POST", "/v1/predict", **given).status_code == 200
    assert (app.state.room.requests, app.state.room.bytes) == (0, 0)


def test_what_does_not_fit_is_shed_and_health_is_not(make, served):
    slow = lane_of(bundle_of(1))
    release = threading.Event()
    predict = slow.predictor.predict
    slow.predictor.predict = lambda pictures: release.wait(20) and predict(pictures)  # a network that takes its time
    app = make(lanes=[slow], limits=LimitsConfig(concurrent=2, retry_after_s=3))
    url = f"http://127.0.0.1:{served(app)}"
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(httpx.post, f"{url}/v1/predict", content=png(), timeout=30) for _ in range(2)]
        end = time.monotonic() + 10
        while app.state.room.requests < 2 and time.monotonic() < end:
            time.sleep(0.01)
        refused = httpx.post(f"{url}/v1/predict", content=png())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
        assert refused.headers["content-type"] == "application/problem+json"
        assert httpx.get(f"{url}/healthz").status_code == 200
        release.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert httpx.post(f"{url}/v1/predict", content=png()).status_code == 200
    assert app.state.room.requests == 0


def test_what_is_done_between_the_parts_of_a_body_is_not_the_clients_time():
    told = []
    parts = iter([{"type": "http.request", "body": b"x", "more_body": more} for more in (True, True, True, False)])

    async def receive():
        return next(parts)

    async def send(message):
        told.append(message.get("status"))

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            await asyncio.sleep(0.2)  # as a study is scored while it comes
        await Response("")(scope, receive, send)

    limits = LimitsConfig(body_s=0.3, stall_s=0.3, request_s=5)
    scope = {"type": "http", "method": "POST", "headers": []}
    asyncio.run(Limits(app, room=Room(limits))(scope, receive, send))
    assert told[0] == 200


def test_a_client_that_goes_away_is_no_fault_of_ours(make, served, caplog):
    port = served(make())
    with caplog.at_level(logging.INFO, "mri_ray"):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head("Content-Length: 1000") + b"some")
        end = time.monotonic() + 20
        while not (told := [record for record in caplog.records if record.name == ACCESS]):
            assert time.monotonic() < end
            time.sleep(0.02)
    assert [record.facts["status"] for record in told] == [408]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_bodies_together_have_a_bound(make):
    limits = LimitsConfig(body_mb=0.001, held_mb=0.001)
    app = make(limits=limits)
    app.state.room.bytes = 1000  # of another request
    found = Client(app)("POST", "/v1/predict", content=bytes(100))
    assert (found.status_code, app.state.room.bytes) == (503, 1000)


def test_an_answer_has_a_time(make):
    slow = lane_of(bundle_of(1))
    release = threading.Event()
    slow.predictor.predict = lambda pictures: release.wait(20)
    app = make(lanes=[slow], limits=LimitsConfig(body_s=0.2, request_s=0.2, stall_s=0.2))
    timer = threading.Timer(2, release.set)  # else the loop waits for its thread
    timer.start()
    found = Client(app)("POST", "/v1/predict", content=png())
    timer.join()
    assert (found.status_code, "retry-after" in found.headers) == (503, True)


def test_answers_carry_what_keeps_browsers_safe(make):
    for path in ("/healthz", "/v1/nothing"):
        headers = Client(make())("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
