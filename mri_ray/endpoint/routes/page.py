"""The page at /, and what it asks for beside answers: how far what comes is from what the bundle was made on."""

from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from mri_ray.endpoint.keys import Caller, needs
from mri_ray.endpoint.metrics import Watcher
from mri_ray.endpoint.problems import Problem, described

_FILES = resources.files("mri_ray.endpoint") / "page"
_KINDS = {"page.css": "text/css", "page.js": "text/javascript"}
# Nothing from elsewhere, and no code or style within the document. Pictures come as data: of answers.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router(watcher: Watcher) -> APIRouter:
    made = APIRouter(tags=["page"])

    @made.get("/", include_in_schema=False)
    async def page() -> Response:
        return _sent("index.html", "text/html")

    @made.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in _KINDS:
            raise Problem(404, "no such part of the page")
        return _sent(name, _KINDS[name])

    @made.get("/v1/drift", responses=described(401, 403, 429, 503))
    async def drift(request: Request, caller: Annotated[Caller, Depends(needs("predict"))]) -> dict[str, Any]:
        """By bundle, how far the last slices of the replica that answers are from those it was made on."""
        lanes = request.app.state.service.ready()
        told = [{"bundle": lane.bundle.digest} | watcher.window(lane).told() for lane in lanes.answering]
        return {"bundles": told}

    return made


def _sent(name: str, kind: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY}
    return Response((_FILES / name).read_bytes(), media_type=kind, headers=headers)
