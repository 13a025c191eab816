"""Which files may be published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor
from model_export.quantise.accuracy_gate import (
    Comparison,
    GateFailed,
    check_enough,
    compare,
    images_needed,
    judge,
    open_engines,
)
from model_export.quantise.fp16 import to_fp16
from model_export.quantise.images import batches, sample
from service.runtime.engine import EngineInfo
from service.runtime.head import Head
from service.runtime.model_folder import ModelVersion
from service.runtime.scores import sigmoid
from service.runtime.self_test import SelfTest, SelfTestFailed


@pytest.fixture
def fp32(net_version: ModelVersion) -> OnnxPredictor:
    return OnnxPredictor(net_version, "cpu", "fp32")


@pytest.mark.parametrize(("limit", "images"), [(1, 1), (0.05, 20), (0.01, 100), (0.003, 334), (0.001, 1000), (0, 100)])
def test_images_needed(limit: float, images: int) -> None:
    assert images_needed(limit) == images


def test_too_few_images_are_refused(data: Data) -> None:
    check_enough(sample(data.val, 100), 0.01)
    with pytest.raises(
        InputError, match=r"has 99 images to compare on, too few to measure a limit of 1 points: .* 100"
    ):
        check_enough(sample(data.val, 99), 0.01)


def test_fp32_agrees_with_itself_and_loses_nothing(fp32: OnnxPredictor, data: Data) -> None:
    images = sample(data.val, 20)
    assert compare(fp32, [fp32.engine, fp32.engine], images) == [Comparison("cpu", 1.0, 0.0)] * 2


def test_accuracy_is_counted_with_the_models_classes(fp32: OnnxPredictor, data: Data) -> None:
    """Against a network that predicts the next class; fp32 is right on three quarters of the images."""
    images = sample(data.val, 20)
    answers = np.concatenate([fp32.logits(batch).argmax(axis=1) for batch in batches(images, fp32.preprocessing, 8)])
    images.labels = np.where(np.arange(20) < 5, (answers + 1) % 12, answers)

    class Next:
        info = EngineInfo("cpu", "fp32")

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": np.roll(fp32.logits(images), 1, axis=1)}

    assert compare(fp32, [Next()], images) == [Comparison("cpu", 0.0, pytest.approx(0.75 - 0.25))]


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_without_usable_labels_only_agreement_is_measured(
    fp32: OnnxPredictor, data: Data, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "model_export")
    images = sample(data.val, 8)
    images.classes, images.labels = classes, np.zeros(8, np.int64)
    assert compare(fp32, [fp32.engine], images) == [Comparison("cpu", 1.0, None)]
    assert "nly agreement with fp32 is measured" in caplog.text


def test_of_multi_label_models_all_present_classes_have_to_agree(fp32: OnnxPredictor, data: Data) -> None:
    images = sample(data.val, 24)
    logits = np.concatenate([fp32.logits(batch) for batch in batches(images, fp32.preprocessing, 8)])
    median = tuple(np.median(sigmoid(logits), axis=0).tolist())

    class Shifted:
        """Agrees on the best class of every image, and not on how many are present."""

        info = EngineInfo("cpu", "fp32")

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": fp32.logits(images) + np.float32(0.05)}

    head, fp32.head = fp32.head, Head(kind="sigmoid", thresholds=median)
    try:
        same, other = compare(fp32, [fp32.engine, Shifted()], images)  # type: ignore[list-item]
    finally:
        fp32.head = head
    changed = (sigmoid(logits + np.float32(0.05)) >= median) != (sigmoid(logits) >= median)
    assert same == Comparison("cpu", 1.0, None)
    assert other == Comparison("cpu", pytest.approx(1 - changed.any(axis=1).mean()), None)
    assert other.top1_agreement < 1


def test_the_worst_provider_counts(data: Data) -> None:
    images = sample(data.val, 100)
    gate = judge([Comparison("openvino", 0.97, 0.004), Comparison("cpu", 0.98, 0.01)], images, 0.01)
    assert (gate.top1_agreement, gate.accuracy_lost, gate.limit, gate.images) == (0.97, 0.01, 0.01, 100)
    assert judge([Comparison("cpu", 0.99, None)], images, 0.01).accuracy_lost is None


@pytest.mark.parametrize("comparison", [Comparison("cpu", 0.995, 0.02), Comparison("cpu", 0.98, None)])
def test_beyond_the_limit_nothing_passes(data: Data, comparison: Comparison) -> None:
    with pytest.raises(GateFailed, match=r"more was lost than the 1 points allowed \(cpu: 9"):
        judge([comparison], sample(data.val, 100), 0.01)


def test_a_file_that_fails_the_self_test_is_not_compared(
    fp32: OnnxPredictor, net_version: ModelVersion, tmp_path: Path
) -> None:
    model = to_fp16(onnx.load(net_version.path / "model.onnx"))
    path = tmp_path / "model.fp16.onnx"
    onnx.save(model, path)
    stored = SelfTest.read(net_version.path)
    assert [engine.info.precision for engine in open_engines(path, "fp16", stored)] == ["fp16"]
    with pytest.raises(SelfTestFailed, match="wrong answers"):
        open_engines(path, "fp16", stored._replace(logits=-stored.logits))
