"""Work on threads that a request waits for, or gives up."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from service import request_ids
from service.threads import on_thread
from tests.support.waiting import async_until


def test_what_a_thread_returns_or_raises_is_answered() -> None:
    async def scenario() -> None:
        assert await on_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await on_thread(divmod, 7, 0)

    asyncio.run(scenario())


def test_who_gives_up_waits_until_the_thread_has_let_go() -> None:
    began, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert gate.wait(60)
        ended.set()

    async def scenario() -> None:
        task = asyncio.create_task(on_thread(work))
        await async_until(began.is_set)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(scenario())


def test_who_gives_up_twice_waits_all_the_same_and_an_error_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    began, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert gate.wait(60)
        ended.set()
        raise ValueError

    async def scenario() -> None:
        task = asyncio.create_task(on_thread(work))
        await async_until(began.is_set)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.05)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        del task
        gc.collect()

    asyncio.run(scenario())
    assert not caplog.records


def test_what_is_given_up_before_a_thread_has_it_never_begins() -> None:
    gate = threading.Event()
    ran: list[str] = []

    async def scenario() -> None:
        busy = [asyncio.create_task(on_thread(gate.wait, 60)) for _ in range(4)]
        await asyncio.sleep(0)
        late = asyncio.create_task(on_thread(ran.append, "late"))
        await asyncio.sleep(0.05)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        gate.set()
        await asyncio.gather(*busy)
        await on_thread(ran.append, "next")

    asyncio.run(scenario())
    assert ran == ["next"]


def test_the_thread_knows_the_request() -> None:
    async def scenario() -> str:
        request_ids.begin("some-request")
        return await on_thread(request_ids.current)

    assert asyncio.run(scenario()) == "some-request"
