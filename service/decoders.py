"""The threads that decode images, for all models.

Ordinary images share `threads` threads, first come, first served. Large ones have threads of their own, so that nothing
waits behind them, and decode within a budget of memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from service.errors import Overloaded, TooMuchMemory
from service.rates import DrainRate


class Decoders:
    """Two pools of threads."""

    def __init__(self, threads: int, large_bytes: int, target: float) -> None:
        """
        Args:
            large_bytes: memory in which all large images are decoded together.
            target: seconds; a request's large images are refused if those of other requests take longer.
        """
        self._large_bytes = large_bytes
        self._target = target
        self._ordinary = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large = ThreadPoolExecutor(max(1, threads // 2), thread_name_prefix="decode-large")
        self._changed = threading.Condition()
        self.unfinished = 0  # ordinary images that are decoded or wait for it
        self.waiting = 0  # those of them without a thread yet
        self._rate = DrainRate()  # of ordinary images
        self._large_waiting: dict[object, int] = {}  # request -> bytes of its large images, until they are decoded
        self._large_held = 0  # bytes in which large images are being decoded
        self._large_rate = DrainRate()  # of the bytes of large images

    @property
    def wait(self) -> float:
        """Seconds that an ordinary image which came now would wait for a thread."""
        return self._rate.seconds_for(self.waiting)

    def submit(self, work: Callable[[], None]) -> None:
        """Queues an ordinary image, or one of unknown size."""
        with self._changed:
            self.unfinished += 1
            self.waiting += 1
        self._ordinary.submit(self._run, work)

    def submit_large(self, work: Callable[[], None], size: int, request: object) -> None:
        """Queues a large image.

        Args:
            size: bytes that decoding will take.
            request: what the image belongs to.

        Raises:
            TooMuchMemory: there would never be enough.
            Overloaded: the large images of other requests take longer than the target.
        """
        if size > self._large_bytes:
            raise TooMuchMemory(bytes=size, max_bytes=self._large_bytes)
        with self._changed:
            ahead = sum(waiting for other, waiting in self._large_waiting.items() if other is not request)
            wait = self._large_rate.seconds_for(ahead)
            if wait > self._target:
                raise Overloaded.by(wait, self._target)
            self._large_waiting[request] = self._large_waiting.get(request, 0) + size
        self._large.submit(self._run_large, work, size, request)

    def shutdown(self) -> None:
        """Waits for the threads to finish what is queued."""
        self._ordinary.shutdown()
        self._large.shutdown()

    def _run(self, work: Callable[[], None]) -> None:
        with self._changed:
            self.waiting -= 1
        started = time.perf_counter()
        work()
        with self._changed:
            self.unfinished -= 1
            if self.waiting:
                self._rate.record(1, started, time.perf_counter())

    def _run_large(self, work: Callable[[], None], size: int, request: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._large_held + size <= self._large_bytes)
            self._large_held += size
        started = time.perf_counter()
        try:
            work()
        finally:
            with self._changed:
                self._large_rate.record(size, started, time.perf_counter())
                self._large_held -= size
                self._large_waiting[request] -= size
                if not self._large_waiting[request]:
                    del self._large_waiting[request]
                self._changed.notify_all()
