"""A service with a gRPC port, as a process, and what to send to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from service.grpc_api.messages import ModelInferRequest
from tests.support.processes import Service, free_port

Unary = Callable[..., bytes]

SIDE = 32  # of the images of resnet8-cifar


class GrpcService(Service):
    """Attributes:
    address: of the gRPC port.
    """

    def __init__(self, models_dir: Path, log: Path, **settings: object) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        super().__init__(models_dir, log, grpc_port=port, provider="cpu", max_batch=4, **settings)


@pytest.fixture(scope="session")
def service(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcService]:
    """For tests that do not stop it."""
    log = tmp_path_factory.mktemp("service") / "log"
    with GrpcService(tiny_dir, log, max_images=4, max_request_bytes=2**20) as started:
        yield started


@pytest.fixture
def channel(service: GrpcService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address) as opened:
        yield opened


def method(channel: grpc.Channel, name: str) -> Unary:
    """A method of the protocol that takes and returns bytes."""
    made: Unary = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
    return made


def pixels(images: int = 1, model: str = "resnet8-cifar", side: int = SIDE) -> ModelInferRequest:
    """A request for the logits of grey images."""
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="image", datatype="UINT8", shape=[images, 3, side, side])
    message.raw_input_contents.append(b"\x80" * (images * 3 * side * side))
    message.outputs.add(name="logits")
    return message
