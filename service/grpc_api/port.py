"""The gRPC port: a server in the event loop of the HTTP one, which starts and stops with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from service.api.guard import Guard
from service.closing import Closing
from service.grpc_api import messages
from service.grpc_api.calls import Calls
from service.grpc_api.health import Health
from service.grpc_api.methods import SERVICE, Methods
from service.metrics import Metrics
from service.open_inference.data_plane import DataPlane
from service.settings import Settings

if TYPE_CHECKING:
    from service.tracing.spans import Spans

log = logging.getLogger("service")

MOST_BYTES = 2**31 - 1  # of a message, which gRPC can express
FRAMING_BYTES = 64 * 2**10  # of a message, beside the images: names, shapes, parameters
LAST_WORDS_S = 3.0  # for answers that are being sent, and for what is not a call of the protocol: reflection
REFUSING_S = 0.5  # before the port closes: see `_close`
PING_S, PINGED_S = 60, 10  # between pings of the server to its clients, and the least between those of a client

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class GrpcPort:
    """Answers on the port within its context, in the event loop that enters it."""

    def __init__(
        self,
        settings: Settings,
        port: int,
        plane: DataPlane,
        guard: Guard,
        metrics: Metrics,
        spans: Spans | None,
        ready: Callable[[], bool],
        closing: Closing,
    ) -> None:
        """
        Args:
            spans: where calls with images are traced.
            ready: whether load balancers should send calls here.
            closing: the end of the HTTP port: this one closes at the same time.
        """
        self._settings = settings
        self._port = port
        self._methods = Methods(plane)
        self._calls = Calls(guard, metrics, spans, plane.permit, settings)
        self._ready = ready
        self._closing = closing

    async def __aenter__(self) -> None:
        """Raises RuntimeError if the port cannot be used."""
        settings = self._settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", min(settings.max_request_bytes + FRAMING_BYTES, MOST_BYTES)),
                ("grpc.max_send_message_length", -1),
                # Workers share the port. Otherwise it belongs to this process alone.
                ("grpc.so_reuseport", int(settings.workers > 1)),
                # Finds clients that have gone without a word, and bears with those that ask for as much.
                ("grpc.keepalive_time_ms", 1000 * PING_S),
                ("grpc.keepalive_timeout_ms", round(1000 * settings.client_timeout)),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000 * PINGED_S),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=settings.max_connections,
        )
        handlers = self._methods.handlers(self._calls, for_operators=settings.admin_port is None)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        add_HealthServicer_to_server(Health(self._ready, (SERVICE,), self._closing.begun), self._server)
        enable_server_reflection((SERVICE, HEALTH, REFLECTION), self._server, _described())
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{self._port}"
        if settings.tls_certificate:
            self._server.add_secure_port(address, _credentials(settings))
        else:
            self._server.add_insecure_port(address)
        await self._server.start()
        if settings.workers == 1:  # else the engine process says it
            log.info("gRPC on %s", address)
        self._until_closed = asyncio.create_task(self._close())
        self._closing.awaited.add(self._until_closed)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.begun.set()
        await asyncio.wait((self._until_closed,))
        await self._server.stop(LAST_WORDS_S)
        await self._stopping

    async def _close(self) -> None:
        """Takes no more calls, and finishes those that have begun.

        A call that is under way to a server that stops ends with CANCELLED, which no client tries again. So those who
        call without a pause are told before that they should go elsewhere.
        """
        await self._closing.begun.wait()
        timeout = self._settings.shutdown_timeout
        self._calls.refuse()
        try:
            await asyncio.sleep(REFUSING_S)
        except asyncio.CancelledError:  # the server stops at once
            timeout = 0
        self._stopping = asyncio.create_task(self._server.stop(timeout + LAST_WORDS_S))
        await self._calls.end(timeout)


def _described() -> DescriptorPool:
    """What reflection tells about: every service of the port."""
    pool = messages.DESCRIPTOR.pool
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_certificate is not None
    key = settings.tls_key or settings.tls_certificate
    return grpc.ssl_server_credentials([(key.read_bytes(), settings.tls_certificate.read_bytes())])
