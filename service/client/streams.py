"""Many images, a bounded number of them at once, of an iterable that may never end.

Both functions hold at most `HELD * concurrency` images: those that are being answered, those that wait for their turn,
and those whose results wait for their place in the order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from service.client.errors import Refused, ResnetError
from service.client.images import Image
from service.client.results import Outcome

T = TypeVar("T")

HELD = 2


class Stopped(Exception):
    """Nobody wants the result any more."""


def without(number: int, image: Image, error: ResnetError | OSError) -> Outcome[T]:
    """The outcome for an image with an error. Raises that if every other image would have it, too."""
    if isinstance(error, Refused) and error.whatever_the_image:
        raise error
    return Outcome(number, image, error=error)


def in_threads(
    work: Callable[[Image, Callable[[float], None]], T], images: Iterable[Image], concurrency: int, ordered: bool
) -> Generator[Outcome[T], None, None]:
    """
    Args:
        work: makes the answer for an image; takes a function that waits for some seconds and raises Stopped if the
            caller has left.

    Raises:
        Refused: of all images. Errors of the iterable come after the outcomes of the images before.
    """
    stopping = threading.Event()

    def pause(seconds: float) -> None:
        if stopping.wait(seconds):
            raise Stopped

    def outcome(number: int, image: Image) -> Outcome[T]:
        try:
            return Outcome(number, image, work(image, pause))
        except (ResnetError, OSError) as error:
            return without(number, image, error)

    held: deque[Future[Outcome[T]]] = deque()
    source = enumerate(images)
    failure: Exception | None = None
    pool = ThreadPoolExecutor(concurrency, "resnet-client")
    try:
        while True:
            try:
                number, image = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            held.append(pool.submit(outcome, number, image))
            while held and (len(held) == HELD * concurrency or _any_done(held, ordered)):
                yield _take(held, ordered).result()
        while held:
            yield _take(held, ordered).result()
        if failure is not None:
            raise failure
    finally:
        stopping.set()
        pool.shutdown(cancel_futures=True)


def _any_done(held: deque[Future[T]], ordered: bool) -> bool:
    return held[0].done() if ordered else any(future.done() for future in held)


def _take(held: deque[Future[T]], ordered: bool) -> Future[T]:
    """Removes the next future from those held: the first one, or the first that is done."""
    if ordered:
        return held.popleft()
    future = next(iter(wait(held, return_when=FIRST_COMPLETED).done))
    held.remove(future)
    return future


async def in_tasks(
    work: Callable[[Image], Awaitable[T]],
    images: Iterable[Image] | AsyncIterable[Image],
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[Outcome[T], None]:
    """As `in_threads`, on an asyncio loop."""
    places = asyncio.Semaphore(HELD * concurrency)
    turns = asyncio.Semaphore(concurrency)
    tasks: set[asyncio.Task[Outcome[T]]] = set()
    coming: asyncio.Queue[asyncio.Task[Outcome[T]] | None] = asyncio.Queue()

    async def outcome(number: int, image: Image) -> Outcome[T]:
        try:
            async with turns:
                return Outcome(number, image, await work(image))
        except (ResnetError, OSError) as error:
            return without(number, image, error)

    async def feed() -> None:
        number = 0
        source = images if isinstance(images, AsyncIterable) else _made_async(images)
        try:
            await places.acquire()
            async for image in source:
                task = asyncio.create_task(outcome(number, image))
                tasks.add(task)
                if ordered:
                    coming.put_nowait(task)
                else:
                    task.add_done_callback(coming.put_nowait)
                number += 1
                await places.acquire()
        finally:
            if tasks and not ordered:
                await asyncio.wait(tasks)  # its callbacks come after those above
            coming.put_nowait(None)

    feeder = asyncio.create_task(feed())
    try:
        while (task := await coming.get()) is not None:
            yield await task
            tasks.discard(task)
            places.release()
        await feeder
    finally:
        for started in (feeder, *tasks):
            started.cancel()
        await asyncio.gather(feeder, *tasks, return_exceptions=True)


async def _made_async(images: Iterable[Image]) -> AsyncIterator[Image]:
    for image in images:
        yield image
