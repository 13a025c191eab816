"""Both ends of the socket between a worker and the engine's process, on one event loop, with a real model."""

from __future__ import annotations

import asyncio
import copy
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from service.inference import Executor, InProcess, Prediction, TopK
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings
from service.workers.link import Link, SlotItem
from service.workers.memory import ABSENT, Layout, SharedMemory
from service.workers.messages import News, Stop
from service.workers.remote import EngineFailed, Remote

SIDE = 32
WORKER = 1


class Ends:
    """A link and the remote at its other end; `resnet8-cifar` is ready, the second model of the folder failed."""

    def __init__(self, models_dir: Path, *, slots: int = 8) -> None:
        settings = Settings(models_dir=models_dir, provider="cpu", max_batch=4, engine_threads=1)
        self.repository = Repository(models_dir, only=("resnet8-cifar", "resnet18"))
        unloaded = copy.deepcopy(self.repository)
        self.model = self.repository.get("resnet8-cifar")
        self.model.load("cpu", "fp32", threads=1, max_batch=4)
        backend = InProcess(self.repository, settings, Metrics())
        backend.repository.models = {"resnet8-cifar": self.model}
        ((_, executor),) = backend.load()
        assert executor is not None
        self.inference = executor
        self.memory = SharedMemory.create(Layout(workers=2, models=2, slots=slots, side=SIDE, classes=10))
        self.heard: list[str] = []
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        executors: list[Executor | None] = [executor, None]
        self.link = Link(
            ours, self.memory, WORKER, [self.model], executors, on_hello=lambda: self.heard.append("hello")
        )
        self.remote = Remote(
            self.theirs,
            self.memory,
            WORKER,
            unloaded,
            on_stop=lambda number: self.heard.append(f"stop {number}"),
            on_lost=lambda: self.heard.append("lost"),
        )

    def submit(self, pixels: np.ndarray, top_k: int = 3) -> Prediction:
        """As a decode thread does."""
        prediction: Prediction = asyncio.get_running_loop().create_future()
        self.remote.submit(0, SIDE, SlotItem(pixels, top_k), prediction)
        return prediction

    def submit_on_a_thread(self, pixels: np.ndarray, top_k: int) -> tuple[Prediction, asyncio.Task[None]]:
        """The prediction, and what ends when the image has been handed over."""
        prediction: Prediction = asyncio.get_running_loop().create_future()
        submitting = asyncio.to_thread(self.remote.submit, 0, SIDE, SlotItem(pixels, top_k), prediction)
        return prediction, asyncio.create_task(submitting)

    async def close(self) -> None:
        self.link.close()
        asyncio.get_running_loop().remove_reader(self.theirs)
        self.theirs.close()
        await asyncio.to_thread(self.inference.close)

    def free_slots(self) -> int:
        return self.remote._free.qsize()

    def hold(self) -> threading.Event:
        """The engine waits for the event before each batch."""
        assert self.model.engine is not None
        gate, infer = threading.Event(), self.model.engine.infer

        def held(images: np.ndarray, **options: Any) -> object:
            assert gate.wait(30)
            return infer(images, **options)

        self.model.engine.infer = held  # type: ignore[method-assign, assignment]
        return gate


@asynccontextmanager
async def both(models_dir: Path, *, slots: int = 8) -> AsyncIterator[Ends]:
    ends = Ends(models_dir, slots=slots)
    ends.remote.attach()
    try:
        yield ends
    finally:
        await ends.close()


def run(models_dir: Path, scenario: Callable[[Ends], Awaitable[None]], *, slots: int = 8) -> None:
    async def go() -> None:
        async with both(models_dir, slots=slots) as ends:
            await scenario(ends)

    asyncio.run(go())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0.005)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, SIDE, SIDE), np.uint8)


