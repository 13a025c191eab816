"""What may be in the service at once: every request holds a permit until its answer.

Two things are limited: the queue, by the time that it means, and memory, by the bytes of all requests together.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

from service.backend import Runner
from service.deadline import Deadline
from service.decoders import Decoders
from service.errors import MemoryExhausted, Overloaded, RequestNeedsTooMuchMemory
from service.metrics import Metrics

# Seconds after which a request that found no memory should be sent again: by then others have been answered.
RETRY_AFTER_MEMORY = 1


class Room:
    """The queue of one model: images that wait to be decoded, that wait for the engine, or that run."""

    def __init__(self, model: str, runner: Runner, decoders: Decoders, metrics: Metrics, target: float) -> None:
        """
        Args:
            model: its name.
            target: the longest wait with which images are admitted, in seconds.
        """
        self.model = model
        self._runner = runner
        self._decoders = decoders
        self._target = target
        self._requests = 0
        self._vacated: asyncio.Event | None = None
        self._gauge = metrics.in_service.labels(model=model)  # looked up once: a label costs as much as counting

    @property
    def wait(self) -> float:
        """Seconds that an image which came now would wait, at the measured rates; 0 while nothing is measured.

        Decoding and computing go on at the same time, so the slower of the two decides.
        """
        ahead = self._decoders.on_their_way + self._runner.unanswered
        if not ahead:
            return 0.0
        per_second = self._runner.per_second
        return max(self._decoders.wait, ahead / per_second if per_second else 0.0)

    def check(self, deadline: Deadline) -> None:
        """Raises Overloaded if the wait is above the target, DeadlineMissed if it is longer than the request has."""
        wait = self.wait
        if wait > self._target:
            raise Overloaded.by(wait, self._target)
        if wait > deadline.left:
            raise deadline.missed(f"the queue alone takes {math.ceil(1000 * wait)} ms")

    def add(self, images: int) -> None:
        """Counts images in, or out if negative."""
        self._gauge.inc(images)

    def enter(self) -> None:
        """A request begins with this model."""
        self._requests += 1

    def leave(self) -> None:
        self._requests -= 1
        if not self._requests and self._vacated:
            self._vacated.set()

    @property
    def closed(self) -> bool:
        """Whether another version has come: no further requests may begin."""
        return self._vacated is not None

    async def vacated(self) -> None:
        """Closes the room; returns when every request that began with this model has ended."""
        self._vacated = asyncio.Event()
        if self._requests:
            await self._vacated.wait()


class Memory:
    """The bytes that requests hold for bodies and pixels. Used on the event loop only.

    A request may never hold more than what stays free ("Dynamic Queue Length Thresholds", Choudhury and Hahne 1998):
    when memory runs short, the largest requests are refused first, and small ones still find room.
    """

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.held = 0
        self._limit = limit
        self._gauge = metrics.request_bytes

    @property
    def most(self) -> int:
        """Bytes that one request may hold while there is no other."""
        return self._limit // 2

    def check(self, own: int, more: int) -> None:
        """Whether a request that holds `own` bytes may hold `more`.

        Raises:
            MemoryExhausted: not now.
            RequestNeedsTooMuchMemory: not without other requests either, so there is no use in sending it again.
        """
        if own + more > self.most:
            raise RequestNeedsTooMuchMemory(bytes=own + more, max_bytes=self.most)
        if own + more > self._limit - self.held - more:
            raise MemoryExhausted(
                bytes=own + more, held=self.held - own, memory_bytes=self._limit, retry_after=RETRY_AFTER_MEMORY
            )

    def add(self, count: int) -> None:
        """Counts bytes in, or out if negative."""
        self.held += count
        self._gauge.inc(count)


class Permit:
    """What one request holds of the service. A context manager: leaving it gives everything back."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bytes = 0
        self._rooms: list[Room] = []
        self._images: list[tuple[Room, int]] = []

    @property
    def most_bytes(self) -> int:
        """Bytes that the request may hold while there is no other."""
        return self._memory.most

    def expect_bytes(self, count: int) -> None:
        """Looks whether there is room for an announced body. Holds nothing yet: it may never come.

        Raises:
            MemoryExhausted, RequestNeedsTooMuchMemory
        """
        self._memory.check(self._bytes, count)

    def reserve_bytes(self, count: int) -> None:
        """Holds `count` bytes more. Raises MemoryExhausted or RequestNeedsTooMuchMemory."""
        self._memory.check(self._bytes, count)
        self._memory.add(count)
        self._bytes += count

    def enter(self, room: Room) -> None:
        """The request begins with this model, which stays loaded until its end."""
        room.enter()
        self._rooms.append(room)

    def reserve_images(self, room: Room, count: int) -> None:
        """Counts images in, once the model is known."""
        room.add(count)
        self._images.append((room, count))

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._memory.add(-self._bytes)
        for room, count in self._images:
            room.add(-count)
        for room in self._rooms:
            room.leave()
