"""The engine for batches of any size, with really exported models on real providers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.runtime.choices import Precision, ProviderName
from service.runtime.engine import DynamicEngine, EngineInfo
from service.runtime.graph import OUTPUTS
from service.runtime.providers import open_session
from service.runtime.self_test import SelfTest, SelfTestFailed, tolerance
from tests.service.runtime.engines import Recorded, load, load_or_skip, pictures, wrong

pytestmark = pytest.mark.machine

TWO_LANES = EngineInfo("cpu", "fp32", lanes=2)


def test_outputs_and_their_shapes(resnet18: Path) -> None:
    images = SelfTest.read(resnet18).images[:3]
    outputs = load(resnet18).infer(images, OUTPUTS)
    assert {name: array.shape for name, array in outputs.items()} == {
        "logits": (3, 1000),
        "embedding": (3, 512),
        "feature_map": (3, 512, 7, 7),
    }
    assert all(array.dtype == np.float32 for array in outputs.values())
    np.testing.assert_allclose(outputs["embedding"], outputs["feature_map"].mean(axis=(2, 3)), rtol=1e-4)


def test_an_answer_does_not_depend_on_the_batch(resnet18: Path) -> None:
    images = SelfTest.read(resnet18).images
    engine = load(resnet18)
    together = engine.infer(images)["logits"]
    alone = np.concatenate([engine.infer(image[None])["logits"] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_an_engine_of_one_session_has_one_lane(resnet8: Path) -> None:
    session = open_session(resnet8 / "model.onnx", "cpu", threads=1)
    engine = DynamicEngine.of(session._replace(provider="openvino", precision="bf16"))
    assert engine.info == EngineInfo("openvino", "bf16", lanes=1, batch_sizes=(1,), refused={}, tuned=None)
    assert engine.seconds is None


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")])
def test_engines_reproduce_pytorchs_answers(resnet18: Path, provider: ProviderName, precision: Precision) -> None:
    engine = load_or_skip(resnet18, provider, precision)
    assert (engine.info.provider, engine.info.precision) == (provider, precision)
    stored = SelfTest.read(resnet18)
    assert 0 < engine.self_test(stored) < tolerance(precision, stored.rounding)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_int8_is_close(quantised: Path, provider: ProviderName) -> None:
    engine = load_or_skip(quantised, provider, "int8")
    assert (engine.info.provider, engine.info.precision) == (provider, "int8")
    stored = SelfTest.read(quantised)
    assert tolerance("fp32", stored.rounding) < engine.self_test(stored) < tolerance("int8", stored.rounding)


def test_wrong_answers_are_refused(resnet8: Path) -> None:
    engine = load(resnet8)
    stored = SelfTest.read(resnet8)
    with pytest.raises(SelfTestFailed, match="cpu computes wrong answers"):
        engine.self_test(SelfTest(stored.images, np.roll(stored.logits, 1, axis=1)))
    with pytest.raises(SelfTestFailed):
        engine.self_test(SelfTest(stored.images, np.full_like(stored.logits, np.nan)))


@pytest.mark.parametrize("faulty", ["wide", "narrow"])
def test_the_self_test_covers_both_sessions(resnet8: Path, faulty: str) -> None:
    good = open_session(resnet8 / "model.onnx", "cpu", threads=1)
    wide, narrow = (wrong(good), good) if faulty == "wide" else (good, wrong(good))
    with pytest.raises(SelfTestFailed):
        DynamicEngine(TWO_LANES, wide, narrow).self_test(SelfTest.read(resnet8))
    DynamicEngine(TWO_LANES, good, good).self_test(SelfTest.read(resnet8))


def test_a_batch_alone_runs_in_the_wide_session(resnet8: Path) -> None:
    good = open_session(resnet8 / "model.onnx", "cpu", threads=1)
    engine = DynamicEngine(TWO_LANES, good, wrong(good))
    images = SelfTest.read(resnet8).images
    np.testing.assert_array_equal(
        engine.infer(images, alone=True)["logits"], -engine.infer(images, alone=False)["logits"]
    )


def test_both_sessions_are_warmed_up_with_every_batch_size(resnet8: Path) -> None:
    good = open_session(resnet8 / "model.onnx", "cpu", threads=1)
    wide, narrow = Recorded(good), Recorded(good)
    info = TWO_LANES._replace(batch_sizes=(1, 2, 4))
    DynamicEngine(info, good._replace(ort=wide), good._replace(ort=narrow)).warm_up()
    for session in (wide, narrow):
        assert [size for size, _ in session.batches] == [1, 2, 4]


def test_black_batches_have_the_size_and_the_session_that_are_to_be_timed(resnet8: Path) -> None:
    good = open_session(resnet8 / "model.onnx", "cpu", threads=1)
    wide, narrow = Recorded(good), Recorded(good)
    engine = DynamicEngine(TWO_LANES, good._replace(ort=wide), good._replace(ort=narrow))
    engine.run_black(3, alone=True)
    engine.run_black(2, alone=False)
    assert [size for size, _ in wide.batches] == [3]
    assert [size for size, _ in narrow.batches] == [2]


@pytest.mark.parametrize(
    ("provider", "precision"),
    [("cpu", "fp32"), ("cpu", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")],
)
def test_several_threads_get_right_answers_at_once(
    quantised: Path, provider: ProviderName, precision: Precision
) -> None:
    engine = load_or_skip(quantised, provider, precision, lanes=2)
    images = pictures(24)
    assert len(engine.logits_by_path(images[:1])) == 2  # from the wide session and from the narrow one
    expected = [engine.infer(image[None])["logits"][0] for image in images]

    def infer(first: int) -> np.ndarray:
        size = 1 + first % 4
        return engine.infer(images[first : first + size], alone=False)["logits"]

    with ThreadPoolExecutor(2) as pool:
        for first, logits in enumerate(pool.map(infer, range(20))):
            allowed = tolerance(precision, None) * np.ptp(expected)
            np.testing.assert_allclose(logits, expected[first : first + len(logits)], atol=allowed)
