"""Both sides of the socket between a worker and the engine process, on one event loop."""

from __future__ import annotations

import asyncio
import io
import math
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import uvloop

from service.backend import Answer, EngineFailed, Failed, NotDecoded, Pending, Ready
from service.batching import Expired
from service.local_backend import open_engine
from service.local_runner import LocalRunner
from service.metrics import Metrics
from service.model_repository import Model, Repository, open_repository
from service.published import Listing
from service.runtime.engine import Image
from service.runtime.graph import OUTPUTS, Output
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.scores import TopK
from service.settings import Settings
from service.workers.engine_side import EngineSide, SharedItem
from service.workers.memory import ABSENT, CAUGHT_UP, LOADED, Layout, SharedMemory
from service.workers.messages import Mark, News, Shown, Stop, Unpacker, received
from service.workers.model_table import Loaded, output_numbers
from service.workers.worker_side import ENGINE_PROCESS, RemoteBackend, RemoteRunner
from tests.support.engines import decodes, failing, hold, queued
from tests.support.waiting import async_until

SIDE = 32
WORKER = 1
SEND_BUFFER = 65_536  # bytes


class Sides:
    """Both sides of the socket. `resnet8-cifar` is ready in the engine process; `resnet18` failed there."""

    def __init__(self, models_dir: Path, *, slots: int = 8, jpeg_bytes: int = 0) -> None:
        settings = Settings(
            models_dir=models_dir,
            models=("resnet8-cifar", "resnet18"),
            provider="cpu",
            max_batch=4,
            engine_threads=1,
            precision="fp32",
        )
        self.repository: Repository = open_repository(settings)
        self.models = self.repository.versions
        self.engine = open_engine(self.models[0], settings)
        self.runner = LocalRunner(self.models[0], self.engine, Metrics())
        self.info = self.engine.info
        layout = Layout(
            workers=2,
            models=2,
            slots=slots,
            pixel_bytes=3 * SIDE**2,
            classes=10,
            jpeg_bytes=jpeg_bytes,
            output_numbers=output_numbers(self.models[0].card),
        )
        self.memory = SharedMemory.create(layout)
        self.heard: list[str] = []
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, self.theirs):  # on some machines the default has room for everything that is sent here
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.engine_side = EngineSide(
            ours,
            self.memory,
            WORKER,
            {0: Loaded(self.models[0], self.runner)},
            on_hello=lambda: self.heard.append("hello"),
            on_release=lambda: self.heard.append("release"),
            on_reload=lambda: self.heard.append("reload"),
        )
        self.worker_side = RemoteBackend(
            self.theirs,
            self.memory,
            WORKER,
            on_stop=lambda number: self.heard.append(f"stop {number}"),
            on_lost=lambda: self.heard.append("lost"),
        )
        self.remote = RemoteRunner(self.worker_side, 0, self.models[0].card)
        self.loaded: list[tuple[Model, Ready | Failed]] = []

    async def attach(self) -> None:
        """Lets the worker listen to the engine process, and collect what that reports."""

        async def load() -> None:
            async for outcome in self.worker_side.load(self.repository):
                self.loaded.append(outcome)

        self.loading = asyncio.create_task(load())
        await asyncio.sleep(0)

    def submit(self, pixels: Image, top_k: int = 3, deadline: float = math.inf) -> Pending:
        """As a decode thread does."""
        pending = self.remote.pending()
        self.remote.submit(SharedItem(pixels, top_k, deadline, "some-request"), pending)
        return pending

    def submit_on_a_thread(self, pixels: np.ndarray, top_k: int) -> tuple[Pending, asyncio.Task[None]]:
        """The future, and what sides when the image has been handed over."""
        pending = self.remote.pending()
        submitting = asyncio.to_thread(self.remote.submit, SharedItem(pixels, top_k, math.inf), pending)
        return pending, asyncio.create_task(submitting)

    async def close(self) -> None:
        self.loading.cancel()
        self.engine_side.close()
        await self.worker_side.close()
        await asyncio.to_thread(self.runner.close)

    def free_slots(self) -> int:
        return self.worker_side.free_slots

    def hold(self) -> threading.Event:
        """The engine waits for the event before each batch."""
        return hold(self.engine)


@asynccontextmanager
async def both(models_dir: Path, *, slots: int = 8, jpeg_bytes: int = 0) -> AsyncIterator[Sides]:
    sides = Sides(models_dir, slots=slots, jpeg_bytes=jpeg_bytes)
    await sides.attach()
    try:
        yield sides
    finally:
        await sides.close()


