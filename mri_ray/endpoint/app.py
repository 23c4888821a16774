"""The app: routes put together, with what stands before them. It is given what answers, and so runs without Ray."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

import mri_ray
from mri_ray.endpoint import logs, metrics, problems
from mri_ray.endpoint.jobs import Jobs
from mri_ray.endpoint.kept import Keeper
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.limits import Limits, Room
from mri_ray.endpoint.rates import Rates
from mri_ray.endpoint.routes import dicomweb, health, inference, jobs, page, predict
from mri_ray.endpoint.service import Service

_ABOUT = (
    "Probabilities that slices of brain MRI show a tumor, from a trained bundle. A research tool: no diagnosis, and "
    "nothing that it says about a patient holds without review of the images by a qualified reader."
)


def create(
    service: Service,
    keys: Keys,
    *,
    scoring: Jobs | None = None,
    routers: Sequence[APIRouter] = (),
    emit: metrics.Emit = lambda metric, value, tags: None,
    forget: metrics.Forget = lambda tags: None,
) -> FastAPI:
    """scoring: what starts batch jobs; without it there are none. routers: whatever else is answered. emit, forget: are
    told metrics, and which of them no longer hold."""
    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title="mri_ray", version=mri_ray.__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    app.state.service, app.state.keys, app.state.jobs = service, keys, scoring
    app.state.room, app.state.rates = Room(service.config.limits), Rates(service.config.limits.per_minute)
    problems.install(app)
    for router in (predict.router, health.router, inference.router, *([jobs.router] if scoring else []), *routers):
        app.include_router(router)
    watcher = metrics.Watcher(service.config.name, service.config.drift, emit, forget)
    service.watched(watcher)
    app.include_router(page.router(watcher))
    if service.config.results.uri is not None:
        app.include_router(dicomweb.router(Keeper(service.config)))
    app.add_middleware(Limits, room=app.state.room)
    app.add_middleware(
        metrics.Counted, model=service.config.name, room=app.state.room, emit=emit, clock=time.perf_counter
    )
    app.add_middleware(logs.Requests, headers=logs.SECURITY_HEADERS)  # the last one added stands first
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = problems.SCHEMA
        parts["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "token": {"type": "http", "scheme": "bearer"},
        }
        document["security"] = [{"key": []}, {"token": []}]
        app.openapi_schema = document
    return app.openapi_schema
