"""Published models that compute next to nothing, made in milliseconds and without PyTorch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_export.weights.defaults import usual_preprocessing
from model_export.weights.labels import imagenet_labels
from service.runtime.class_activation import Classifier
from service.runtime.graph import BATCH_DIMENSION, INPUT
from service.runtime.head import Head
from service.runtime.model_card import Architecture, Label, ModelCard, ModelFile, Parity, Weights
from service.runtime.model_folder import CARD_FILE, MODEL_FILES, SELF_TEST_FILE, sha256
from service.runtime.self_test import SelfTest

OPSET = 20
IR_VERSION = 10  # the first one with this opset
SELF_TEST_IMAGES = 4
PLAIN = Head()
MILLENNIUM = datetime(2000, 1, 1, tzinfo=UTC)


def publish_tiny(
    architecture: Architecture, root: Path, *, version: int = 1, seed: int = 0, head: Head = PLAIN
) -> Path:
    """Publishes a version of a model with the name, the card and the input of an architecture, but another graph.

    The graph normalises the image and takes means of squares of it: the first three channels of a feature map of the
    architecture's shape, whose others are zero. Its mean is the embedding; one linear layer with seeded random weights
    follows.

    Args:
        seed: of the weights.
        head: for the card.

    Returns:
        The version folder. It appears there at once with all that belongs into it.
    """
    folder = root / architecture.name / f".staging-{version}"
    folder.mkdir(parents=True)
    preprocessing = usual_preprocessing(architecture.family)
    classes, crop = architecture.num_classes, preprocessing.crop
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, classes)).astype(np.float32)
    bias = rng.normal(scale=0.1, size=classes).astype(np.float32)
    mean = np.float32(255) * np.float32(preprocessing.mean).reshape(1, 3, 1, 1)
    scale = 1 / (np.float32(255) * np.float32(preprocessing.std).reshape(1, 3, 1, 1))

    channels, cells = architecture.channels, preprocessing.height // 2**architecture.halvings
    square = [preprocessing.height // cells] * 2
    constants = {
        "mean": mean,
        "scale": scale,
        "weight": weight,
        "bias": bias,
        "pads": np.array([0, 0, 0, 0, 0, channels - 3, 0, 0]),
        "first": np.array([0]),
        "last": np.array([3]),
        "axis": np.array([1]),
    }
    path = folder / MODEL_FILES["fp32"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["normalised"]),
            helper.make_node("AveragePool", ["normalised"], ["squares"], kernel_shape=square, strides=square),
            helper.make_node("Pad", ["squares", "pads"], ["feature_map"]),
            helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["embedding"]),
            helper.make_node("Slice", ["embedding", "first", "last", "axis"], ["colour"]),
            helper.make_node("Gemm", ["colour", "weight", "bias"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH_DIMENSION, 3, crop, crop])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH_DIMENSION, classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [BATCH_DIMENSION, channels]),
            helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, [BATCH_DIMENSION, channels, cells, cells]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())

    # Images of different colours: the mean colour is all that the graph sees.
    brightest = rng.integers(1, 256, (SELF_TEST_IMAGES, 3, 1, 1))
    images = rng.integers(0, brightest, (SELF_TEST_IMAGES, 3, crop, crop), dtype=np.uint8)
    logits = ((images - mean.astype(np.float64)) * scale).mean(axis=(2, 3)) @ weight + bias
    SelfTest(images, logits.astype(np.float32)).write(folder)

    rows = np.zeros((classes, channels), np.float32)
    rows[:, :3] = weight.T
    parity = Parity(batch_sizes=(1,), max_abs_difference=0, top1_agreement=1, top5_agreement=1)
    file = ModelFile(file=path.name, sha256=sha256(path), bytes=path.stat().st_size, parity=parity)
    card = ModelCard(
        name=architecture.name,
        version=version,
        created=MILLENNIUM,
        architecture=architecture,
        parameters=weight.size + bias.size,
        weights=Weights(source="random, for tests"),
        preprocessing=preprocessing,
        labels=imagenet_labels() if classes == 1000 else tuple(Label(name=f"class {i}") for i in range(classes)),
        head=head,
        files={"fp32": file},
        self_test_sha256=sha256(folder / SELF_TEST_FILE),
        classifier_sha256=sha256(Classifier(rows, bias).write(folder)),
        tools={},
    )
    (folder / CARD_FILE).write_text(card.to_json())
    return folder.rename(folder.with_name(str(version)))
