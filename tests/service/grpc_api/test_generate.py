"""What is compiled is what open_inference.proto says."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from service.grpc_api.generate import DESCRIPTOR, HERE, TYPES, generate


def test_what_is_kept_is_compiled_from_the_proto(tmp_path: Path) -> None:
    generate(tmp_path)
    kept, now = (FileDescriptorSet.FromString((folder / DESCRIPTOR).read_bytes()) for folder in (HERE, tmp_path))
    assert kept == now, "run `make proto`"
    assert (HERE / TYPES).read_text() == (tmp_path / TYPES).read_text(), "run `make proto`"
