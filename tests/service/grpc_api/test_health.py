"""The standard health service, and reflection."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from service.grpc_api.health import Health

SERVICE = "inference.GRPCInferenceService"


@pytest.mark.parametrize("name", ["", SERVICE])
def test_a_service_that_serves(channel: grpc.Channel, name: str) -> None:
    stub = HealthStub(channel)
    assert stub.Check(HealthCheckRequest(service=name)).status == HealthCheckResponse.SERVING


def test_a_service_that_is_not_there(channel: grpc.Channel) -> None:
    stub = HealthStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(HealthCheckRequest(service="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert SERVICE in caught.value.details()
    watched = stub.Watch(HealthCheckRequest(service="x"))
    assert next(watched).status == HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()


def test_who_watches_sees_every_change_and_the_end() -> None:
    async def watch() -> list[int]:
        ready, closing, seen = [False], asyncio.Event(), []
        health = Health(lambda: ready[0], (SERVICE,), closing)
        context: Any = None
        async for answer in health.Watch(HealthCheckRequest(service=SERVICE), context):
            seen.append(answer.status)
            if seen == [HealthCheckResponse.NOT_SERVING]:
                ready[0] = True
            elif answer.status == HealthCheckResponse.SERVING:
                closing.set()
        return seen

    assert asyncio.run(watch()) == [
        HealthCheckResponse.NOT_SERVING,
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
    ]


def test_reflection_describes_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    method = pool.FindServiceByName(SERVICE).methods_by_name["ModelInfer"]
    assert "raw_input_contents" in method.input_type.fields_by_name
    for name in ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"):
        assert pool.FindServiceByName(name).methods
