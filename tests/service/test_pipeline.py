"""The pipeline without HTTP."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.admission import Permit
from service.answers import Classified, Shown
from service.backend import BatchItem, Pending
from service.deadline import Deadline
from service.errors import ComputationFailed, DeadlineMissed, InternalError, MemoryExhausted, Overloaded
from service.model_repository import Model
from service.pipeline import JPEG_COPIES
from service.runtime.engine import Engine
from service.runtime.faults import Fault, TruncatedImage
from service.runtime.graph import OUTPUTS, Output
from service.runtime.images.decoding import Decoded, decode, load_pixels
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.images.headers import Header, read_header
from service.runtime.measured import Calibration
from service.runtime.model_folder import read_card
from service.runtime.scores import TopK, top_k
from service.settings import Settings
from service.settings_memory import ORDINARY_BYTES
from service.upload_faults import ImageTooLarge
from tests.service.served import Served
from tests.support.engines import decodes, hold, queued, record_sizes
from tests.support.folders import copied
from tests.support.waiting import async_until


@pytest.fixture
def served(tiny_dir: Path) -> Iterator[Served]:
    made = Served(tiny_dir, max_image_bytes=200_000).load()
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


def test_pixels_get_the_answer_of_their_file_and_outputs_of_the_graph(served: Served, photo: bytes) -> None:
    card = served.model("resnet18").card
    pixels = decode(photo, card.preprocessing, max_pixels=10**9).pixels
    answers = served.run(served.classify("resnet18", [photo, pixels], 5, outputs=OUTPUTS))
    expected = served.engines["resnet18"].infer(pixels[None], OUTPUTS)
    sizes = []
    for answer in answers:
        assert isinstance(answer, Classified)
        sizes.append((answer.width, answer.height))
        assert {name: array.shape for name, array in answer.outputs.items()} == card.output_shapes
        for name in OUTPUTS:
            np.testing.assert_allclose(answer.outputs[name], expected[name][0], rtol=1e-4, atol=1e-5)
    assert sizes == [Image.open(io.BytesIO(photo)).size, (224, 224)]


def test_memory_is_held_for_pixels_and_outputs(served: Served, photo: bytes) -> None:
    async def held(*outputs: Output) -> int:
        with Permit(served.memory) as permit:
            await served.pipeline("resnet18").classify(permit, [photo] * 3, 1, Deadline.after(60), outputs)
            return served.memory.held

    assert served.run(held()) == 3 * 3 * 224**2
    assert served.run(held("embedding", "feature_map")) == 3 * (3 * 224**2 + 4 * (512 + 512 * 7**2))


class Decoding(Served):
    """A `Served` whose engines decode JPEGs.

    Attributes:
        failures: how many JPEGs they cannot decode, once they have decoded `good` more.
        taken: every image that they got.
    """

    failures = good = 0
    taken: list[np.ndarray | EncodedJpeg]

    def _open_engine(self, model: Model, settings: Settings) -> Engine:
        engine = super()._open_engine(model, settings)
        self.taken = decodes(engine, model.card.preprocessing, self._fails)
        return engine

    def _fails(self) -> bool:
        if self.good:
            self.good -= 1
            return False
        self.failures -= 1
        return self.failures >= 0


@pytest.fixture
def decoding(tiny_dir: Path) -> Iterator[Decoding]:
    made = Decoding(tiny_dir, models=("resnet18",))
    made.load()
    yield made
    made.close()


def test_an_engine_that_decodes_gets_plain_jpegs_as_they_came(served: Served, decoding: Decoding, photo: bytes) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "PNG")
    answers = decoding.run(decoding.classify("resnet18", [photo, file.getvalue(), photo[:5000]], 3))
    expected = served.run(served.classify("resnet18", [photo], 3))
    assert [type(answer) for answer in answers] == [Classified, Classified, TruncatedImage]
    assert sorted(type(image).__name__ for image in decoding.taken) == ["EncodedJpeg", "ndarray"]
    for answer in answers[:2]:
        assert isinstance(answer, Classified)
        assert isinstance(expected[0], Classified)
        assert answer.top.class_ids.tolist() == expected[0].top.class_ids.tolist()
        assert (answer.width, answer.height) == (expected[0].width, expected[0].height)


def test_the_processor_decodes_what_the_engine_cannot(decoding: Decoding, photo: bytes) -> None:
    decoding.failures = 2
    answers = decoding.run(decoding.classify("resnet18", [photo] * 3, 3))
    tops = [answer.top.class_ids.tolist() for answer in answers if isinstance(answer, Classified)]
    assert len(tops) == 3
    assert tops[0] == tops[1] == tops[2]
    assert [isinstance(image, EncodedJpeg) for image in decoding.taken].count(False) == 2
    assert decoding.runners["resnet18"].unanswered == 0
    name = "resnet_jpegs_not_decoded_total"
    assert decoding.metrics.registry.get_sample_value(name, {"model": "resnet18"}) == 2


async def shown(served: Served, name: str, image: bytes) -> Shown:
    with Permit(served.memory) as permit:
        return await served.pipeline(name).show(permit, image, Deadline.after(60))


def test_a_preview_is_decoded_here_and_never_reaches_the_engine(decoding: Decoding, photo: bytes) -> None:
    picture = decoding.run(shown(decoding, "resnet18", photo))
    expected = decode(photo, decoding.model("resnet18").card.preprocessing, max_pixels=10**7).pixels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.png))).transpose(2, 0, 1), expected)
    assert decoding.taken == []
    assert decoding.memory.held == 0
    assert images_in_service(decoding, "resnet18") == 0


def test_a_preview_of_a_large_image_comes_from_the_threads_for_those(
    served: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def sized(*arguments: Any, **options: Any) -> Header:
        return read_header(*arguments, **options)._replace(decode_bytes=ORDINARY_BYTES + 1)

    def watched(*arguments: Any, **options: Any) -> Decoded:
        names.append(threading.current_thread().name)
        return decode(*arguments, **options)

    monkeypatch.setattr("service.pipeline.read_header", sized)
    monkeypatch.setattr("service.pipeline.decode", watched)
    assert served.run(shown(served, "resnet18", photo)).png
    assert [name.startswith("decode-large") for name in names] == [True]


def test_a_preview_says_what_is_wrong_with_its_image(served: Served, photo: bytes) -> None:
    with pytest.raises(TruncatedImage):
        served.run(shown(served, "resnet18", photo[:3000]))


def test_an_image_may_come_back_in_the_batch_of_the_one_that_is_awaited(tiny_dir: Path, photo: bytes) -> None:
    """Then its answer is awaited before the event loop has told that it came back."""
    decoding = Decoding(tiny_dir, models=("resnet18",), engine_threads=1, decode_threads=1)  # one lane, in order
    decoding.load()
    decoding.good, decoding.failures = 2, 1
    runner, gate = decoding.runners["resnet18"], hold(decoding.engines["resnet18"])

    async def scenario() -> list[Classified | Fault]:
        request = asyncio.create_task(decoding.classify("resnet18", [photo] * 3, 1))
        await async_until(lambda: runner.unanswered == 3)  # in one batch, or the last two, nearly always
        gate.set()
        return await request

    answers = decoding.run(scenario())
    assert [type(answer) for answer in answers] == [Classified] * 3
    assert [isinstance(image, EncodedJpeg) for image in decoding.taken] == [True, True, True, False]
    decoding.close()


def test_what_the_engine_cannot_decode_is_decoded_here_at_once(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of a request, one on each decode thread: neither waits for the answer to the other."""
    both = threading.Barrier(2)

    def together(*arguments: Any, **options: Any) -> Decoded:
        both.wait(30)
        return decode(*arguments, **options)

    monkeypatch.setattr("service.pipeline.decode", together)
    decoding = Decoding(tiny_dir, models=("resnet18",), decode_threads=2)
    decoding.load()
    decoding.failures = 2
    answers = decoding.run(decoding.classify("resnet18", [photo] * 2, 1))
    assert [type(answer) for answer in answers] == [Classified] * 2
    decoding.close()


