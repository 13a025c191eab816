"""The exported file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export.drawings.samples import sample_images
from model_export.export.onnx_export import ExportError, _check, export_onnx, folded
from model_export.export.parity_gate import FLOOR, torch_answers
from model_export.nets.resnet import IMAGENET_BLOCKS, build
from model_export.nets.serving_graph import ServingGraph
from model_export.weights.random_weights import random_weights
from service.runtime.engine import DynamicEngine
from service.runtime.graph import OUTPUTS
from service.runtime.model_card import Architecture
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session


@pytest.fixture(scope="module")
def model(models_dir: Path) -> onnx.ModelProto:
    return onnx.load(models_dir / "resnet18" / "1" / "model.onnx")


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_interface(model: onnx.ModelProto) -> None:
    (image,) = model.graph.input
    assert (image.name, shape(image)) == ("image", ["batch", 3, 224, 224])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {output.name: shape(output) for output in model.graph.output} == {
        "logits": ["batch", 1000],
        "embedding": ["batch", 512],
        "feature_map": ["batch", 512, 7, 7],
    }


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(depth=8, family="cifar", num_classes=3),
        Architecture(depth=18, num_classes=3),
        pytest.param(Architecture(depth=50, num_classes=3), marks=pytest.mark.slow),
    ],
    ids=lambda architecture: architecture.name,
)
@pytest.mark.parametrize("crop", [(32, 32), (75, 97)])
def test_the_card_tells_the_outputs_shapes(architecture: Architecture, crop: tuple[int, int], models_dir: Path) -> None:
    loaded = random_weights(architecture)
    preprocessing = Preprocessing(resize=128, crop=crop)
    card = read_card(models_dir / "resnet18" / "1").model_copy(
        update={"architecture": architecture, "preprocessing": preprocessing}
    )
    with torch.no_grad():
        outputs = ServingGraph(loaded.net, preprocessing).eval()(torch.zeros((2, 3, *crop), dtype=torch.uint8))
    assert {name: tuple(output.shape[1:]) for name, output in zip(OUTPUTS, outputs, strict=True)} == card.output_shapes


def test_batch_norms_are_folded_and_weights_are_inside(model: onnx.ModelProto, models_dir: Path) -> None:
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 20
    assert [path.name for path in (models_dir / "resnet18" / "1").glob("*.data")] == []


def test_folding_works_on_a_copy_and_keeps_the_answers() -> None:
    loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="C", num_classes=3))
    graph = loaded.serving_graph()
    images = sample_images(2, loaded.preprocessing)
    before = torch_answers(graph, images)
    result = folded(graph)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in result.modules())
    for after, again, expected in zip(torch_answers(result, images), torch_answers(graph, images), before, strict=True):
        np.testing.assert_allclose(after, expected, atol=1e-4)
        assert np.array_equal(again, expected)


def test_the_file_says_nothing_of_the_machine(model: onnx.ModelProto) -> None:
    text = model.SerializeToString()
    assert b".py" not in text
    assert str(Path.cwd()).encode() not in text


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(depth=8, family="cifar", shortcut=None, num_classes=10),
        Architecture(depth=8, family="cifar", shortcut="A", num_classes=10),
        pytest.param(Architecture(depth=8, family="cifar", shortcut="C", num_classes=3), marks=pytest.mark.slow),
    ],
    ids=["plain", "A", "C"],
)
def test_every_kind_of_net_exports_with_a_dynamic_batch(architecture: Architecture, tmp_path: Path) -> None:
    loaded = random_weights(architecture)
    path = tmp_path / "model.onnx"
    export_onnx(loaded.serving_graph(), loaded.preprocessing.shape, path, {})
    engine = DynamicEngine.of(open_session(path, "cpu", threads=1))
    graph = loaded.serving_graph()
    for size in (1, 5):
        images = sample_images(size, loaded.preprocessing)
        np.testing.assert_allclose(engine.infer(images)["logits"], torch_answers(graph, images)[0], atol=1e-4)


@pytest.mark.slow
def test_v1_and_v15_of_the_same_weights_export_to_different_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMAGENET_BLOCKS, 50, (1, 1, 1, 1))  # only the first block of a stage has a stride
    loaded = random_weights(Architecture(depth=50, variant="v1", num_classes=10))
    v15 = build(Architecture(depth=50, variant="v1.5", num_classes=10)).eval()
    v15.load_state_dict(loaded.net.state_dict())
    images = sample_images(1, loaded.preprocessing)
    answers = []
    for net in (loaded.net, v15):
        path = tmp_path / f"{net.architecture.variant}.onnx"
        export_onnx(loaded._replace(net=net).serving_graph(), loaded.preprocessing.shape, path, {})
        answers.append(DynamicEngine.of(open_session(path, "cpu", threads=2)).infer(images)["logits"])
    # far more than the parity gate allows
    assert np.abs(answers[0] - answers[1]).max() > 1000 * FLOOR * np.ptp(answers[0])


def test_a_batch_norm_or_a_fixed_batch_is_refused(model: onnx.ModelProto) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match="the batch dimension of image is fixed"):
        _check(fixed)

    normed = onnx.ModelProto()
    normed.CopyFrom(model)
    channels = [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [512], [1.0] * 512) for name in "smbv"]
    normed.graph.initializer.extend(channels)
    inputs = ["feature_map", *(tensor.name for tensor in channels)]
    normed.graph.node.append(onnx.helper.make_node("BatchNormalization", inputs, ["extra"], name="bn7"))
    with pytest.raises(ExportError, match=r"1 batch norms were not folded .*bn7"):
        _check(normed)
