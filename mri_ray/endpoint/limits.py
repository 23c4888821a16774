"""What stands before the app: no request takes more bytes, time or room than it may (plain ASGI, nothing on disk)."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import MIB, LimitsConfig

_CHEAP = ("GET", "HEAD", "OPTIONS")  # health and the like are answered also where no more work is taken on


class Room:
    """Requests and bytes of theirs that are in the house."""

    def __init__(self, config: LimitsConfig) -> None:
        self.config = config
        self.requests, self.bytes, self.shed = 0, 0, 0

    def full(self) -> Problem:
        self.shed += 1
        after = str(self.config.retry_after_s)
        return Problem(503, "as much is being computed as fits; try again", headers={"Retry-After": after}, close=True)


class Limits:
    """ASGI middleware. Bodies are counted as they come, so that one without a length is cut off as well."""

    def __init__(self, app: ASGIApp, *, room: Room) -> None:
        self._app, self._room = app, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self._room)
        try:
            await request.run(self._app)
        except Problem as problem:
            if not request.answered:
                await problem.response()(scope, receive, send)


class _Request:
    """One request on its way through the app."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: Room) -> None:
        self._scope, self._receive, self._send, self._room = scope, receive, send, room
        self._config = room.config
        self._waited = 0.0  # for the body; what is done between its parts is not the client's time
        self._bytes = 0
        self._whole = False
        self.answered = False

    async def run(self, app: ASGIApp) -> None:
        """Raises Problem: 413, 408 or 503."""
        room, config = self._room, self._config
        weighs = self._scope["method"] not in _CHEAP
        if weighs:
            self._check_length()
            if room.requests >= config.concurrent:
                raise room.full()
        room.requests += weighs
        try:
            async with asyncio.timeout(config.body_s + config.request_s):
                await app(self._scope, self._receive_some, self._send_on)
        except TimeoutError:
            raise Problem(
                503, f"no answer within {config.request_s:g} s", headers={"Retry-After": str(config.retry_after_s)}
            ) from None
        finally:
            room.requests -= weighs
            room.bytes -= self._bytes

    def _check_length(self) -> None:
        told = dict(self._scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self._config.body_mb * MIB:
            raise self._too_large()

    def _too_large(self) -> Problem:
        return Problem(413, f"a body may have {self._config.body_mb:g} MiB at most", close=True)

    async def _receive_some(self) -> Message:
        if self._whole:  # what waits for the end of the connection may wait on
            return await self._receive()
        config, began = self._config, time.monotonic()
        left = config.body_s - self._waited
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(config.stall_s, left)))
        except TimeoutError:
            raise Problem(408, "the body came too slowly", close=True) from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise Problem(408, "the client went away before the end of its body", close=True)
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            self._bytes += size
            self._room.bytes += size
            if self._bytes > config.body_mb * MIB:
                raise self._too_large()
            if self._room.bytes > config.held_mb * MIB:
                raise self._room.full()
        return message

    async def _send_on(self, message: Message) -> None:
        self.answered = self.answered or message["type"] == "http.response.start"
        await self._send(message)
