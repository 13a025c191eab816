"""The messages are those of the protocol, also beside Triton's client in one process."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from service.grpc_api import messages

NAMES = sorted(messages.DESCRIPTOR.message_types_by_name)


def fields(descriptor: object, ours: dict[str, object]) -> None:
    """Collects the fields of a message and of the messages in it: name, number, type and label."""
    for field in descriptor.fields:  # type: ignore[attr-defined]
        number: FieldDescriptor = field
        ours[number.full_name] = (number.number, number.type, number.is_repeated)
    for nested in descriptor.nested_types:  # type: ignore[attr-defined]
        fields(nested, ours)


@pytest.mark.parametrize("name", NAMES)
def test_tritons_client_has_the_same_fields(name: str) -> None:
    ours: dict[str, object] = {}
    theirs: dict[str, object] = {}
    fields(messages.DESCRIPTOR.message_types_by_name[name], ours)
    of_triton = {**model_config_pb2.DESCRIPTOR.message_types_by_name, **service_pb2.DESCRIPTOR.message_types_by_name}
    fields(of_triton[name], theirs)
    assert ours.items() <= theirs.items()


def test_tritons_client_has_the_same_methods() -> None:
    (ours,) = messages.DESCRIPTOR.services_by_name.values()
    theirs = service_pb2.DESCRIPTOR.services_by_name[ours.name]
    assert ours.full_name == theirs.full_name
    for method in ours.methods:
        same = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == same.input_type.full_name
        assert method.output_type.full_name == same.output_type.full_name
        assert not same.client_streaming
        assert not same.server_streaming
