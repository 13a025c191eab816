"""The pipeline without HTTP, on real models."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.card import Calibration, ModelCard, Preprocessing
from service.classifier import Answer, Classifier
from service.errors import ImageTooLarge, InternalError, ModelFailed, ModelNotReady, Overloaded, TruncatedImage
from service.imaging import Decoded, decode
from service.inference import InProcess, TopK, top_k
from service.metrics import Metrics
from service.repository import Model, Repository
from service.settings import Settings
from service.tuning import Cache


def make(models_dir: Path, **changes: object) -> Classifier:
    settings = Settings.model_validate({"models_dir": models_dir, "provider": "cpu", "max_batch": 8, **changes})
    metrics = Metrics()
    return Classifier(InProcess(Repository(models_dir, only=settings.models), settings, metrics), settings, metrics)


@pytest.fixture
def classifier(models_dir: Path) -> Iterator[Classifier]:
    made = make(models_dir, max_image_bytes=200_000, max_queue=32)
    made.load()
    yield made
    made.close()


def test_the_cards_temperature_is_applied(models_dir: Path, tmp_path: Path, photo: bytes) -> None:
    folder = tmp_path / "resnet8-cifar" / "1"
    shutil.copytree(models_dir / "resnet8-cifar" / "1", folder)
    plain = answer_of(make(tmp_path), photo)
    calibration = Calibration(temperature=4.0, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    card = ModelCard.read(folder).model_copy(update={"calibration": calibration})
    (folder / "card.json").write_text(card.to_json())
    calibrated = answer_of(make(tmp_path), photo)
    assert calibrated.class_ids.tolist() == plain.class_ids.tolist()
    expected = plain.probabilities**0.25  # softmax(z / 4) is softmax(z) to the power of 1/4, normalised
    np.testing.assert_allclose(calibrated.probabilities, expected / expected.sum(), rtol=1e-4)


def answer_of(classifier: Classifier, photo: bytes) -> TopK:
    """All probabilities of the default model."""
    classifier.load()
    model = classifier.repository.get(classifier.repository.default)
    (answer,) = asyncio.run(classifier.classify(model, [photo], len(model.card.labels)))
    classifier.close()
    assert isinstance(answer, Answer)
    return answer.top


def test_the_answer_is_the_engines(classifier: Classifier, photo: bytes) -> None:
    model = classifier.repository.get("resnet18")
    assert model.engine is not None
    decoded = decode(photo, model.card.preprocessing, max_pixels=10**9)
    expected = top_k(model.engine.infer(decoded.pixels[None])["logits"], 5)[0]
    (answer,) = asyncio.run(classifier.classify(model, [photo], 5))
    assert isinstance(answer, Answer)
    assert answer.top.class_ids.tolist() == expected.class_ids.tolist()
    np.testing.assert_allclose(answer.top.probabilities, expected.probabilities, rtol=1e-4)
    assert (answer.width, answer.height) == (decoded.width, decoded.height)


def test_one_bad_image_fails_alone(classifier: Classifier, photo: bytes) -> None:
    model = classifier.repository.get("resnet18")
    uploads = [photo, photo[: len(photo) // 2], photo, bytes(200_001)]
    answers = asyncio.run(classifier.classify(model, uploads, 1))
    assert [type(answer) for answer in answers] == [Answer, TruncatedImage, Answer, ImageTooLarge]


def test_an_accident_with_one_image_is_its_own(
    classifier: Classifier, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool) -> Decoded:
        if data == b"cursed":
            raise MemoryError
        return decode(data, preprocessing, max_pixels=max_pixels, scaled=scaled)

    monkeypatch.setattr("service.classifier.decode", fragile)
    model = classifier.repository.get("resnet18")
    answers = asyncio.run(classifier.classify(model, [photo, b"cursed", photo], 1))
    assert [type(answer) for answer in answers] == [Answer, InternalError, Answer]
    assert classifier.pipeline(model).executor.in_service == 0


def test_each_gets_as_many_classes_as_asked_for(classifier: Classifier, photo: bytes) -> None:
    model = classifier.repository.get("resnet18")

    async def several() -> list[int]:
        answers = await asyncio.gather(*(classifier.classify(model, [photo], k) for k in (1, 7, 1000)))
        return [len(answer[0].top.class_ids) for answer in answers if isinstance(answer[0], Answer)]

    assert asyncio.run(several()) == [1, 7, 1000]


def test_requests_that_arrive_together_are_computed_together(models_dir: Path, photo: bytes) -> None:
    classifier = make(models_dir, models=("resnet18",), engine_threads=1)  # one lane
    classifier.load()
    model = classifier.repository.get("resnet18")

    async def many() -> list[int]:
        answers = await asyncio.gather(*(classifier.classify(model, [photo], 1) for _ in range(12)))
        return [answer[0].timings.batch_size for answer in answers if isinstance(answer[0], Answer)]

    sizes = asyncio.run(many())
    classifier.close()
    assert len(sizes) == 12
    assert 1 < max(sizes) <= 8
    assert set(sizes) <= {1, 2, 4, 8}


def test_the_engine_is_asked_for_no_other_sizes_than_it_was_warmed_up_for(models_dir: Path, photo: bytes) -> None:
    classifier = make(models_dir, max_batch=3, engine_threads=2)
    classifier.load()
    model = classifier.repository.get("resnet8-cifar")
    assert model.engine is not None
    infer, sizes = model.engine.infer, []

    def watched(images: np.ndarray, *, alone: bool) -> dict[str, np.ndarray]:
        sizes.append(len(images))
        return infer(images, alone=alone)  # type: ignore[return-value]

    model.engine.infer = watched  # type: ignore[method-assign, assignment]
    answers = asyncio.run(classifier.classify(model, [photo] * 20, 1))
    classifier.close()
    assert [type(answer) for answer in answers] == [Answer] * 20
    assert sum(sizes) == 20
    assert set(sizes) <= {1, 2, 3}


def test_what_the_settings_say_of_loading_reaches_the_engine(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[dict[str, object]] = []

    def load(self: Model, provider: str, precision: str, **options: object) -> None:
        loads.append({"provider": provider, "precision": precision, **options})
        self.state = "failed"

    monkeypatch.setattr(Model, "load", load)
    given = make(models_dir, precision="bf16", engine_threads=3, max_batch=5, gpu=1, cache_dir=tmp_path / "here")
    given.load()
    for cache in (load_.pop("cache") for load_ in loads):
        assert isinstance(cache, Cache)
        assert cache._folder == tmp_path / "here"
    assert loads == [{"provider": "cpu", "precision": "bf16", "threads": 3, "max_batch": 5, "gpu": 1}] * 2
    loads.clear()
    unset = make(models_dir, max_batch=None)
    unset.load()
    assert [load_["max_batch"] for load_ in loads] == [None, None]
    for classifier in (given, unset):
        assert classifier.loaded
        assert not classifier.ready
        classifier.close()


@pytest.mark.parametrize("scaled", [True, False])
def test_photographs_are_scaled_while_they_are_decoded_if_the_settings_say_so(
    models_dir: Path, photo: bytes, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def watched(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool) -> Decoded:
        asked.append(scaled)
        return decode(data, preprocessing, max_pixels=max_pixels, scaled=scaled)

    monkeypatch.setattr("service.classifier.decode", watched)
    classifier = make(models_dir, max_batch=1, scaled_decoding=scaled)
    classifier.load()
    asyncio.run(classifier.classify(classifier.repository.get("resnet8-cifar"), [photo, photo], 1))
    classifier.close()
    assert asked == [scaled, scaled]


def test_timings_add_up(classifier: Classifier, photo: bytes) -> None:
    model = classifier.repository.get("resnet18")
    (answer,) = asyncio.run(classifier.classify(model, [photo], 1))
    assert isinstance(answer, Answer)
    t = answer.timings
    assert min(t.decode, t.queue, t.inference) > 0
    assert t.decode + t.queue + t.inference <= t.total


def test_beyond_the_queue_requests_are_refused_and_it_empties_again(models_dir: Path, photo: bytes) -> None:
    classifier = make(models_dir, max_queue=4, max_images=4)
    classifier.load()
    model = classifier.repository.get("resnet18")
    pipeline = classifier.pipeline(model)
    gate = threading.Event()
    assert model.engine is not None
    infer = model.engine.infer

    def held(images: np.ndarray, *, alone: bool) -> dict[str, np.ndarray]:
        assert gate.wait(30)
        return infer(images, alone=alone)  # type: ignore[return-value]

    model.engine.infer = held  # type: ignore[method-assign, assignment]

    async def scenario() -> None:
        waiting = [asyncio.create_task(classifier.classify(model, [photo, photo], 1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert pipeline.executor.in_service == 4
        with pytest.raises(Overloaded) as refused:
            await classifier.classify(model, [photo], 1)
        assert refused.value.members["queued"] == 4
        assert int(refused.value.headers["Retry-After"]) >= 1
        gate.set()
        await asyncio.gather(*waiting)
        assert pipeline.executor.in_service == 0
        await classifier.classify(model, [photo], 1)

    try:
        asyncio.run(scenario())
    finally:
        gate.set()
        classifier.close()


def test_a_request_that_is_abandoned_gives_its_place_back(models_dir: Path, photo: bytes) -> None:
    classifier = make(models_dir, engine_threads=1)  # one lane: the next answer comes after all before it
    classifier.load()
    model = classifier.repository.get("resnet8-cifar")
    pipeline = classifier.pipeline(model)

    async def scenario() -> None:
        task = asyncio.create_task(classifier.classify(model, [photo] * 8, 1))
        await asyncio.sleep(0)
        assert pipeline.executor.in_service == 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pipeline.executor.in_service == 0
        (answer,) = await classifier.classify(model, [photo], 1)
        assert isinstance(answer, Answer)

    asyncio.run(scenario())
    classifier.close()


def test_all_images_of_a_request_that_is_abandoned_are_withdrawn(
    models_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that the request waited for when it was cancelled, whose future was cancelled with it."""
    classifier = make(models_dir, models=("resnet8-cifar",))
    classifier.load()
    model = classifier.repository.get("resnet8-cifar")
    executor = classifier.pipeline(model).executor
    submitted, withdrawn = [], []
    monkeypatch.setattr(executor, "submit", lambda item, prediction: submitted.append(prediction))  # and never computed
    monkeypatch.setattr(executor, "withdraw", withdrawn.append)

    async def scenario(images: int) -> None:
        submitted.clear(), withdrawn.clear()
        task = asyncio.create_task(classifier.classify(model, [photo] * images, 1))
        async with asyncio.timeout(10):
            while len(submitted) < images:  # noqa: ASYNC110 (no event tells of it)
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(withdrawn) == set(submitted)

    for images in (1, 3):
        asyncio.run(scenario(images))
    classifier.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_a_number_is_an_error_for_its_image_alone(
    models_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # the two images of a request in one batch
    classifier = make(models_dir, models=("resnet8-cifar",), engine_threads=1, max_batch=2, max_wait_ms=1000)
    classifier.load()
    model = classifier.repository.get("resnet8-cifar")
    assert model.engine is not None
    infer = model.engine.infer

    def overflowing(images: Sequence[np.ndarray], *, alone: bool) -> dict[str, np.ndarray]:
        logits = infer(images, alone=alone)["logits"].copy()
        logits[np.std(images, axis=(1, 2, 3)) == 0, 3] = value
        return {"logits": logits}

    monkeypatch.setattr(model.engine, "infer", overflowing)
    grey = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(grey, "PNG")
    answers = asyncio.run(classifier.classify(model, [grey.getvalue(), photo], 10))
    classifier.close()
    assert isinstance(answers[0], InternalError)
    assert isinstance(answers[1], Answer)
    assert sorted(answers[1].top.class_ids) == list(range(10))


def test_a_model_that_failed_says_so_and_without_the_default_it_is_not_ready(models_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    (root / "resnet8-cifar" / "1" / "model.onnx").write_bytes(b"")
    classifier = make(root)
    classifier.load()
    assert not classifier.ready
    classifier.pipeline(classifier.repository.get("resnet18"))
    with pytest.raises(ModelFailed, match="resnet8-cifar is published, but"):
        classifier.pipeline(classifier.repository.get("resnet8-cifar"))
    classifier.close()


def test_loading_can_be_stopped(models_dir: Path) -> None:
    classifier = make(models_dir)
    classifier.stop_loading()
    classifier.load()
    assert {model.state for model in classifier.repository.models.values()} == {"loading"}
    assert not classifier.ready
    classifier.close()


def test_before_loading_the_model_is_not_ready(models_dir: Path, photo: bytes) -> None:
    classifier = make(models_dir)
    assert not classifier.ready
    with pytest.raises(ModelNotReady, match="resnet18 is still being loaded"):
        asyncio.run(classifier.classify(classifier.repository.get("resnet18"), [photo], 1))
    classifier.close()
