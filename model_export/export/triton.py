"""A published model in the words of Triton's `config.pbtxt`, for its ONNX Runtime backend.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md; the messages are in
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
"""

from __future__ import annotations

from model_export.errors import InputError
from service.runtime.choices import FilePrecision
from service.runtime.graph import INPUT, OUTPUTS
from service.runtime.model_card import ModelCard

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"


def triton_config(card: ModelCard, precision: FilePrecision, max_batch: int) -> str:
    """The text of `config.pbtxt` with which Triton serves one version of a model.

    Only this version is served: without a number in the request, Triton takes the highest that it serves, which
    need not be the stable one. Batches are formed from what waits, without a delay, as by the service.

    Args:
        precision: of the file that Triton runs.
        max_batch: images in a batch, and in a request.

    Raises:
        InputError: the version has no file in this precision.
    """
    if precision not in card.files:
        raise InputError(
            f"{card.name} {card.version} has no {precision} file: run `python -m model_export quantize "
            f"{card.name}@{card.version} --data FOLDER --precision {precision}` first, or choose from "
            f"{', '.join(card.files)}"
        )
    outputs = ",\n".join(
        _tensor(name, "TYPE_FP32", card.output_shapes[name], LABELS_FILE if name == "logits" else None)
        for name in OUTPUTS
    )
    return f"""\
# Written by `python -m model_export triton-config` for version {card.version} of {card.name}.
name: "{card.name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
default_model_filename: "{card.files[precision].file}"
version_policy {{ specific {{ versions: [ {card.version} ] }} }}
input [
{_tensor(INPUT, "TYPE_UINT8", card.preprocessing.shape)}
]
output [
{outputs}
]
dynamic_batching {{ }}
"""


def triton_labels(card: ModelCard) -> str:
    """The class names for Triton's classification extension, a line for each."""
    return "".join(" ".join(label.name.split()) + "\n" for label in card.labels)


def _tensor(name: str, kind: str, dims: tuple[int, ...], labels: str | None = None) -> str:
    """One tensor. `dims` are those of one image: Triton adds the batch itself."""
    label_file = f' label_filename: "{labels}"' if labels else ""
    return f'  {{ name: "{name}" data_type: {kind} dims: [ {", ".join(map(str, dims))} ]{label_file} }}'
