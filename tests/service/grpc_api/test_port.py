"""The port: who may have it, TLS, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.app import create_app
from service.grpc_api.messages import ModelInferResponse
from service.settings import Settings
from tests.service.grpc_api.conftest import GrpcService, method, pixels
from tests.support.processes import free_port, listens
from tests.support.waiting import until

PATH = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcService]:
    """A service whose key is in the file of its certificate, before it."""
    folder = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("127.0.0.1")
    pem = folder / "both.pem"
    pem.write_bytes(leaf.private_key_pem.bytes() + b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    service = GrpcService(tiny_dir, folder / "log", tls_certificate=pem)
    service.url = service.url.replace("http:", "https:")
    with service:
        yield service


def test_tls_with_the_certificate_of_http(tls: GrpcService, authority: trustme.CA) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(tls.address, credentials) as channel:
        infer: Any = channel.unary_unary(PATH)
        answer = ModelInferResponse.FromString(infer(pixels().SerializeToString()))
    assert answer.outputs[0].name == "logits"


def test_without_tls_nobody_gets_in(tls: GrpcService) -> None:
    with grpc.insecure_channel(tls.address) as channel, pytest.raises(grpc.RpcError) as caught:
        method(channel, "ServerLive")(b"")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_is_one_sentence(tiny_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = GrpcService.__new__(GrpcService)
        super(GrpcService, service).__init__(tiny_dir, tmp_path / "log", grpc_port=port, provider="cpu", max_batch=1)
        assert service.process.wait(60) == 3
    assert (
        f"another program listens on 127.0.0.1 port {port}: stop it, or choose another port with --grpc-port"
        in service.log.read_text()
    )


def test_sigterm_turns_health_off_then_closes_the_port_and_ends_with_zero(tiny_dir: Path, tmp_path: Path) -> None:
    with GrpcService(tiny_dir, tmp_path / "log", shutdown_delay=2.0) as service:
        with grpc.insecure_channel(service.address) as channel:
            health = HealthStub(channel)
            watched = health.Watch(HealthCheckRequest())
            assert next(watched).status == HealthCheckResponse.SERVING
            service.process.send_signal(signal.SIGTERM)
            assert next(watched).status == HealthCheckResponse.NOT_SERVING
            infer: Any = channel.unary_unary(PATH)
            assert infer(pixels().SerializeToString())  # who has not seen it yet is served
            assert list(watched) == []
        assert service.process.wait(30) == 0
    assert "Traceback" not in service.log.read_text()


def test_it_starts_and_ends_with_an_application_of_any_server(tiny_dir: Path) -> None:
    port = free_port()
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1, grpc_port=port, admin_port=free_port())

    async def ask() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            service = "/inference.GRPCInferenceService"
            assert await channel.unary_unary(f"{service}/ServerLive")(b"") == b"\x08\x01"
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # what metrics tell is on the admin port
                await channel.unary_unary(f"{service}/ModelStatistics")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(ask())
    until(lambda: not listens(port))