def test_predictions_are_those_of_the_engine(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        direct: list[Prediction] = [asyncio.get_running_loop().create_future() for _ in range(6)]
        for pixels, prediction in zip(pictures(6), direct, strict=True):
            ends.inference.submit(SlotItem(pixels, 3), prediction)
        expected = [top for top, _ in await asyncio.gather(*direct)]
        found = await asyncio.gather(*(ends.submit(pixels) for pixels in pictures(6)))
        for (top, timing), right in zip(found, expected, strict=True):
            assert isinstance(top, TopK)
            assert top.class_ids.tolist() == right.class_ids.tolist()
            np.testing.assert_allclose(top.probabilities, right.probabilities, rtol=1e-5)
            assert timing.ran > 0
            assert timing.queued >= 0
            assert 1 <= timing.batch_size <= 4
        assert ends.free_slots() == 8
        assert ends.memory.per_second[0] > 0

    run(models_dir, scenario)


def test_images_get_the_number_of_classes_that_they_ask_for(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        found = await asyncio.gather(*(ends.submit(pixels, k) for k, pixels in zip((1, 10), pictures(2), strict=True)))
        assert [len(top.class_ids) for top, _ in found] == [1, 10]
        assert found[1][0].probabilities.sum() == pytest.approx(1)

    run(models_dir, scenario)


def test_models_are_told_of_as_they_load(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        assert ends.model.info is not None
        ends.link.tell(News(0, None, ends.model.info))
        ends.link.tell(News(1, "its file is damaged", None))
        (ready, executor), (failed, none) = await asyncio.to_thread(list, ends.remote.load())
        assert (ready.name, ready.info) == ("resnet8-cifar", ends.model.info)
        assert executor is not None
        assert (failed.name, failed.state, failed.reason, none) == ("resnet18", "failed", "its file is damaged", None)

        executor.count(3)
        ends.memory.in_service[0, 0] = 2  # the other worker's
        assert executor.in_service == 5
        ends.memory.per_second[0] = 12.5
        assert executor.per_second == 12.5

    run(models_dir, scenario)


def test_loading_can_be_stopped(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        loading = asyncio.create_task(asyncio.to_thread(list, ends.remote.load()))
        await asyncio.sleep(0.01)
        ends.remote.stop_loading()
        assert await loading == []

    run(models_dir, scenario)


async def soon(awaited: Awaitable[None]) -> bool:
    """Whether it comes, without anything else happening."""
    try:
        await asyncio.wait_for(awaited, 0.2)
    except TimeoutError:
        return False
    return True


def test_no_worker_is_ready_before_all_that_listen_are(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        others = ends.memory.been_through[:1]
        assert ends.memory.been_through.tolist() == [ABSENT, 0]  # nothing has been said yet, so this one may listen
        assert await soon(ends.remote.catch_up())
        loading = ends.remote.load()
        ends.link.tell(News(0, None, ends.model.info))
        await asyncio.to_thread(next, loading)
        assert not ends.remote.ready
        ends.link.tell(News(1, "its file is damaged", None))
        await asyncio.to_thread(list, loading)
        assert ends.remote.ready
        others[0] = 1  # it listens, and does not know the second model yet
        assert not ends.remote.ready
        others[0] = 2
        assert ends.remote.ready
        ends.link.close()
        assert ends.memory.been_through.tolist() == [2, ABSENT]

    run(models_dir, scenario)


def test_a_worker_that_comes_later_catches_up_before_it_listens(models_dir: Path) -> None:
    async def scenario() -> None:
        ends = Ends(models_dir)
        ends.link.tell(News(0, None, ends.model.info))
        ends.remote.attach()
        assert ends.memory.been_through[WORKER] == ABSENT
        loading = ends.remote.load()
        await asyncio.to_thread(next, loading)
        assert not await soon(ends.remote.catch_up())  # it has been told, and does not serve yet
        ends.link.tell(News(1, "its file is damaged", None))
        await asyncio.to_thread(next, loading)
        assert await soon(ends.remote.catch_up())
        assert ends.memory.been_through[WORKER] == 1
        await asyncio.to_thread(list, loading)
        assert ends.memory.been_through[WORKER] == 2
        await ends.close()

    asyncio.run(scenario())


def test_what_fails_fails_alone_and_gives_its_slot_back(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        assert ends.model.engine is not None
        infer = ends.model.engine.infer

        def broken(images: np.ndarray, **options: Any) -> None:
            raise RuntimeError("out of memory")

        ends.model.engine.infer = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(EngineFailed, match="its log says why"):
            await ends.submit(pictures(1)[0])
        ends.model.engine.infer = infer  # type: ignore[method-assign]
        await ends.submit(pictures(1)[0])
        assert ends.free_slots() == 8

    run(models_dir, scenario)


def test_what_is_withdrawn_is_not_computed(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        gate = ends.hold()
        first = ends.submit(pictures(1)[0])
        await until(lambda: len(ends.link._predictions) == 1 and not len(ends.inference._batcher))  # it runs
        second = ends.submit(pictures(1)[0])
        await until(lambda: len(ends.inference._batcher) == 1)
        assert second.cancel()
        ends.remote.withdraw(second)
        await until(lambda: ends.free_slots() == 7)  # the engine's process has let go of it
        gate.set()
        _, timing = await first
        assert timing.batch_size == 1
        assert ends.inference.per_second > 0
        third = await ends.submit(pictures(1)[0])
        assert third[1].batch_size == 1  # and not two

    run(models_dir, scenario)


def test_an_answer_that_cannot_be_handed_over_gives_its_slot_back(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        shapeless = TopK(np.arange(7), np.zeros(7, np.float32))
        ends.inference._batcher._run = lambda items, alone: [shapeless for _ in items]
        with pytest.raises(EngineFailed, match="its log says why"):
            await ends.submit(pictures(1)[0], top_k=3)
        assert ends.free_slots() == 8

    run(models_dir, scenario)


def test_whoever_leaves_while_his_image_waits_for_a_slot_takes_none(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        gate = ends.hold()
        first = ends.submit(pictures(1)[0])
        second, waiting = ends.submit_on_a_thread(pictures(1)[0], top_k=1)
        await asyncio.sleep(0.05)
        second.cancel()
        ends.remote.withdraw(second)
        gate.set()
        await first
        await waiting
        assert ends.free_slots() == 1
        assert not ends.link._predictions

    run(models_dir, scenario, slots=1)


def test_without_a_free_slot_a_decode_thread_waits(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        gate = ends.hold()
        first = ends.submit(pictures(1)[0])
        second, waiting = ends.submit_on_a_thread(pictures(1)[0], top_k=1)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        gate.set()
        await first
        await waiting
        assert len((await second)[0].class_ids) == 1

    run(models_dir, scenario, slots=1)


def test_when_the_engines_process_has_gone_the_worker_is_told(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        gate = ends.hold()
        prediction = ends.submit(pictures(1)[0])
        await until(lambda: len(ends.link._predictions) == 1)
        ends.link.close()
        late = ends.submit(pictures(1)[0])
        ends.remote.withdraw(late)
        await until(lambda: bool(ends.heard))
        assert ends.heard == ["lost"]
        assert not prediction.done()  # no answer is made up: the process ends instead
        assert not late.done()
        gate.set()

    run(models_dir, scenario)


def test_when_a_worker_has_gone_its_images_are_forgotten(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        gate = ends.hold()
        for pixels in pictures(3):
            ends.submit(pixels)
        await until(lambda: len(ends.link._predictions) == 3)
        ends.memory.in_service[:] = [[4, 0], [3, 0]]
        slot = min(ends.link._predictions)
        asyncio.get_running_loop().remove_reader(ends.theirs)
        ends.theirs.shutdown(socket.SHUT_RDWR)
        await until(lambda: ends.memory.in_service.tolist() == [[4, 0], [0, 0]])
        ends.memory.top(slot, 3).class_ids[:] = -1  # by the worker that takes its place
        gate.set()
        await until(lambda: not ends.link._predictions)
        assert ends.memory.top(slot, 3).class_ids.tolist() == [-1, -1, -1]

    run(models_dir, scenario)


def test_a_worker_that_is_slow_to_read_gets_all_its_answers(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        asyncio.get_running_loop().remove_reader(ends.theirs)
        for number in range(2000):
            ends.link.tell(News(1, f"{number} {'x' * 1000}", None))
        assert ends.link._unsent  # more than the socket takes
        ends.remote.attach()
        _, timing = await ends.submit(pictures(1)[0])  # the link works both ways all the time
        assert timing.batch_size == 1
        found = [ends.remote._news.get_nowait() for _ in range(2000)]
        assert [int(news.reason.split()[0]) for news in found if news and news.reason] == list(range(2000))
        assert not ends.link._unsent

    run(models_dir, scenario)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_engines_process_that_is_slow_to_read_gets_all_images(
    models_dir: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        async with both(models_dir, slots=600) as ends:
            here = asyncio.get_running_loop()
            here.remove_reader(ends.link._sock)
            predictions: list[Prediction] = [here.create_future() for _ in range(600)]
            item = SlotItem(pictures(1)[0], 1)
            decoding = asyncio.create_task(
                asyncio.to_thread(lambda: [ends.remote.submit(0, SIDE, item, one) for one in predictions])
            )
            await until(lambda: ends.free_slots() < 400)
            await asyncio.sleep(0.1)
            assert not decoding.done()  # more than the socket takes
            here.add_reader(ends.link._sock, ends.link._read)
            await decoding
            assert len(await asyncio.gather(*predictions)) == 600
            assert ends.free_slots() == 600

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_a_worker_says_when_it_listens_and_hears_when_to_stop(models_dir: Path) -> None:
    async def scenario(ends: Ends) -> None:
        assert not ends.link.greeted
        ends.remote.hello()
        await until(lambda: ends.link.greeted)
        ends.link.tell(Stop(signal.SIGTERM))
        await until(lambda: len(ends.heard) == 2)
        assert ends.heard == ["hello", "stop 15"]

    run(models_dir, scenario)
