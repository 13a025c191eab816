"""Liveness, readiness and metrics, for orchestrators, load balancers and Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastapi import APIRouter, Response

from service.api import schema
from service.api.guard import Guard
from service.api.problems import responses
from service.metrics import Metrics


class Health(NamedTuple):
    """What probes ask. Both may be called from any thread.

    Attributes:
        ready: whether load balancers should send requests here.
        alive: whether the process gets on with its work; if not, only a restart helps.
    """

    ready: Callable[[], bool]
    alive: Callable[[], bool]


def router(health: Health) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get(
        "/healthz/live",
        responses={503: {"model": schema.Health, "description": "Stuck: restart it"}},
        summary="The process works",
    )
    async def live(response: Response) -> schema.Health:
        if health.alive():
            return schema.Health(status="live")
        response.status_code = 503
        return schema.Health(status="stuck")

    @routes.get(
        "/healthz/ready",
        responses={503: {"model": schema.Health, "description": "Loading, shutting down, or stuck"}},
        summary="Requests should be sent here",
    )
    async def readiness(response: Response) -> schema.Health:
        if health.ready() and health.alive():
            return schema.Health(status="ready")
        response.status_code = 503
        return schema.Health(status="not ready")

    return routes


def metrics_router(metrics: Metrics, guard: Guard) -> APIRouter:
    routes = APIRouter(tags=["operations"], route_class=guard.require("metrics"))

    @routes.get(
        "/metrics",
        response_class=Response,
        responses=responses(*guard.faults("metrics")),
        dependencies=guard.credentials("metrics"),
        summary="Prometheus metrics",
    )
    def prometheus() -> Response:  # on a thread: with workers it reads the files of all processes
        return Response(metrics.text(), media_type=metrics.content_type)

    return routes
