"""The messages of open_inference.proto, whose types are in messages.pyi. `make proto` makes what is loaded here.

They live in a descriptor pool of their own. Modules that protoc writes put theirs into the pool of the whole process,
which refuses a second message of the same name: nobody could import Triton's client beside the service.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_compiled = FileDescriptorSet.FromString(Path(__file__).with_name("open_inference.descriptor").read_bytes())
_pool = DescriptorPool()
_pool.Add(_compiled.file[0])
DESCRIPTOR = _pool.FindFileByName(_compiled.file[0].name)
globals().update({name: GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()})
