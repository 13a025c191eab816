"""The standard health service (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

LOOK_EVERY_S = 0.5  # for those who watch


class Health(HealthServicer):
    """SERVING while load balancers should send calls here."""

    def __init__(self, ready: Callable[[], bool], services: tuple[str, ...], closing: asyncio.Event) -> None:
        """
        Args:
            services: the names that may be asked for, beside the empty one.
            closing: set once the port closes, when nobody has to watch any more.
        """
        self._ready = ready
        self._services = ("", *services)
        self._closing = closing

    async def Check(  # noqa: N802 (gRPC's name)
        self, request: HealthCheckRequest, context: ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> HealthCheckResponse:
        if request.service not in self._services:
            known = ", ".join(filter(None, self._services))
            message = f"There is no service {request.service!r} here: ask for {known}, or with an empty name for all."
            await context.abort(grpc.StatusCode.NOT_FOUND, message[:1000])
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802 (gRPC's name)
        self, request: HealthCheckRequest, context: ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> AsyncIterator[HealthCheckResponse]:
        """Answers at once, and again after each change, until the port closes."""
        told: int | None = None
        while not self._closing.is_set():
            status = self._status(request.service)
            if status != told:
                told = status
                yield HealthCheckResponse(status=status)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), LOOK_EVERY_S)
        if told == HealthCheckResponse.SERVING:
            yield HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._ready() else HealthCheckResponse.NOT_SERVING
