"""`triton-config`, read back with Triton's own messages and held against the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_export.__main__ import main
from model_export.versions import promote
from service.runtime.model_card import Architecture, ModelCard
from service.runtime.model_folder import CARD_FILE, model_versions
from tests.support.folders import copied
from tests.support.tiny_models import publish_tiny

SMALL = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
ONNX_TYPES = {"TYPE_UINT8": onnx.TensorProto.UINT8, "TYPE_FP32": onnx.TensorProto.FLOAT}


def config(root: Path, name: str) -> Any:
    """`config.pbtxt` as Triton parses it: unknown fields and wrong types are errors."""
    text = (root / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())  # type: ignore[attr-defined]


def dims(tensor: onnx.ValueInfoProto) -> list[int]:
    """Of one image: without the first dimension, which is the batch's."""
    batch, *others = tensor.type.tensor_type.shape.dim
    assert batch.dim_param  # Triton batches only graphs whose first dimension is variable
    return [dim.dim_value for dim in others]


def test_every_model_is_described_as_its_graph_is(tiny_dir: Path, tmp_path: Path) -> None:
    root = copied(tiny_dir, tmp_path / "models")
    assert main(["triton-config", f"--models-dir={root}"]) == 0
    for name in ("resnet18", "resnet8-cifar"):
        described = config(root, name)
        assert described.name == name  # Triton refuses another one than the folder's
        assert described.backend == "onnxruntime"
        assert described.max_batch_size == 32
        assert described.HasField("dynamic_batching")
        (version,) = described.version_policy.specific.versions
        graph = onnx.load(root / name / str(version) / described.default_model_filename).graph
        for tensors, values in ((described.input, graph.input), (described.output, graph.output)):
            assert {tensor.name for tensor in tensors} == {value.name for value in values}
            for tensor in tensors:
                (value,) = (value for value in values if value.name == tensor.name)
                kind = model_config_pb2.DataType.Name(tensor.data_type)  # type: ignore[attr-defined]
                assert ONNX_TYPES[kind] == value.type.tensor_type.elem_type
                assert list(tensor.dims) == dims(value)
        (labelled,) = (tensor for tensor in described.output if tensor.label_filename)
        labels = (root / name / labelled.label_filename).read_text().splitlines()
        assert [len(labels)] == list(labelled.dims)


def test_triton_serves_the_version_that_clients_of_the_service_get(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        publish_tiny(SMALL, tmp_path, version=version)
    main(["triton-config", f"--models-dir={tmp_path}"])
    assert config(tmp_path, "resnet8-cifar").version_policy.specific.versions == [3]
    promote(tmp_path, "resnet8-cifar", 2)
    main(["triton-config", f"--models-dir={tmp_path}"])
    assert config(tmp_path, "resnet8-cifar").version_policy.specific.versions == [2]
    main(["triton-config", "resnet8-cifar@1", f"--models-dir={tmp_path}"])
    assert config(tmp_path, "resnet8-cifar").version_policy.specific.versions == [1]


def test_a_file_of_another_precision(tmp_path: Path) -> None:
    folder = publish_tiny(SMALL, tmp_path)
    card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    int8 = card.files["fp32"].model_copy(update={"file": "model.int8.onnx"})
    changed = card.model_copy(update={"files": {**card.files, "int8": int8}})
    (folder / CARD_FILE).write_text(changed.to_json())
    arguments = ["triton-config", "resnet8-cifar", "--precision=int8", "--max-batch=8", f"--models-dir={tmp_path}"]
    assert main(arguments) == 0
    assert config(tmp_path, "resnet8-cifar").default_model_filename == "model.int8.onnx"
    assert config(tmp_path, "resnet8-cifar").max_batch_size == 8


def test_the_service_serves_the_folder_as_before(tmp_path: Path) -> None:
    publish_tiny(SMALL, tmp_path)
    before = list(model_versions(tmp_path))
    main(["triton-config", f"--models-dir={tmp_path}"])
    assert list(model_versions(tmp_path)) == before


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ["--precision=int8"],
            "resnet8-cifar 1 has no int8 file: run `python -m model_export quantize resnet8-c",
        ),
        (["resnet50"], "there is no model resnet50 in "),
    ],
)
def test_what_cannot_be_described_is_said(
    arguments: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_tiny(SMALL, tmp_path)
    assert main(["triton-config", f"--models-dir={tmp_path}", *arguments]) == 1
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "resnet8-cifar" / "config.pbtxt").exists()


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton-config", f"--models-dir={tmp_path}"]) == 1
    assert f"nothing is published in {tmp_path}" in capsys.readouterr().err