def run(models_dir: Path, scenario: Callable[[Sides], Awaitable[None]], *, slots: int = 8, jpeg_bytes: int = 0) -> None:
    async def go() -> None:
        async with both(models_dir, slots=slots, jpeg_bytes=jpeg_bytes) as sides:
            await scenario(sides)

    asyncio.run(go())


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, SIDE, SIDE), np.uint8)


def test_pendings_are_those_of_the_engine(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        direct = [sides.runner.pending() for _ in range(6)]
        for pixels, pending in zip(pictures(6), direct, strict=True):
            sides.runner.submit(SharedItem(pixels, 3, math.inf), pending)
        expected = [answer.top for answer, _ in await asyncio.gather(*direct)]
        found = await asyncio.gather(*(sides.submit(pixels) for pixels in pictures(6)))
        for ((top, outputs), timing), right in zip(found, expected, strict=True):
            assert outputs == {}
            assert top.class_ids.tolist() == right.class_ids.tolist()
            np.testing.assert_allclose(top.probabilities, right.probabilities, rtol=1e-5)
            assert timing.ran > 0
            assert timing.queued >= 0
            assert 1 <= timing.batch_size <= 4
        assert sides.free_slots() == 8
        assert sides.memory.per_second[0] > 0

    run(tiny_dir, scenario)


def test_outputs_of_the_graph_are_those_of_the_engine(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        asked: list[tuple[Output, ...]] = [("feature_map",), (), ("embedding", "logits"), OUTPUTS]
        items = [
            SharedItem(pixels, 3, math.inf, outputs=names) for pixels, names in zip(pictures(4), asked, strict=True)
        ]
        pendings = [sides.remote.pending() for _ in items]
        for item, pending in zip(items, pendings, strict=True):
            sides.remote.submit(item, pending)
        expected = sides.engine.infer(pictures(4), OUTPUTS)
        for row, ((answer, _), names) in enumerate(zip(await asyncio.gather(*pendings), asked, strict=True)):
            assert set(answer.outputs) == set(names)
            for name in names:
                assert answer.outputs[name].shape == sides.models[0].card.output_shapes[name]
                np.testing.assert_allclose(answer.outputs[name], expected[name][row], rtol=1e-4, atol=1e-5)

    run(tiny_dir, scenario)


def test_jpegs_reach_an_engine_that_decodes_and_come_back_if_it_cannot(tiny_dir: Path, photo: bytes) -> None:
    jpeg = EncodedJpeg(photo, *PIL.Image.open(io.BytesIO(photo)).size)

    async def scenario(sides: Sides) -> None:
        broken = [False, True, False]
        taken = decodes(sides.engine, sides.models[0].card.preprocessing, lambda: broken.pop(0))
        for outcome in (Answer, NotDecoded, Answer):
            (found,) = await asyncio.gather(sides.submit(jpeg), return_exceptions=True)
            assert isinstance(found[0] if isinstance(found, tuple) else found, outcome)
        (decoded, _) = await sides.submit(decode(photo, sides.models[0].card.preprocessing, max_pixels=10**9).pixels)
        assert isinstance(decoded, Answer)
        assert taken[:3] == [jpeg] * 3
        assert sides.free_slots() == 8

    run(tiny_dir, scenario, jpeg_bytes=len(photo))


def test_images_are_counted_until_the_engine_process_is_done_with_them(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        pendings = [sides.submit(pixels) for pixels in pictures(3)]
        assert sides.memory.unanswered.tolist() == [[0, 0], [3, 0]]
        pendings[0].cancel()  # the engine process has it all the same
        assert sides.remote.unanswered == 3
        gate.set()
        await async_until(lambda: sides.remote.unanswered == 0)

    run(tiny_dir, scenario)


def test_an_image_expires_in_the_engine_process(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        first, second, third = pictures(3)
        running = sides.submit(first)
        await async_until(lambda: sides.runner.unanswered == 1 and queued(sides.runner) == 0)
        late, early = sides.submit(second, deadline=time.monotonic()), sides.submit(third)
        await async_until(lambda: queued(sides.runner) == 2)
        gate.set()
        with pytest.raises(Expired):
            await late
        assert len((await early)[0].top.class_ids) == len((await running)[0].top.class_ids) == 3
        assert sides.free_slots() == 8

    run(tiny_dir, scenario)


def test_a_worker_gives_signs_of_life_and_sees_those_of_the_engine_process(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        await async_until(lambda: sides.memory.beats[WORKER] > 1)
        (before,) = sides.worker_side.work()
        assert sides.worker_side.work() == [before]
        sides.memory.beats[-1] += 1
        (after,) = sides.worker_side.work()
        assert after.part == before.part == ENGINE_PROCESS
        assert after.piece != before.piece

    run(tiny_dir, scenario)


def test_an_image_for_a_model_that_has_gone_gives_its_slot_back(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gone = RemoteRunner(sides.worker_side, 1, sides.models[0].card)
        pending = gone.pending()
        gone.submit(SharedItem(pictures(1)[0], 3, math.inf), pending)
        with pytest.raises(EngineFailed):
            await pending
        assert (sides.free_slots(), gone.unanswered) == (8, 0)

    run(tiny_dir, scenario)


def test_a_model_is_released_after_its_last_image(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        sides.engine_side.tell(News(sides.models[0], 0, info=sides.info))
        await async_until(lambda: len(sides.loaded) == 1)
        gate = sides.hold()
        pending = sides.submit(pictures(1)[0])
        await async_until(lambda: sides.runner.unanswered == 1 and queued(sides.runner) == 0)
        pending.cancel()  # it runs all the same
        unloading = asyncio.create_task(sides.worker_side.unload(sides.loaded[0][0]))
        await async_until(lambda: sides.runner.unanswered == 1)
        assert "release" not in sides.heard
        gate.set()
        await unloading
        await async_until(lambda: "release" in sides.heard)

    run(tiny_dir, scenario)


def test_images_get_the_number_of_classes_that_they_ask_for(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        found = await asyncio.gather(*(sides.submit(pixels, k) for k, pixels in zip((1, 10), pictures(2), strict=True)))
        assert [len(answer.top.class_ids) for answer, _ in found] == [1, 10]
        assert found[1][0].top.probabilities.sum() == pytest.approx(1)

    run(tiny_dir, scenario)


def test_models_are_reported_as_they_load(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        sides.engine_side.tell(News(sides.models[0], 0, info=sides.info))
        sides.engine_side.tell(News(sides.models[1], reason="its file is damaged"))
        await async_until(lambda: len(sides.loaded) == 2)
        (ready, outcome), (failed, reason) = sides.loaded
        assert (ready.name, failed.name) == ("resnet8-cifar", "resnet18")
        assert isinstance(outcome, Ready)
        assert outcome.info == sides.info
        assert reason == Failed("its file is damaged")

        sides.memory.unanswered[:, 0] = [2, 3]  # the other worker's, and this one's
        assert outcome.runner.unanswered == 5
        sides.memory.unanswered[:] = 0
        sides.memory.per_second[0] = 12.5
        assert outcome.runner.per_second == 12.5

    run(tiny_dir, scenario)


async def soon(awaited: Awaitable[None]) -> bool:
    """Whether it comes, without anything else happening."""
    try:
        await asyncio.wait_for(awaited, 0.2)
    except TimeoutError:
        return False
    return True


def test_no_worker_is_ready_before_all_that_listen_are(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        others = sides.memory.progress[:1]
        assert sides.memory.progress.tolist() == [ABSENT, ABSENT]
        sides.engine_side.tell(Mark.CAUGHT_UP)  # no news before it began: this worker may listen
        assert await soon(sides.worker_side.catch_up())
        sides.engine_side.tell(News(sides.models[0], 0, info=sides.info))
        await async_until(lambda: len(sides.loaded) == 1)
        assert not sides.worker_side.siblings_ready
        sides.engine_side.tell(News(sides.models[1], reason="its file is damaged"))
        sides.engine_side.tell(Mark.LOADED)
        await async_until(lambda: sides.memory.progress[WORKER] == LOADED)
        assert sides.worker_side.siblings_ready
        others[0] = CAUGHT_UP  # it listens, and does not know all models yet
        assert not sides.worker_side.siblings_ready
        others[0] = LOADED
        assert sides.worker_side.siblings_ready
        sides.engine_side.close()
        assert sides.memory.progress.tolist() == [LOADED, ABSENT]

    run(tiny_dir, scenario)


def test_a_worker_that_comes_later_catches_up_before_it_listens(tiny_dir: Path) -> None:
    async def scenario() -> None:
        sides = Sides(tiny_dir)
        sides.engine_side.tell(News(sides.models[0], 0, info=sides.info))
        sides.engine_side.tell(Mark.CAUGHT_UP)
        loading = sides.worker_side.load(sides.repository)
        await anext(loading)
        assert sides.memory.progress[WORKER] == ABSENT
        assert not await soon(sides.worker_side.catch_up())  # it has been told, and has not put the model to work yet
        sides.engine_side.tell(News(sides.models[1], reason="its file is damaged"))
        await anext(loading)
        assert await soon(sides.worker_side.catch_up())
        assert sides.memory.progress[WORKER] == CAUGHT_UP
        sides.engine_side.tell(Mark.LOADED)
        assert await anext(loading, None) is None
        assert sides.memory.progress[WORKER] == LOADED
        sides.engine_side.close()
        await sides.worker_side.close()
        sides.runner.close()

    asyncio.run(scenario())


def test_versions_come_and_go(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        first, failed = sides.models
        listing = sides.repository.listing
        sides.engine_side.tell(News(first, 0, info=sides.info))
        sides.engine_side.tell(Mark.CAUGHT_UP)
        sides.engine_side.tell(Mark.LOADED)
        await sides.loading
        changes = sides.worker_side.changes(sides.repository)
        sides.engine_side.tell(News(first, 1, info=sides.info))
        second, outcome = await told(changes)
        assert isinstance(outcome, Ready)
        assert second is not first
        assert sides.engine_side.uses == {0, 1}
        sides.heard.clear()
        await sides.worker_side.unload(sides.loaded[0][0])
        await async_until(lambda: sides.heard == ["release"])
        assert sides.engine_side.uses == {1}
        sides.engine_side.tell(News(failed, reason="its file is damaged"))
        _, outcome = await told(changes)
        assert outcome == Failed("its file is damaged")
        fewer = listing._replace(wanted={"resnet8-cifar": listing.wanted["resnet8-cifar"]})
        sides.engine_side.tell(Shown(fewer, {failed.stamp: "its card is damaged"}, {}))
        assert await anext(changes) == fewer
        assert sides.repository.listing == fewer
        assert sides.repository.unreadable == {failed.stamp: "its card is damaged"}
        sides.worker_side.reload()
        await async_until(lambda: sides.heard == ["release", "reload"])
        sides.engine_side.close()
        sides.engine_side.tell(News(first, 2, info=sides.info))  # a closed side would never release it
        assert sides.engine_side.uses == set()

    async def told(changes: AsyncIterator[tuple[Model, Ready | Failed] | Listing]) -> tuple[Model, Ready | Failed]:
        news = await anext(changes)
        assert not isinstance(news, Listing)
        return news

    run(tiny_dir, scenario)


def test_what_fails_fails_alone_and_gives_its_slot_back(tiny_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sides: Sides) -> None:
        with failing(sides.engine, "out of memory"), pytest.raises(EngineFailed, match="see its log"):
            await sides.submit(pictures(1)[0])
        await sides.submit(pictures(1)[0])
        assert sides.free_slots() == 8
        (record,) = (record for record in caplog.records if record.name == "service.local_runner")
        assert record.__dict__["request_id"] == "some-request"  # in the log of the engine process

    run(tiny_dir, scenario)


def test_what_is_withdrawn_is_not_computed(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        first = sides.submit(pictures(1)[0])
        await async_until(lambda: len(sides.engine_side.pending) == 1 and not queued(sides.runner))  # it runs
        second = sides.submit(pictures(1)[0])
        await async_until(lambda: queued(sides.runner) == 1)
        assert second.cancel()
        await async_until(lambda: sides.free_slots() == 7)  # the engine process has let go of it
        gate.set()
        _, timing = await first
        assert timing.batch_size == 1
        assert sides.runner.per_second > 0
        third = await sides.submit(pictures(1)[0])
        assert third[1].batch_size == 1  # and not two

    run(tiny_dir, scenario)


def test_an_answer_that_cannot_be_handed_over_gives_its_slot_back(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(sides: Sides) -> None:
        shapeless = TopK(np.arange(2), np.zeros(2, np.float32))  # three were asked for
        monkeypatch.setattr(
            "service.local_runner.top_k", lambda logits, k, temperature, kind: [shapeless] * len(logits)
        )
        with pytest.raises(EngineFailed, match="see its log"):
            await sides.submit(pictures(1)[0], top_k=3)
        assert sides.free_slots() == 8

    run(tiny_dir, scenario)


def test_a_slot_that_cannot_be_filled_is_given_back(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        wrong = np.zeros((3, 1, SIDE + 1), np.uint8)
        pending = sides.remote.pending()
        with pytest.raises(ValueError, match="broadcast"):
            sides.remote.submit(SharedItem(wrong, 3, math.inf, "some-request"), pending)
        assert (sides.free_slots(), sides.remote.unanswered) == (8, 0)
        pending.cancel()  # and nothing is withdrawn
        await sides.submit(pictures(1)[0])

    run(tiny_dir, scenario)


def test_whoever_leaves_while_his_image_waits_for_a_slot_takes_none(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        first = sides.submit(pictures(1)[0])
        second, waiting = sides.submit_on_a_thread(pictures(1)[0], top_k=1)
        await asyncio.sleep(0.05)
        second.cancel()
        gate.set()
        await first
        await waiting
        assert sides.free_slots() == 1
        assert not sides.engine_side.pending

    run(tiny_dir, scenario, slots=1)


def test_without_a_free_slot_a_decode_thread_waits(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        first = sides.submit(pictures(1)[0])
        second, waiting = sides.submit_on_a_thread(pictures(1)[0], top_k=1)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        gate.set()
        await first
        await waiting
        assert len((await second)[0].top.class_ids) == 1

    run(tiny_dir, scenario, slots=1)


def test_the_worker_is_told_when_the_engine_process_has_gone(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        pending = sides.submit(pictures(1)[0])
        await async_until(lambda: len(sides.engine_side.pending) == 1)
        sides.engine_side.close()
        late = sides.submit(pictures(1)[0])
        late.cancel()
        await async_until(lambda: "lost" in sides.heard)

        assert not pending.done()  # no answer is made up: the process exits instead
        gate.set()

    run(tiny_dir, scenario)


def test_when_a_worker_has_gone_its_images_are_forgotten(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        gate = sides.hold()
        for pixels in pictures(3):
            sides.submit(pixels)
        await async_until(lambda: len(sides.engine_side.pending) == 3)
        sides.memory.unanswered[:] = [[4, 0], [3, 0]]
        slot = min(sides.engine_side.pending)
        asyncio.get_running_loop().remove_reader(sides.theirs)
        sides.theirs.shutdown(socket.SHUT_RDWR)
        await async_until(lambda: sides.memory.unanswered.tolist() == [[4, 0], [0, 0]])
        sides.memory.top(slot, 3).class_ids[:] = -1  # by the worker that takes its place
        gate.set()
        await async_until(lambda: not sides.engine_side.pending)
        assert sides.memory.top(slot, 3).class_ids.tolist() == [-1, -1, -1]

    run(tiny_dir, scenario)


def test_a_worker_that_reads_slowly_gets_all_its_news(tiny_dir: Path) -> None:
    async def scenario() -> None:
        sides = Sides(tiny_dir)
        for number in range(2000):
            sides.engine_side.tell(News(sides.models[0], reason=f"{number} {'x' * 1000}"))
        assert sides.engine_side.unsent > 0  # more than the socket takes
        numbers: list[int] = []
        unpacker = Unpacker()
        async with asyncio.timeout(60):
            while len(numbers) < 2000:
                for message in received(sides.theirs):
                    news = unpacker.unpack(message)
                    assert isinstance(news, News)
                    assert news.reason
                    numbers.append(int(news.reason.split()[0]))
                await asyncio.sleep(0)
        assert numbers == list(range(2000))
        assert sides.engine_side.unsent == 0
        sides.engine_side.close()
        sides.theirs.close()
        sides.runner.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_engine_process_that_reads_slowly_gets_all_images(
    tiny_dir: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        async with both(tiny_dir, slots=600) as sides:
            item = SharedItem(pictures(1)[0], 1, math.inf)
            everything = [sides.remote.pending() for _ in range(600)]
            decoding = threading.Thread(target=lambda: [sides.remote.submit(item, one) for one in everything])
            decoding.start()
            time.sleep(0.5)  # noqa: ASYNC251 (the engine process reads nothing meanwhile)
            assert decoding.is_alive()  # more than the socket takes
            await asyncio.to_thread(decoding.join)
            assert len(await asyncio.gather(*everything)) == 600
            assert sides.free_slots() == 600

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_a_worker_says_when_it_listens_and_hears_when_to_stop(tiny_dir: Path) -> None:
    async def scenario(sides: Sides) -> None:
        sides.worker_side.hello()
        await async_until(lambda: sides.heard == ["hello"])
        sides.engine_side.tell(Stop(signal.SIGTERM))
        await async_until(lambda: len(sides.heard) == 2)
        assert sides.heard == ["hello", "stop 15"]

    run(tiny_dir, scenario)
