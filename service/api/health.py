"""Liveness, readiness and metrics, for orchestrators, load balancers and Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from service.api import schema
from service.api.guard import Guard
from service.api.problems import responses
from service.errors import TooManyConnections
from service.metrics import Metrics
from service.runtime.build import this_build


def router(ready: Callable[[], bool]) -> APIRouter:
    """
    Args:
        ready: whether load balancers should send requests here; called from any thread.
    """
    routes = APIRouter(tags=["operations"])

    # The watchdog ends a process that hangs, so an answer is proof enough.
    @routes.get("/healthz/live", summary="The process answers")
    async def live() -> schema.Health:
        return schema.Health(status="live")

    @routes.get(
        "/healthz/ready",
        responses={
            503: {
                **responses()[503],
                "model": schema.Health,
                "description": f"Loading, or shutting down; {TooManyConnections.title}",
            }
        },
        summary="Requests should be sent here",
    )
    async def readiness(response: Response) -> schema.Health:
        if ready():
            return schema.Health(status="ready")
        response.status_code = 503
        return schema.Health(status="not ready")

    return routes


def metrics_router(metrics: Metrics, guard: Guard) -> APIRouter:
    """`/metrics` and `/version`, which are for the operator."""
    routes = APIRouter(tags=["operations"], route_class=guard.require("metrics"))

    @routes.get(
        "/version",
        responses=responses(*guard.faults("metrics")),
        dependencies=guard.credentials("metrics"),
        summary="Which build this is",
    )
    async def version() -> schema.Build:
        return schema.Build(**this_build()._asdict())

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={
            200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}},
            **responses(*guard.faults("metrics")),
        },
        dependencies=guard.credentials("metrics"),
        summary="Prometheus metrics",
    )
    def prometheus(request: Request) -> Response:  # on a thread: with workers it reads the files of all processes
        accept = request.headers.get("accept", "")
        return Response(metrics.text(accept), media_type=metrics.media_type(accept))

    return routes
