"""A proxy before an S3 server that goes wrong now and then; a process of its own, so that it costs the tests no time.

    python faulty_proxy.py '{"upstream": "http://127.0.0.1:8333", "seed": 7, "slow_down": 0.02}'

prints its port, answers GET /--counts with what it did as JSON, and ends when its input is closed.

Whether a request meets a fault follows from the seed, the request and how often it has come, whatever else is under
way. The Host header passes as the client sent it: it is signed.
"""

import asyncio
import json
import random
import re
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

_HOPS = {"connection", "expect", "keep-alive", "transfer-encoding"}  # of one connection, not of the message
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>told so</Message></Error>"
_REFUSALS = {"slow_down": (503, "SlowDown"), "full": (507, "XMinioStorageFull")}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often requests go wrong, each a fraction; what changes the store goes wrong before or after it is done.

    only: of requests whose "METHOD /path" this expression finds. most: how often the same request goes wrong at most.
    """

    upstream: str
    seed: int = 0
    slow_down: float = 0.0  # 503 SlowDown
    reset: float = 0.0  # the connection ends, before an answer or within it
    cut: float = 0.0  # the body ends before its Content-Length; of answers that have a body
    full: float = 0.0  # 507, of what would store something; never late
    late: float = 0.5  # of the faults of a request that changes the store: after it was done
    only: str = ""
    most: int | None = None


class Proxy:
    """Holds the connections to the server, and counts."""

    def __init__(self, faults: Faults, session: ClientSession) -> None:
        self._faults = faults
        self._session = session
        self._came: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self.counts: Counter[str] = Counter(dict.fromkeys(("requests", "slow_down", "reset", "cut", "full", "late"), 0))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.raw_path == "/--counts":
            return web.json_response(self.counts)
        self.counts["requests"] += 1
        name = f"{request.method} {request.raw_path} {request.headers.get('Range', '')}"
        data = await request.read()
        draw = self._draw(name)
        kind = self._kind(name, draw)
        reads = request.method in ("GET", "HEAD")
        late = not reads and kind != "full" and draw.random() < self._faults.late
        if kind in _REFUSALS and not late:
            return self._refusal(kind, name)
        if kind == "reset" and not late and (not reads or draw.random() < 0.5):
            return self._reset(name, request)
        status, headers, body = await self._forward(request, data)
        partly = len(body) > 1 and request.method != "HEAD"
        if kind == "cut" and partly:
            self._count(kind, name)
            return await self._part(request, web.StreamResponse(status=status, headers=headers), body, draw)
        if kind in ("slow_down", "reset"):
            self.counts["late"] += late
            if kind == "slow_down":
                return self._refusal(kind, name)
            if partly:
                await self._part(request, web.StreamResponse(status=status, headers=headers), body, draw)
            return self._reset(name, request)
        return web.Response(status=status, headers=headers, body=body)

    def _draw(self, name: str) -> random.Random:
        self._came[name] += 1
        return random.Random(f"{self._faults.seed} {name} {self._came[name]}")  # noqa: S311 - no secret

    def _kind(self, name: str, draw: random.Random) -> str | None:
        faults = self._faults
        value = draw.random()
        if not re.search(faults.only, name) or (faults.most is not None and self._failed[name] >= faults.most):
            return None
        for kind in ("slow_down", "reset", "cut", "full"):
            value -= getattr(faults, kind)
            if value < 0:
                return kind
        return None

    def _count(self, kind: str, name: str) -> None:
        self._failed[name] += 1
        self.counts[kind] += 1

    def _refusal(self, kind: str, name: str) -> web.Response:
        self._count(kind, name)
        status, code = _REFUSALS[kind]
        return web.Response(status=status, headers={"Content-Type": "application/xml"}, text=_ERROR.format(code))

    def _reset(self, name: str, request: web.Request) -> web.Response:
        self._count("reset", name)
        if request.transport is not None:  # else the client has gone before
            connection = request.transport.get_extra_info("socket")
            # A reset, not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        return web.Response()

    async def _part(
        self, request: web.Request, answer: web.StreamResponse, body: bytes, draw: random.Random
    ) -> web.StreamResponse:
        """Some of an answer whose head promises all of it; then the connection ends."""
        answer.content_length = len(body)
        answer.force_close()
        await answer.prepare(request)
        if kept := body[: draw.randrange(len(body))]:
            await answer.write(kept)
        return answer

    async def _forward(self, request: web.Request, data: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOPS}
        url = URL(self._faults.upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=data or None, allow_redirects=False
        ) as found:
            kept = {key: value for key, value in found.headers.items() if key.lower() not in _HOPS}
            return found.status, kept, await found.read()


async def main(faults: Faults) -> None:
    async with ClientSession(
        connector=TCPConnector(limit=0),
        auto_decompress=False,
        skip_auto_headers=["Accept", "Accept-Encoding", "Content-Type", "User-Agent"],
    ) as session:
        proxy = Proxy(faults, session)
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", proxy.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(Faults(**json.loads(sys.argv[1]))))
