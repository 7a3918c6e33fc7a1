"""For those who run the service: liveness, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from service.api.desk import Desk
from service.api.health import Liveness, Readiness
from service.api.metrics import MEDIA_TYPE
from service.api.problems import problem_responses
from service.api.security import Scope


def operation_routes(desk: Desk) -> APIRouter:
    """The probes are open, so that an orchestrator can ask; metrics need `read` where there are tokens."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live", summary="Does the process answer")
    async def live() -> Liveness:
        return Liveness()

    @router.get(
        "/health/ready",
        summary="Can it do its work, with a reason per part",
        responses={503: {"model": Readiness, "description": "A part cannot do its work"}},
    )
    async def ready() -> Readiness:
        answer = await desk.look(desk.health.readiness)
        return JSONResponse(answer.model_dump(), 200 if answer.ready else 503)  # type: ignore[return-value]  # the same model

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses=problem_responses(401, 403) | {200: {"content": {"text/plain": {}}, "description": "Text exposition format"}},
        dependencies=[Depends(desk.guard.needs(Scope.READ))],
    )
    async def metrics() -> Response:
        return Response(await desk.look(desk.metrics.expose), media_type=MEDIA_TYPE)

    return router
