"""A stream of sources becomes rows, whatever classifies them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from service.bulk import stream
from service.bulk.rows import Answer, Problem, Row
from service.bulk.stream import Ended, Stream, Unreadable
from tests.support.waiting import async_until

GONE = Problem("gone", "It is gone", "Nothing is there.", "Look again.")


class Number:
    """A source that reads as its number."""

    def __init__(self, number: int) -> None:
        self.name = str(number)

    def read(self) -> bytes:
        return self.name.encode()


class Gone(Number):
    def read(self) -> bytes:
        raise Unreadable(GONE)


class Echo:
    """Answers with what it gets; the first images last.

    Attributes:
        most: images that were in flight together.
    """

    model, version = "echo", 7

    def __init__(self, at_once: int = 4, ends_at: bytes = b"") -> None:
        self.at_once = at_once
        self.ends_at = ends_at
        self.flying = self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def classify(self, image: bytes) -> Answer:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await self.go.wait()
        await asyncio.sleep(0.001 * (self.at_once - int(image) % self.at_once))
        self.flying -= 1
        if image == self.ends_at:
            raise Ended("the echo is gone")
        return Answer(self.model, self.version, {"predictions": [], "heard": image})


async def gathered(over: Stream) -> list[Row]:
    return [row async for row in over.rows()]


def test_rows_have_the_order_of_the_sources() -> None:
    async def run() -> None:
        echo = Echo(at_once=4)
        rows = await gathered(Stream(map(Number, range(50)), echo))
        assert [row.file for row in rows] == [str(number) for number in range(50)]
        assert [row.entry["heard"] for row in rows] == [row.file.encode() for row in rows]
        assert {(row.model, row.version) for row in rows} == {("echo", 7)}
        assert echo.most == 4

    asyncio.run(run())


def test_no_sources() -> None:
    assert asyncio.run(gathered(Stream([], Echo()))) == []


def test_what_cannot_be_read_has_its_row() -> None:
    rows = asyncio.run(gathered(Stream([Number(0), Gone(1), Number(2)], Echo())))
    assert [row.problem for row in rows] == [None, GONE, None]


def test_sources_are_taken_as_rows_leave() -> None:
    """An endless iterable is taken only as far as there are places."""
    taken = 0

    def endless() -> Iterator[Number]:
        nonlocal taken
        for taken in itertools.count():
            yield Number(taken)

    async def run() -> None:
        over = Stream(endless(), Echo(at_once=4))
        rows = over.rows()
        for _ in range(10):
            await anext(rows)
        assert taken <= 10 + 4
        await rows.aclose()

    asyncio.run(run())


def test_a_source_that_takes_long_does_not_hold_back_the_rows_before_it() -> None:
    ended = threading.Event()

    def slow() -> Iterator[Number]:
        yield Number(0)
        ended.wait(30)
        yield Number(1)

    async def run() -> None:
        rows = Stream(slow(), Echo()).rows()
        assert (await anext(rows)).file == "0"
        ended.set()
        assert [row.file async for row in rows] == ["1"]

    asyncio.run(run())


def test_a_stopped_stream_finishes_what_is_in_flight() -> None:
    async def run() -> None:
        echo = Echo(at_once=3)
        echo.go.clear()
        over = Stream(map(Number, itertools.count()), echo)
        gathering = asyncio.create_task(gathered(over))
        await async_until(lambda: echo.flying == 3)
        over.stop()
        echo.go.set()
        assert [row.file for row in await gathering] == ["0", "1", "2"]

    asyncio.run(run())


def test_a_stopped_stream_does_not_wait_for_its_sources() -> None:
    """Such as a pipe into which nothing is written any more."""
    never = threading.Event()

    def silent() -> Iterator[Number]:
        yield Number(0)
        never.wait(30)

    async def run() -> None:
        over = Stream(silent(), Echo())
        rows = over.rows()
        await anext(rows)
        over.stop()
        assert [row async for row in rows] == []
        assert not never.is_set()

    asyncio.run(run())
    never.set()


def test_the_end_of_the_classifier_comes_after_the_rows_before() -> None:
    async def run() -> None:
        rows = Stream(map(Number, itertools.count()), Echo(ends_at=b"10")).rows()
        assert [(await anext(rows)).file for _ in range(10)] == [str(number) for number in range(10)]
        with pytest.raises(Ended, match="the echo is gone"):
            await anext(rows)

    asyncio.run(run())


def test_an_error_of_the_sources_comes_after_the_rows_before() -> None:
    def broken() -> Iterator[Number]:
        yield Number(0)
        raise OSError("the disk is gone")

    async def run() -> None:
        rows = Stream(broken(), Echo()).rows()
        assert (await anext(rows)).file == "0"
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(rows)

    asyncio.run(run())


def test_files_are_read_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_BYTES", 3)
    monkeypatch.setattr(stream, "READERS", 1)

    async def run() -> None:
        echo = Echo(at_once=9)
        echo.go.clear()
        gathering = asyncio.create_task(gathered(Stream(map(Number, range(9)), echo)))
        await async_until(lambda: echo.flying == 3)
        await asyncio.sleep(0.05)
        assert echo.flying == 3
        echo.go.set()
        assert len(await gathering) == 9

    asyncio.run(run())
