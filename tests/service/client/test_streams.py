from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from service.client.errors import Problem, Refused, ResnetError
from service.client.images import Image
from service.client.results import Outcome
from service.client.streams import HELD, in_tasks, in_threads, without

BROKEN = Refused("", Problem("/problems/not-an-image", "", 422, ""))
CLOSED = Refused("", Problem("/problems/unauthorized", "", 401, ""))


def numbered(last: int) -> Iterator[bytes]:
    for number in range(last):
        yield b"%d" % number
    raise RuntimeError("the disk is gone")


def threads(work: Callable[[Image], str], images: Iterator[bytes], ordered: bool) -> Iterator[Outcome[str]]:
    return in_threads(lambda image, pause: work(image), images, 3, ordered)


def tasks(work: Callable[[Image], str], images: Iterator[bytes], ordered: bool) -> Iterator[Outcome[str]]:
    async def async_work(image: Image) -> str:
        await asyncio.sleep(0)
        return work(image)

    with asyncio.Runner() as runner:
        outcomes = in_tasks(async_work, images, 3, ordered)
        while True:
            try:
                yield runner.run(anext(outcomes))
            except StopAsyncIteration:
                return


Streamed = Callable[[Callable[[Image], str], Iterator[bytes], bool], Iterator[Outcome[str]]]
both = pytest.mark.parametrize("streamed", [threads, tasks])
either_order = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])


@both
@either_order
def test_every_image_has_an_outcome(streamed: Streamed, ordered: bool) -> None:
    outcomes = list(streamed(lambda image: f"<{image!r}>", (b"%d" % number for number in range(50)), ordered))
    numbers = [outcome.number for outcome in outcomes]
    assert (numbers if ordered else sorted(numbers)) == list(range(50))
    for outcome in outcomes:
        assert outcome.image == b"%d" % outcome.number
        assert outcome.answer == f"<{outcome.image!r}>"


@both
@either_order
def test_no_images(streamed: Streamed, ordered: bool) -> None:
    assert list(streamed(lambda image: "", iter(()), ordered)) == []


@both
@either_order
def test_an_iterable_that_fails_is_heard_last(streamed: Streamed, ordered: bool) -> None:
    outcomes = streamed(lambda image: "", numbered(20), ordered)
    assert len([next(outcomes) for _ in range(20)]) == 20
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(outcomes)


@both
@either_order
def test_an_error_of_ours_is_not_an_outcome(streamed: Streamed, ordered: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        list(streamed(lambda image: str(1 / 0), numbered(20), ordered))


def test_outcomes_of_threads_as_they_come() -> None:
    """The first image ends last."""
    second = threading.Event()

    def work(image: Image) -> str:
        if image == b"0":
            assert second.wait(30)
        return ""

    outcomes = threads(work, iter([b"0", b"1"]), False)
    assert next(outcomes).number == 1
    second.set()
    assert next(outcomes).number == 0


def test_tasks_as_they_come_and_without_waiting_for_the_next_image() -> None:
    async def run() -> None:
        second, more = asyncio.Event(), asyncio.Event()

        async def images() -> AsyncIterator[bytes]:
            yield b"0"
            yield b"1"
            await more.wait()

        async def work(image: Image) -> str:
            if image == b"0":
                await second.wait()
            return ""

        async with asyncio.timeout(30):
            outcomes = in_tasks(work, images(), 2, ordered=False)
            assert (await anext(outcomes)).number == 1
            second.set()
            assert (await anext(outcomes)).number == 0
            more.set()
            assert [outcome async for outcome in outcomes] == []

    asyncio.run(run())


@either_order
def test_how_many_are_taken_for_a_caller_who_is_slow(ordered: bool) -> None:
    async def run() -> int:
        taken = 0

        def images() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield b""

        async def work(image: Image) -> str:
            return ""

        outcomes = in_tasks(work, images(), 4, ordered)
        await anext(outcomes)
        for _ in range(200):
            await asyncio.sleep(0)
        return taken

    assert asyncio.run(run()) == HELD * 4


def test_what_concerns_every_image() -> None:
    assert without(3, b"image", BROKEN) == Outcome(3, b"image", error=BROKEN)
    assert without(3, b"image", error := ResnetError("gone")).error is error
    with pytest.raises(Refused):
        without(3, b"image", CLOSED)
