"""What is written of requests: one JSON line each, with ids and counts; no names, no pixels, no paths, no queries."""

import contextvars
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mri_ray.endpoint.problems import Problem

AUDIT, ACCESS = "mri_ray.audit", "mri_ray.access"
HEADER = "X-Request-ID"
_GIVEN = re.compile(rb"[A-Za-z0-9-]{8,64}")
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

log = logging.getLogger(__name__)
audit_log, access_log = logging.getLogger(AUDIT), logging.getLogger(ACCESS)


def request_id() -> str:
    """Of the request that this code runs for; empty outside of one."""
    return _request_id.get()


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"facts": {...}}` adds members. Tracebacks name types and places only."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id():
            line["request_id"] = request_id()
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__name__, "at": _places(record.exc_info[2])}
        return json.dumps(line, ensure_ascii=True, default=str)


def to_stderr() -> None:
    """All that this package logs as JSON lines. Once a process.

    To the process's own stderr: what Serve puts in its place may keep 1,000 lines in memory, and loses them with the
    replica.
    """
    logger = logging.getLogger("mri_ray")
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines())
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def audit(event: str, key_id: str, facts: Mapping[str, Any]) -> None:
    """One line of the audit log."""
    audit_log.info(event, extra={"facts": {"key_id": key_id, **facts}})


class Requests:
    """ASGI middleware: gives each request its id, a line in the log, and the headers that keep browsers safe.

    What nobody foresaw ends here: servers log messages of errors, and those may name patients.
    """

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str]) -> None:
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER.lower().encode(), b"")
        own = given.decode() if _GIVEN.fullmatch(given) else uuid.uuid4().hex
        token = _request_id.set(own)
        began, status, answered = time.perf_counter(), 500, False

        async def send_on(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                headers = MutableHeaders(scope=message)
                if own.encode() != given:  # who gave it knows it; Serve's proxy adds the one that it gave
                    headers[HEADER] = own
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception:
            log.exception("an error nobody foresaw")
            if not answered:
                problem = Problem(500, "an error nobody foresaw; the log has it under the request's id")
                await problem.response()(scope, receive, send_on)
        finally:
            route = getattr(scope.get("route"), "path", None)  # the pattern: a path may hold a UID
            took = round((time.perf_counter() - began) * 1000, 1)
            facts = {"method": scope["method"], "route": route, "status": status, "ms": took}
            access_log.info("request", extra={"facts": facts})
            _request_id.reset(token)


# Of everything; pages may set a policy of their own.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Strict-Transport-Security": "max-age=31536000",  # heeded over TLS only
}


def _places(traceback: Any) -> list[str]:
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append(f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return found[-8:]