def test_an_image_that_comes_back_too_late_is_not_decoded(decoding: Decoding, photo: bytes) -> None:
    decoding.failures = 2
    gate = hold(decoding.engines["resnet18"])

    async def scenario() -> list[Classified | Fault]:
        request = asyncio.create_task(decoding.classify("resnet18", [photo] * 2, 1, Deadline.after(0.5)))
        await asyncio.sleep(1)
        gate.set()
        return await request

    answers = decoding.run(scenario())
    assert [type(answer) for answer in answers] == [DeadlineMissed] * 2
    assert all(isinstance(image, EncodedJpeg) for image in decoding.taken)


def test_the_copies_of_a_jpeg_count_as_memory(decoding: Decoding, photo: bytes) -> None:
    async def held() -> int:
        with Permit(decoding.memory) as permit:
            await decoding.pipeline("resnet18").classify(permit, [photo], 1, Deadline.after(60))
            return decoding.memory.held

    assert decoding.run(held()) == 3 * 224**2 + JPEG_COPIES * len(photo)


def test_one_bad_image_fails_alone(served: Served, photo: bytes) -> None:
    images = [photo, photo[: len(photo) // 2], photo, bytes(200_001)]
    answers = served.run(served.classify("resnet18", images, 1))
    assert [type(answer) for answer in answers] == [Classified, TruncatedImage, Classified, ImageTooLarge]


@pytest.mark.parametrize(("accident", "fault"), [(MemoryError(), ComputationFailed), (KeyError("x"), InternalError)])
def test_an_accident_with_one_image_is_its_own(
    served: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch, accident: Exception, fault: type[Fault]
) -> None:
    cursed = photo + b"cursed"

    def fragile(data: bytes, *arguments: Any, **options: Any) -> Decoded:
        if data == cursed:
            raise accident
        return decode(data, *arguments, **options)

    monkeypatch.setattr("service.pipeline.decode", fragile)
    answers = served.run(served.classify("resnet18", [photo, cursed, photo], 1))
    assert [type(answer) for answer in answers] == [Classified, fault, Classified]
    assert served.runners["resnet18"].unanswered == 0


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
        await async_until(lambda: sum(started) + queued(runner) == 12)  # type: ignore[attr-defined]
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

    def watched(data: bytes, *arguments: Any, **options: Any) -> Decoded:
        asked.append(options["scaled"])
        return decode(data, *arguments, **options)

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


def images_in_service(served: Served, model: str) -> float | None:
    return served.metrics.registry.get_sample_value("resnet_images_in_service", {"model": model})


def counted(served: Served, outcome: str, model: str = "resnet8-cifar") -> float | None:
    labels = {"model": model, "outcome": outcome}
    return served.metrics.registry.get_sample_value("resnet_images_total", labels)


def test_beyond_the_target_wait_requests_are_refused_and_it_falls_again(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, target_wait_ms=0.001).load()
    gate = hold(served.engines["resnet18"])

    async def scenario() -> None:
        waiting = [asyncio.create_task(served.classify("resnet18", [photo, photo], 1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert images_in_service(served, "resnet18") == 2  # the second request was refused
        with pytest.raises(Overloaded) as refused:
            await served.classify("resnet18", [photo], 1)
        assert refused.value.members["retry_after"] == 1
        gate.set()
        await waiting[0]
        with pytest.raises(Overloaded):
            await waiting[1]
        assert images_in_service(served, "resnet18") == 0
        await served.classify("resnet18", [photo], 1)

    try:
        served.run(scenario())
    finally:
        gate.set()
        served.close()


def test_an_abandoned_request_gives_its_place_back(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, engine_threads=1).load()  # one lane: the next answer comes after all before it
    gate = hold(served.engines["resnet8-cifar"])

    async def scenario() -> None:
        task = asyncio.create_task(served.classify("resnet8-cifar", [photo] * 8, 1))
        await asyncio.sleep(0)
        assert images_in_service(served, "resnet8-cifar") == 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert images_in_service(served, "resnet8-cifar") == 0
        gate.set()
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)
        assert isinstance(answer, Classified)
        assert (counted(served, "withdrawn"), counted(served, "ok")) == (8, 1)

    served.run(scenario())
    served.close()


def test_an_answer_that_would_come_too_late_is_not_computed(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",), engine_threads=1, max_batch=1).load()
    gate, sizes = hold(served.engines["resnet8-cifar"]), record_sizes(served.engines["resnet8-cifar"])

    async def scenario() -> None:
        running = asyncio.create_task(served.classify("resnet8-cifar", [photo], 1))
        await async_until(lambda: len(sizes) == 1)
        (late,) = await served.classify("resnet8-cifar", [photo], 1, Deadline.after(0.3))
        assert isinstance(late, DeadlineMissed)
        assert str(late) == "The limit is 300 ms for the request: the answer takes longer."
        gate.set()
        await running
        await served.classify("resnet8-cifar", [photo], 1)

    served.run(scenario())
    served.close()
    assert sizes == [1, 1]  # not the one that was too late
    assert (counted(served, "deadline-missed"), counted(served, "ok")) == (1, 2)


def test_a_deadline_that_passes_while_images_wait_for_a_thread_spares_their_decoding(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    served = Served(tiny_dir, models=("resnet8-cifar",), decode_threads=1).load()
    gate = threading.Event()
    served.decoders.submit(lambda: assert_true(gate.wait(60)))

    def watched(data: bytes, *arguments: Any, **options: Any) -> Decoded:
        decoded.append(data)
        return decode(data, *arguments, **options)

    monkeypatch.setattr("service.pipeline.decode", watched)

    async def scenario() -> None:
        answers = await served.classify("resnet8-cifar", [photo, photo], 1, Deadline.after(0.3))
        assert [type(answer) for answer in answers] == [DeadlineMissed] * 2
        gate.set()
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)
        assert isinstance(answer, Classified)

    served.run(scenario())
    served.close()
    assert decoded == [photo]


def test_a_drawing_that_nobody_waits_for_ends_with_the_picture_at_hand(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    served = Served(tiny_dir, models=("resnet8-cifar",), decode_threads=1).load()
    gate = threading.Event()

    def watched(data: bytes, maps: np.ndarray, *arguments: Any, **options: Any) -> Iterator[bytes]:
        for number in range(len(maps)):
            drawn.append(number)
            assert gate.wait(60)
            yield b""

    monkeypatch.setattr("service.drawing.overlays", watched)

    async def scenario() -> None:
        maps = np.zeros((5, 2, 2), np.float32)
        with Permit(served.memory) as permit:
            drawing = served.pipeline("resnet8-cifar").draw(
                permit, photo, (60, 40), maps, (0, 0, 60, 40), Deadline.after(60)
            )
            task = asyncio.create_task(drawing)
            await async_until(lambda: drawn == [0])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.set()
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)  # on the only thread
        assert isinstance(answer, Classified)

    served.run(scenario())
    served.close()
    assert drawn == [0]


def test_pictures_are_drawn_request_by_request_and_nothing_ordinary_waits_for_them(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",), decode_threads=1).load()
    order: list[str] = []
    gate = threading.Event()

    def watched(data: bytes, maps: np.ndarray, *arguments: Any, **options: Any) -> Iterator[bytes]:
        for value in maps[:, 0, 0]:
            order.append("ab"[int(value)])
            assert gate.wait(60)
            yield b""

    monkeypatch.setattr("service.drawing.overlays", watched)

    async def draw(request: int) -> list[bytes]:
        maps = np.full((3, 2, 2), request, np.float32)
        with Permit(served.memory) as permit:
            return await served.pipeline("resnet8-cifar").draw(
                permit, photo, (60, 40), maps, (0, 0, 60, 40), Deadline.after(60)
            )

    async def scenario() -> None:
        first = asyncio.create_task(draw(0))
        await async_until(lambda: order == ["a"])
        second = asyncio.create_task(draw(1))
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)
        assert isinstance(answer, Classified)
        assert order == ["a"]
        gate.set()
        assert await asyncio.gather(first, second) == [[b""] * 3] * 2

    served.run(scenario())
    served.close()
    assert order == ["a"] * 3 + ["b"] * 3


def test_a_drawing_decodes_its_image_once(tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    loaded: list[object] = []

    def watched(*arguments: Any, **options: Any) -> Image.Image:
        loaded.append(arguments)
        return load_pixels(*arguments, **options)

    for module in ("decoding", "overlay"):
        monkeypatch.setattr(f"service.runtime.images.{module}.load_pixels", watched)

    async def scenario() -> list[bytes]:
        maps = np.zeros((2, 2, 2), np.float32)
        with Permit(served.memory) as permit:
            return await served.pipeline("resnet8-cifar").draw(
                permit, photo, (60, 40), maps, (0, 0, 60, 40), Deadline.after(60)
            )

    assert len(served.run(scenario())) == 2
    served.close()
    assert len(loaded) == 1


def assert_true(value: bool) -> None:
    assert value


def test_large_images_are_decoded_beside_ordinary_ones(
    tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread for each kind: an ordinary image is answered while a large one is decoded."""
    served = Served(tiny_dir, models=("resnet8-cifar",), decode_threads=1).load()
    large = photo + b" large"
    gate, decoding = threading.Event(), threading.Event()

    def sized(data: bytes, *arguments: Any, **options: Any) -> Header:
        header = read_header(data, *arguments, **options)
        return header._replace(decode_bytes=ORDINARY_BYTES + 1) if data == large else header

    def slow(data: bytes, *arguments: Any, **options: Any) -> Decoded:
        if data == large:
            decoding.set()
            assert gate.wait(60)
        return decode(data, *arguments, **options)

    monkeypatch.setattr("service.pipeline.read_header", sized)
    monkeypatch.setattr("service.pipeline.decode", slow)

    async def scenario() -> None:
        first = asyncio.create_task(served.classify("resnet8-cifar", [large], 1))
        assert await asyncio.to_thread(decoding.wait, 60)
        (answer,) = await served.classify("resnet8-cifar", [photo], 1)
        assert isinstance(answer, Classified)
        assert not first.done()
        gate.set()
        (answer,) = await first
        assert isinstance(answer, Classified)

    try:
        served.run(scenario())
    finally:
        gate.set()
        served.close()


def test_a_request_without_memory_is_refused_before_it_is_decoded(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    served.memory.add(served.settings.memory.requests)
    with pytest.raises(MemoryExhausted):
        served.run(served.classify("resnet8-cifar", [photo], 1))
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

    def overflowing(images: Sequence[np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        logits = infer(images, **options)["logits"].copy()
        logits[np.std(images, axis=(1, 2, 3)) == 0, 3] = value
        return {"logits": logits}

    monkeypatch.setattr(engine, "infer", overflowing)
    grey = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(grey, "PNG")
    answers = served.run(served.classify("resnet8-cifar", [grey.getvalue(), photo], 10))
    served.close()
    assert isinstance(answers[0], ComputationFailed)
    assert isinstance(answers[1], Classified)
    assert sorted(answers[1].top.class_ids) == list(range(10))
