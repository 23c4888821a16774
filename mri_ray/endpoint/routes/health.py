"""Whether the process lives, and whether it answers: for load balancers and orchestrators, without a key."""

from fastapi import APIRouter, Request

from mri_ray.endpoint.problems import described
from mri_ray.endpoint.service import Service

router = APIRouter(tags=["health"])


@router.get("/healthz", openapi_extra={"security": []})
async def healthz() -> dict[str, str]:
    """It lives."""
    return {"status": "live"}


@router.get("/readyz", openapi_extra={"security": []}, responses=described(503))
async def readyz(request: Request) -> dict[str, str]:
    """Its bundles are loaded and have passed their self-test."""
    service: Service = request.app.state.service
    service.ready()
    return {"status": "ready"}
