"""Errors over HTTP as problem documents (RFC 9457): what was wrong, and nothing of whom it is about."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mri_ray.errors import Reason

MEDIA_TYPE = "application/problem+json"
_TOO_LARGE = {reason for reason in Reason if reason.value.startswith("oversized.")}
_NO_TYPE = {
    Reason.NOT_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.UNSUPPORTED_MODE,
    Reason.TRANSFER_SYNTAX,
    Reason.UNSUPPORTED_COMPRESSION,
    Reason.SKIPPED_MODALITY,
    Reason.SKIPPED_NO_IMAGE,
    Reason.SKIPPED_DIRECTORY,
    Reason.SKIPPED_SIDECAR,
}


class Problem(HTTPException):
    """An answer that is an error. more: members of the document beside the standard's.

    An HTTPException, since FastAPI makes a bare 400 of all others that reading a body raises.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, close: bool = False, **more: Any
    ) -> None:
        sent = dict(headers or {}) | ({"Connection": "close"} if close else {})
        super().__init__(status, detail, sent)
        self.more = more

    def response(self) -> JSONResponse:
        document = _document(self.status_code, str(self.detail)) | self.more
        return JSONResponse(document, self.status_code, headers=dict(self.headers or {}), media_type=MEDIA_TYPE)


def of_reason(reason: Reason, detail: str) -> Problem:
    """Why an object has no answer: 413 for what is too large, 415 for what is not read, else 422."""
    status = 413 if reason in _TOO_LARGE else 415 if reason in _NO_TYPE else 422
    return Problem(status, f"{reason.meaning}: {detail}", reason=reason.value, remedy=reason.remedy)


def _document(status: int, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def install(app: FastAPI) -> None:
    """Let every error of the app leave as a problem document."""

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, exc: HTTPException) -> JSONResponse:
        if isinstance(exc, Problem):
            return exc.response()
        return Problem(exc.status_code, str(exc.detail), headers=exc.headers).response()

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, exc: RequestValidationError) -> JSONResponse:
        # Not what was sent: it may name a patient.
        faults = [{"at": _place(fault), "fault": fault["type"]} for fault in exc.errors()]
        return Problem(422, "the request does not fit its description", faults=faults).response()


def _place(fault: Mapping[str, Any]) -> list[str]:
    """Where it is; without the name of a member that nobody knows, which is what was sent too."""
    parts = [str(part) for part in fault["loc"]]
    return parts[:-1] if fault["type"] == "extra_forbidden" else parts


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these statuses answer with a problem document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": _document(status, "what was wrong, and the rule"),
                }
            },
        }
        for status in statuses
    }


SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
        "remedy": {"type": "string"},
        "refused": {"type": "string"},
        "faults": {"type": "array", "items": {"type": "object"}},
    },
}
