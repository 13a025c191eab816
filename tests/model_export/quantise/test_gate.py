"""What may be published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor
from model_export.quantise.fp16 import halved
from model_export.quantise.gate import (
    Comparison,
    GateFailed,
    check_enough,
    compare,
    engines,
    images_needed,
    passed,
)
from model_export.quantise.images import batches, drawn
from service.card import Published, SelfTest
from service.engine import SelfTestFailed


@pytest.fixture
def fp32(net_1: Published) -> OnnxPredictor:
    return OnnxPredictor(net_1, "cpu", "fp32")


@pytest.mark.parametrize(("limit", "images"), [(1, 1), (0.05, 20), (0.01, 100), (0.003, 334), (0.001, 1000), (0, 100)])
def test_a_limit_needs_so_many_images(limit: float, images: int) -> None:
    assert images_needed(limit) == images


def test_too_few_images_are_refused(data: Data) -> None:
    check_enough(drawn(data.val, 100), 0.01)
    with pytest.raises(InputError, match=r"has 99 images to judge by, which cannot tell a limit of 1 points: .* 100"):
        check_enough(drawn(data.val, 99), 0.01)


def test_fp32_agrees_with_itself_and_loses_nothing(fp32: OnnxPredictor, data: Data) -> None:
    part = drawn(data.val, 20)
    assert compare(fp32, [fp32.engine, fp32.engine], part) == [Comparison("cpu", 1.0, 0.0)] * 2


def test_accuracy_is_counted_with_the_models_classes(fp32: OnnxPredictor, data: Data) -> None:
    """Against a network that answers the next class, on images labelled with what fp32 answers."""
    part = drawn(data.val, 20)
    answers = np.concatenate([fp32.logits(batch).argmax(axis=1) for batch in batches(part, fp32.preprocessing, 8)])
    part.labels = np.where(np.arange(20) < 5, (answers + 1) % 12, answers)

    class Next:
        provider = "cpu"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": np.roll(fp32.logits(images), 1, axis=1)}

    assert compare(fp32, [Next()], part) == [Comparison("cpu", 0.0, pytest.approx(0.75 - 0.25))]


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_labels_that_mean_nothing_leave_agreement(
    fp32: OnnxPredictor, data: Data, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "model_export")
    part = drawn(data.val, 8)
    part.classes, part.labels = classes, np.zeros(8, np.int64)
    assert compare(fp32, [fp32.engine], part) == [Comparison("cpu", 1.0, None)]
    assert "nly agreement with fp32 is measured" in caplog.text


def test_the_worst_of_all_providers_counts(data: Data) -> None:
    part = drawn(data.val, 100)
    gate = passed([Comparison("openvino", 0.97, 0.004), Comparison("cpu", 0.98, 0.01)], part, 0.01)
    assert (gate.top1_agreement, gate.accuracy_lost, gate.limit, gate.images) == (0.97, 0.01, 0.01, 100)
    assert passed([Comparison("cpu", 0.99, None)], part, 0.01).accuracy_lost is None


@pytest.mark.parametrize("comparison", [Comparison("cpu", 0.995, 0.02), Comparison("cpu", 0.98, None)])
def test_beyond_the_limit_nothing_passes(data: Data, comparison: Comparison) -> None:
    with pytest.raises(GateFailed, match=r"more was lost than the 1 points allowed \(cpu: 9"):
        passed([comparison], drawn(data.val, 100), 0.01)


def test_a_file_that_answers_something_else_is_not_even_judged(
    fp32: OnnxPredictor, net_1: Published, tmp_path: Path
) -> None:
    model = halved(onnx.load(net_1.path / "model.onnx"))
    path = tmp_path / "model.fp16.onnx"
    onnx.save(model, path)
    stored = SelfTest.read(net_1.path)
    assert [engine.compute for engine in engines(path, "fp16", stored)] == ["fp16"]
    with pytest.raises(SelfTestFailed, match="wrong answers"):
        engines(path, "fp16", stored._replace(logits=-stored.logits))
