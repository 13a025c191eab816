"""The pipeline without HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.backend import BatchItem, Pending
from service.errors import ImageTooLarge, InternalError, Overloaded
from service.pipeline import Classified
from service.runtime.faults import TruncatedImage
from service.runtime.images.decoding import Decoded, decode
from service.runtime.model_card import Calibration, Preprocessing
from service.runtime.model_folder import read_card
from service.runtime.scores import TopK, top_k
from tests.service.served import Served
from tests.support.engines import hold, record_sizes
from tests.support.folders import copied
from tests.support.waiting import async_until


@pytest.fixture
def served(tiny_dir: Path) -> Iterator[Served]:
    made = Served(tiny_dir, max_image_bytes=200_000, max_queue=32).load()
    yield made
    made.close()


def test_the_cards_temperature_is_applied(tiny_dir: Path, tmp_path: Path, photo: bytes) -> None:
    folder = tmp_path / "resnet8-cifar" / "1"
    copied(tiny_dir / "resnet8-cifar" / "1", folder)
    plain = every_class(tmp_path, photo)
    calibration = Calibration(temperature=4.0, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    card = read_card(folder).model_copy(update={"calibration": calibration})
    (folder / "card.json").write_text(card.to_json())
    calibrated = every_class(tmp_path, photo)
    assert calibrated.class_ids.tolist() == plain.class_ids.tolist()
    expected = plain.probabilities**0.25  # softmax(z / 4) is softmax(z) to the power of 1/4, normalised
    np.testing.assert_allclose(calibrated.probabilities, expected / expected.sum(), rtol=1e-4)


def every_class(models_dir: Path, photo: bytes) -> TopK:
    """All probabilities of `resnet8-cifar`."""
    served = Served(models_dir).load()
    (answer,) = served.run(served.classify("resnet8-cifar", [photo], 10))
    served.close()
    assert isinstance(answer, Classified)
    return answer.top


def test_the_answer_is_the_engines(served: Served, photo: bytes) -> None:
    decoded = decode(photo, served.model("resnet18").card.preprocessing, max_pixels=10**9)
    expected = top_k(served.engines["resnet18"].infer(decoded.pixels[None])["logits"], 5)[0]
    (answer,) = served.run(served.classify("resnet18", [photo], 5))
    assert isinstance(answer, Classified)
    assert answer.top.class_ids.tolist() == expected.class_ids.tolist()
    np.testing.assert_allclose(answer.top.probabilities, expected.probabilities, rtol=1e-4)
    assert (answer.width, answer.height) == (decoded.width, decoded.height)


def test_one_bad_image_fails_alone(served: Served, photo: bytes) -> None:
    images = [photo, photo[: len(photo) // 2], photo, bytes(200_001)]
    answers = served.run(served.classify("resnet18", images, 1))
    assert [type(answer) for answer in answers] == [Classified, TruncatedImage, Classified, ImageTooLarge]


def test_an_accident_with_one_image_is_its_own(served: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool) -> Decoded:
        if data == b"cursed":
            raise MemoryError
        return decode(data, preprocessing, max_pixels=max_pixels, scaled=scaled)

    monkeypatch.setattr("service.pipeline.decode", fragile)
    answers = served.run(served.classify("resnet18", [photo, b"cursed", photo], 1))
    assert [type(answer) for answer in answers] == [Classified, InternalError, Classified]
    assert served.runners["resnet18"].in_service == 0


def test_each_gets_as_many_classes_as_asked_for(served: Served, photo: bytes) -> None:
    async def several() -> list[int]:
        answers = await asyncio.gather(*(served.classify("resnet18", [photo], k) for k in (1, 7, 1000)))
        return [len(answer[0].top.class_ids) for answer in answers if isinstance(answer[0], Classified)]

    assert served.run(several()) == [1, 7, 1000]


def test_requests_that_arrive_together_are_computed_together(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, models=("resnet18",), engine_threads=1).load()  # one lane
    runner, gate = served.runners["resnet18"], hold(served.engines["resnet18"])
    started = record_sizes(served.engines["resnet18"])

    async def many() -> list[int]:
        requests = [asyncio.create_task(served.classify("resnet18", [photo], 1)) for _ in range(12)]
        await async_until(lambda: sum(started) + runner.queued == 12)  # type: ignore[attr-defined]
        gate.set()
        answers = await asyncio.gather(*requests)
        return [answer[0].batch_size for answer in answers if isinstance(answer[0], Classified)]

    sizes = served.run(many())
    served.close()
    assert len(sizes) == 12
    assert 1 < max(sizes) <= 8
    assert set(sizes) <= {1, 2, 4, 8}


def test_the_engine_runs_only_the_sizes_that_it_was_warmed_up_for(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, max_batch=3, engine_threads=2).load()
    sizes = record_sizes(served.engines["resnet8-cifar"])
    answers = served.run(served.classify("resnet8-cifar", [photo] * 20, 1))
    served.close()
    assert [type(answer) for answer in answers] == [Classified] * 20
    assert sum(sizes) == 20
    assert set(sizes) <= {1, 2, 3}


@pytest.mark.parametrize("scaled", [True, False])
def test_photographs_are_scaled_while_they_are_decoded_if_the_settings_say_so(
    tiny_dir: Path, photo: bytes, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def watched(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool) -> Decoded:
        asked.append(scaled)
        return decode(data, preprocessing, max_pixels=max_pixels, scaled=scaled)

    monkeypatch.setattr("service.pipeline.decode", watched)
    served = Served(tiny_dir, max_batch=1, scaled_decoding=scaled).load()
    served.run(served.classify("resnet8-cifar", [photo, photo], 1))
    served.close()
    assert asked == [scaled, scaled]


def test_stages_add_up(served: Served, photo: bytes) -> None:
    (answer,) = served.run(served.classify("resnet18", [photo], 1))
    assert isinstance(answer, Classified)
    *stages, total = (answer.seconds[stage] for stage in ("decode", "queue", "inference", "total"))
    assert min(stages) > 0
    assert sum(stages) <= total


def test_beyond_the_queue_requests_are_refused_and_it_empties_again(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, max_queue=4, max_images=4).load()
    runner, gate = served.runners["resnet18"], hold(served.engines["resnet18"])

    async def scenario() -> None:
        waiting = [asyncio.create_task(served.classify("resnet18", [photo, photo], 1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert runner.in_service == 4
        with pytest.raises(Overloaded) as refused:
            await served.classify("resnet18", [photo], 1)
        assert refused.value.members["queued"] == 4
        assert refused.value.members["retry_after"] >= 1  # type: ignore[operator]
        gate.set()
        await asyncio.gather(*waiting)
        assert runner.in_service == 0
        await served.classify("resnet18", [photo], 1)

    try:
        served.run(scenario())
    finally:
        gate.set()
        served.close()


def test_an_abandoned_request_gives_its_place_back(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, engine_threads=1).load()  # one lane: the next answer comes after all before it
    runner = served.runners["resnet8-cifar"]

    async def scenario() -> None:
        task = asyncio.create_task(served.classify("resnet8-cifar", [photo] * 8, 1))
        await asyncio.sleep(0)
        assert runner.in_service == 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runner.in_service == 0
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)
        assert isinstance(answer, Classified)

    served.run(scenario())
    served.close()


@pytest.mark.parametrize("images", [1, 3])
def test_every_image_of_an_abandoned_request_is_withdrawn(
    tiny_dir: Path, photo: bytes, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that the request waited for, whose future was cancelled with it."""
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    submitted: list[Pending] = []

    def submit(item: BatchItem, pending: Pending) -> None:
        submitted.append(pending)  # and never computed

    monkeypatch.setattr(served.runners["resnet8-cifar"], "submit", submit)

    async def scenario() -> None:
        task = asyncio.create_task(served.classify("resnet8-cifar", [photo] * images, 1))
        await async_until(lambda: len(submitted) == images)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(pending.cancelled() for pending in submitted)

    served.run(scenario())
    served.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error_for_their_image_alone(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # the two images of a request in one batch
    served = Served(tiny_dir, models=("resnet8-cifar",), engine_threads=1, max_batch=2, max_wait_ms=1000).load()
    engine = served.engines["resnet8-cifar"]
    infer = engine.infer

    def overflowing(images: Sequence[np.ndarray], *, alone: bool) -> dict[str, np.ndarray]:
        logits = infer(images, alone=alone)["logits"].copy()
        logits[np.std(images, axis=(1, 2, 3)) == 0, 3] = value
        return {"logits": logits}

    monkeypatch.setattr(engine, "infer", overflowing)
    grey = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(grey, "PNG")
    answers = served.run(served.classify("resnet8-cifar", [grey.getvalue(), photo], 10))
    served.close()
    assert isinstance(answers[0], InternalError)
    assert isinstance(answers[1], Classified)
    assert sorted(answers[1].top.class_ids) == list(range(10))
