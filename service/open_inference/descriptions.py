"""What the protocol says about the server and its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from service.model_repository import Model, Repository
from service.open_inference.answers import shapes_of
from service.open_inference.datatypes import FP32, UINT8
from service.redaction import redacted
from service.runtime.build import this_build
from service.runtime.graph import INPUT

SERVER = "resnet-service"
PLATFORM = "onnx_onnxv1"  # as the protocol writes it: framework and format
EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "model_repository"),
    *("schedule_policy", "statistics"),
)
STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE"}
ANY = -1  # a size that each request chooses


class ServerMetadata(NamedTuple):
    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(NamedTuple):
    """A model as its clients see it.

    Attributes:
        versions: those that are ready, ascending.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ConfiguredTensor(NamedTuple):
    """A tensor in Triton's configuration of a model. `dims` are those of one image."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class ModelConfig(NamedTuple):
    """A model in the terms of Triton's configuration, as far as clients ask for it.

    Attributes:
        max_batch_size: images in a request.
    """

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: tuple[ConfiguredTensor, ...]
    output: tuple[ConfiguredTensor, ...]


class IndexEntry(NamedTuple):
    """One version in the repository index. `state`: READY, LOADING or UNAVAILABLE, and then the reason."""

    name: str
    version: str
    state: str
    reason: str


def server() -> ServerMetadata:
    return ServerMetadata(SERVER, this_build().version, EXTENSIONS)


def describe(model: Model, repository: Repository) -> ModelMetadata:
    """A model's tensors. Its input has one datatype here, the pixels'; encoded images (BYTES `[N]`) are taken, too."""
    card = model.card
    ready = sorted(
        each.version for each in repository.versions if each.name == model.name and each.status.state == "ready"
    )
    return ModelMetadata(
        model.name,
        tuple(map(str, ready)),
        PLATFORM,
        (TensorMetadata(INPUT, UINT8, (ANY, *card.preprocessing.shape)),),
        tuple(TensorMetadata(name, FP32, (ANY, *shape)) for name, shape in shapes_of(card).items()),
    )


def configure(model: Model, max_images: int) -> ModelConfig:
    """How Triton would be configured to serve the model (its extension `model_configuration`)."""
    card = model.card
    return ModelConfig(
        model.name,
        "onnxruntime_onnx",
        "onnxruntime",
        max_images,
        (ConfiguredTensor(INPUT, f"TYPE_{UINT8}", card.preprocessing.shape),),
        tuple(ConfiguredTensor(name, f"TYPE_{FP32}", shape) for name, shape in shapes_of(card).items()),
    )


def index(repository: Repository, *, ready_only: bool) -> Iterator[IndexEntry]:
    """Every version that is known, by name and version."""
    entries = [
        IndexEntry(
            model.name,
            str(model.version),
            STATES[model.status.state],
            redacted(model.status.reason or "", model.path),
        )
        for model in repository.versions
    ]
    entries += [
        IndexEntry(stamp.path.parent.name, stamp.path.name, STATES["failed"], redacted(reason, stamp.path))
        for stamp, reason in repository.unreadable.items()
    ]
    return (entry for entry in sorted(entries) if entry.state == STATES["ready"] or not ready_only)
