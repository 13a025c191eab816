"""The self-test: how it is stored, and how much error each precision explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from service.runtime.choices import Precision
from service.runtime.engine import DynamicEngine
from service.runtime.model_folder import SELF_TEST_FILE, CardError
from service.runtime.providers import open_session
from service.runtime.self_test import SelfTest, SelfTestFailed, largest_error, tolerance


@pytest.mark.parametrize("rounding", [None, 1e-7])  # None: older files do not store it
def test_a_self_test_is_stored_exactly(published: Path, rounding: float | None) -> None:
    stored = SelfTest(np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2), np.array([[0.5, 1.5]], np.float32), rounding)
    stored.write(published)
    read = SelfTest.read(published)
    assert np.array_equal(read.images, stored.images)
    assert np.array_equal(read.logits, stored.logits)
    assert read.rounding == rounding
    assert (read.images.dtype, read.logits.dtype) == (np.uint8, np.float32)
    for damaged in (b"", b"not a zip", (published / SELF_TEST_FILE).read_bytes()[:50]):
        (published / SELF_TEST_FILE).write_bytes(damaged)
        with pytest.raises(CardError, match="cannot be read"):
            SelfTest.read(published)


@pytest.mark.parametrize(
    ("precision", "rounding", "allowed"),
    [
        ("fp32", 1e-9, 1e-5),
        ("fp32", 3e-7, 64 * 3e-7),
        ("fp16", 3e-7, 2 * 2**13 * 3e-7),
        ("fp16", 1e-9, 2e-3),
        ("bf16", 3e-7, 2**16 * 3e-7),
        ("bf16", 1e-4, 0.3),  # a plain net of 56 layers, which such roundoff destroys
        ("int8", 3e-7, 0.2),
        ("fp32", None, 1e-4),
        ("bf16", None, 0.1),
    ],
)
def test_the_tolerance_follows_the_networks_own_rounding(
    precision: Precision, rounding: float | None, allowed: float
) -> None:
    assert tolerance(precision, rounding) == pytest.approx(allowed)


def test_the_largest_error_is_relative_to_the_range_of_the_logits() -> None:
    stored = SelfTest(np.zeros((2, 3, 1, 1), np.uint8), np.array([[0.0, 1.0], [2.0, 4.0]], np.float32))
    off = stored.logits + np.array([[0.0, 0.0], [-0.02, 0.01]], np.float32)
    assert largest_error(stored, [stored.logits], "cpu", "fp32") == 0
    assert largest_error(stored, [stored.logits, off], "cpu", "fp16") == pytest.approx(0.005, rel=1e-4)
    with pytest.raises(SelfTestFailed, match=r"by 0\.500% of their range; fp32 explains at most 0\.010%$"):
        largest_error(stored, [stored.logits, off], "cpu", "fp32")


def tf32(array: np.ndarray) -> np.ndarray:
    """float32 rounded to TF32's mantissa of 10 bits."""
    bits = array.astype(np.float32).view(np.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(np.float32)


@pytest.mark.machine
def test_tf32_does_not_pass_as_fp32(published: Path) -> None:
    """Only weights are rounded here. A provider rounds activations as well, so its error is larger."""
    path = published / "model.onnx"
    model = onnx.load(path)
    for constant in model.graph.initializer:
        if len(constant.dims) == 4:
            rounded = tf32(onnx.numpy_helper.to_array(constant))
            constant.CopyFrom(onnx.numpy_helper.from_array(rounded, constant.name))
    onnx.save(model, path)
    stored = SelfTest.read(published)
    session = open_session(path, "cpu", threads=1)
    with pytest.raises(SelfTestFailed, match=r"fp32 explains .*, ONNX Runtime uses TF32: serve this model in fp16$"):
        DynamicEngine.of(session._replace(provider="cuda")).self_test(stored)
    with pytest.raises(SelfTestFailed, match=r"fp32 explains at most [0-9.]*%$"):
        DynamicEngine.of(session).self_test(stored)
    error = DynamicEngine.of(session._replace(precision="fp16")).self_test(stored)
    assert error > tolerance("fp32", stored.rounding)
