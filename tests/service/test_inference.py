"""Softmax and top-k, and a model at work in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from service.batching import ExactSizes, PaddedSizes
from service.card import ModelCard
from service.engine import DynamicEngine
from service.inference import FAILURES, EngineBroken, Inference, InProcess, softmax, top_k
from service.metrics import Metrics
from service.repository import Model, Repository
from service.settings import Settings


def test_softmax() -> None:
    probabilities = softmax(np.array([[1000.0, 1000.0, 0.0], [1.0, 2.0, 3.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0.0], [0.0900, 0.2447, 0.6652]], atol=1e-4)


def test_softmax_at_a_temperature() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(softmax(logits, 2.0), softmax(logits / 2), rtol=1e-6)
    assert softmax(logits, 2.0).dtype == np.float32


def test_top_k() -> None:
    first, second = top_k(np.array([[0.0, 5.0, 1.0, 5.0], [3.0, 2.0, 1.0, 0.0]], np.float32), 3)
    assert first.class_ids.tolist() == [1, 3, 2]  # equal ones in the order of their ids
    assert second.class_ids.tolist() == [0, 1, 2]
    assert second.probabilities[0] == pytest.approx(np.exp(3) / np.exp([3, 2, 1, 0]).sum())


@pytest.mark.parametrize("seed", range(20))
def test_the_best_are_those_of_sorting_them_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-5, 5, (3, 40)).astype(np.float32)  # with many equal ones
    for k in (1, 2, 7, 39, 40):
        order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        for found, ids, row in zip(top_k(logits, k), order, softmax(logits), strict=True):
            assert found.class_ids.tolist() == ids.tolist()
            np.testing.assert_array_equal(found.probabilities, row[ids])


def test_temperature_changes_probabilities_and_nothing_else() -> None:
    logits = np.array([[0.0, 5.0, 1.0, 5.0, -2e-8, 2e-8]], np.float32)
    (cold,), (hot,) = top_k(logits, 6), top_k(logits, 6, 1000.0)
    assert cold.class_ids.tolist() == hot.class_ids.tolist() == [1, 3, 2, 5, 0, 4]
    assert hot.probabilities[0] == pytest.approx(np.exp(0.005) / np.exp(logits / 1000).sum())
    assert cold.probabilities[0] > 0.4 > hot.probabilities[0]


class Picture(NamedTuple):
    pixels: np.ndarray
    top_k: int = 1


class ScriptedEngine:
    """An engine whose batches end as they are told to: with an exception, or with logits."""

    batch_sizes = (1,)
    lanes = 1
    seconds: dict[int, float] | None = None

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)

    def infer(self, images: Sequence[np.ndarray], *, alone: bool) -> dict[str, np.ndarray]:
        if self._ends and (error := self._ends.pop(0)):
            raise error
        return {"logits": np.zeros((len(images), 10), np.float32)}

    def warm_up_thread(self) -> None:
        """Nothing to warm up."""


@pytest.fixture
def inference(models_dir: Path) -> Callable[..., Inference]:
    """A model at work on a scripted engine."""

    def build(engine: ScriptedEngine, on_broken: Callable[[EngineBroken], None] = lambda error: None) -> Inference:
        path = models_dir / "resnet8-cifar" / "1"
        model = Model(path, ModelCard.read(path))
        model.engine = engine  # type: ignore[assignment]
        return Inference(model, Settings(models_dir=models_dir), Metrics(), on_broken)

    return build


def outcomes(inference: Inference, images: int) -> list[str]:
    """What becomes of so many images, each in a batch of its own."""

    async def run() -> list[str]:
        found = []
        for _ in range(images):
            prediction = asyncio.get_running_loop().create_future()
            inference.submit(Picture(np.zeros((3, 32, 32), np.uint8)), prediction)
            try:
                await prediction
                found.append("answered")
            except RuntimeError as error:
                found.append(str(error))
        return found

    try:
        return asyncio.run(asyncio.wait_for(run(), 10))
    finally:
        inference.close()


def test_an_engine_that_fails_batch_after_batch_is_given_up_once(inference: Callable[..., Inference]) -> None:
    told: list[EngineBroken] = []
    made = inference(ScriptedEngine(*[RuntimeError("CUDA failure 700")] * 5), told.append)
    assert outcomes(made, 6) == ["CUDA failure 700"] * 5 + ["answered"]
    assert [str(error) for error in told] == [
        f"resnet8-cifar: {FAILURES} batches in a row have failed: CUDA failure 700"
    ]


def test_an_engine_that_answers_in_between_is_not_given_up(inference: Callable[..., Inference]) -> None:
    told: list[EngineBroken] = []
    fault = RuntimeError("out of memory")
    made = inference(ScriptedEngine(fault, fault, None, fault, fault, None), told.append)
    assert outcomes(made, 6) == ["out of memory", "out of memory", "answered"] * 2
    assert told == []


def test_failures_of_all_lanes_are_counted_and_told_once(inference: Callable[..., Inference]) -> None:
    told: list[EngineBroken] = []
    made = inference(ScriptedEngine(*[RuntimeError("CUDA failure 700")] * 100), told.append)
    pictures = [Picture(np.zeros((3, 32, 32), np.uint8))]

    def fail(_: int) -> None:
        with pytest.raises(RuntimeError, match="700"):
            made._run(pictures, False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(100)))
    made.close()
    assert len(told) == 1


def test_a_model_whose_lanes_do_not_warm_up_fails_and_the_others_are_served(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warm_up_thread(self: DynamicEngine) -> None:
        if self._blank(1).shape[-1] == 224:
            raise MemoryError("no memory left on the GPU")

    monkeypatch.setattr(DynamicEngine, "warm_up_thread", warm_up_thread)
    settings = Settings(models_dir=models_dir, provider="cpu", max_batch=1)
    backend = InProcess(Repository(models_dir), settings, Metrics())
    loaded = {model.name: (model, inference) for model, inference in backend.load()}
    failed, inference = loaded["resnet18"]
    assert (failed.state, inference, failed.engine, failed.info) == ("failed", None, None, None)
    assert failed.reason == "its engine does not run on the threads of its lanes: no memory left on the GPU"
    _, inference = loaded["resnet8-cifar"]
    assert inference is not None
    inference.close()


def test_a_broken_engine_makes_its_process_not_ready(models_dir: Path) -> None:
    told: list[EngineBroken] = []
    settings = Settings(models_dir=models_dir)
    backend = InProcess(Repository(models_dir), settings, Metrics(), told.append)
    assert backend.ready
    error = EngineBroken("why")
    backend._break(error)
    assert not backend.ready
    assert told == [error]


def test_what_is_padded_is_batched_by_how_long_its_sizes_take(inference: Callable[..., Inference]) -> None:
    engine = ScriptedEngine()
    exact = inference(engine)
    engine.seconds = {1: 1.0, 8: 1.1}
    padded = inference(engine)
    assert isinstance(exact._batcher._sizes, ExactSizes)
    assert isinstance(padded._batcher._sizes, PaddedSizes)
    assert padded._batcher._sizes.take(5, 1) == 5
    exact.close()
    padded.close()
