"""The threads that decode images, for all models.

Ordinary images share `threads` threads, first come, first served. Large ones have threads of their own, so that nothing
waits behind them, and decode within a budget of memory. Requests take turns, so that one with many large images does
not shut out the others. Pictures are drawn on threads of their own, too, first come, first served.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum, auto
from typing import NamedTuple

from service.errors import Overloaded
from service.rates import DrainRate
from service.upload_faults import TooMuchMemory

# How fast one thread decodes large images, in bytes per second, until it has been measured: some 40 megapixels.
EXPECTED_RATE = 2e8

# How fast one thread draws pictures, in pixels per second, until it has been measured.
EXPECTED_DRAWING_RATE = 3e6

SHARE_WEIGHT = 0.02  # of one image, in the share of those that the engine gets


class Outcome(Enum):
    """What became of an image on a decode thread."""

    DECODED = auto()  # the engine has it
    REFUSED = auto()  # it is no image, or one that is not decoded
    SHOWN = auto()  # its pixels are the answer; the engine never sees them
    HANDED_ON = auto()  # the threads for large images have it
    NOTHING = auto()  # its client has left


class _Large(NamedTuple):
    """A large image that waits."""

    work: Callable[[], Outcome]
    size: int  # bytes that decoding will take


class Decoders:
    """Three pools of threads."""

    def __init__(self, threads: int, large_bytes: int, target: float) -> None:
        """
        Args:
            large_bytes: memory in which all large images are decoded together.
            target: seconds; a request's large images, or pictures, are refused if those of others take longer.
        """
        self._large_bytes = large_bytes
        self._target = target
        self._ordinary = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._few = max(1, threads // 2)
        self._large = ThreadPoolExecutor(self._few, thread_name_prefix="decode-large")
        self._drawing = ThreadPoolExecutor(self._few, thread_name_prefix="draw")
        self._changed = threading.Condition()
        self._submitted = 0  # ordinary images; only the event loop counts here
        self._counting = threading.Lock()
        self._started = 0
        self._finished = 0
        self._rate = DrainRate()  # of ordinary images
        self._share = 1.0  # of ordinary images, those that the engine gets
        self._turns: OrderedDict[object, deque[_Large]] = OrderedDict()  # the next request first
        self._large_held = 0  # bytes in which large images are being decoded
        self._large_rate = DrainRate(EXPECTED_RATE * self._few)  # of the bytes of large images
        self._drawings = 0  # requests whose pictures are drawn or wait for it
        self._undrawn = 0  # pixels of these pictures
        self._drawing_rate = DrainRate(EXPECTED_DRAWING_RATE * self._few)  # of the pixels of pictures

    @property
    def unfinished(self) -> int:
        """Ordinary images that are decoded or wait for it."""
        return self._submitted - self._finished

    @property
    def waiting(self) -> int:
        """Ordinary images without a thread yet."""
        return self._submitted - self._started

    @property
    def wait(self) -> float:
        """Seconds that an ordinary image which came now would wait for a thread."""
        return self._rate.seconds_for(self.waiting)

    @property
    def on_their_way(self) -> float:
        """How many ordinary images the engine will get, of those that are here: many may be refused."""
        return self.unfinished * self._share

    def submit(self, work: Callable[[], Outcome]) -> None:
        """Queues an ordinary image, or one of unknown size. On the event loop.

        Args:
            work: decodes it.
        """
        self._submitted += 1
        self._ordinary.submit(self._run, work)

    def submit_large(self, work: Callable[[], Outcome], size: int, request: object) -> None:
        """Queues a large image.

        Args:
            work: as for `submit`.
            size: bytes that decoding will take.
            request: what the image belongs to.

        Raises:
            TooMuchMemory: there would never be enough.
            Overloaded: in turns with the large images of other requests, it would wait longer than the target.
        """
        self._require(size)
        with self._changed:
            own = size + sum(image.size for image in self._turns.get(request, ()))
            # Of each other request, as much goes first as of this one.
            ahead = sum(
                min(own, sum(image.size for image in images))
                for other, images in self._turns.items()
                if other != request
            )
            wait = self._large_rate.seconds_for(self._large_held + ahead)
            if ahead and wait > self._target:
                raise Overloaded.by(wait, self._target)
            self._turns.setdefault(request, deque()).append(_Large(work, size))
        self._large.submit(self._run_large)

    def submit_drawing(self, pictures: Iterator[object], count: int, pixels: int) -> None:
        """Queues the pictures of one request.

        Args:
            pictures: draws one picture at each step, on a thread. Raises nothing; may end early.
            count: how many there are.
            pixels: of each.

        Raises:
            Overloaded: they would wait longer than the target for those of other requests.
        """
        with self._changed:
            wait = self._drawing_rate.seconds_for(self._undrawn)
            if self._drawings >= self._few and wait > self._target:
                raise Overloaded.by(wait, self._target)
            self._drawings += 1
            self._undrawn += count * pixels
        self._drawing.submit(self._draw, pictures, count, pixels)

    @contextmanager
    def memory_for(self, size: int) -> Iterator[None]:
        """Holds as many bytes of the memory for large images, once they are free; blocks.

        Raises:
            TooMuchMemory: there would never be enough.
        """
        self._require(size)
        with self._changed:
            self._changed.wait_for(lambda: self._large_held + size <= self._large_bytes)
            self._large_held += size
        try:
            yield
        finally:
            with self._changed:
                self._large_held -= size
                self._changed.notify_all()

    def _require(self, size: int) -> None:
        """Raises TooMuchMemory if there would never be so many bytes for large images."""
        if size > self._large_bytes:
            raise TooMuchMemory(bytes=size, max_bytes=self._large_bytes)

    def shutdown(self) -> None:
        """Waits for the threads to finish what is queued."""
        for pool in (self._ordinary, self._large, self._drawing):
            pool.shutdown()

    def _run(self, work: Callable[[], Outcome]) -> None:
        with self._counting:
            self._started += 1
        started = time.perf_counter()
        outcome = work()
        with self._counting:
            self._finished += 1
            if outcome is Outcome.NOTHING:
                return
            self._share += SHARE_WEIGHT * ((outcome is Outcome.DECODED) - self._share)
            if self.waiting:
                self._rate.record(1, started, time.perf_counter())
            elif outcome in (Outcome.DECODED, Outcome.SHOWN):  # others take next to no time
                self._rate.at_least(1, started, time.perf_counter())

    def _run_large(self) -> None:
        """Decodes one large image of the request whose turn it is."""
        with self._changed:
            request, images = next(iter(self._turns.items()))
            work, size = images.popleft()
            if images:
                self._turns.move_to_end(request)
            else:
                del self._turns[request]
        with self.memory_for(size):
            started = time.perf_counter()
            if work() is Outcome.DECODED:
                with self._changed:
                    self._large_rate.record(size, started, time.perf_counter())

    def _draw(self, pictures: Iterator[object], count: int, pixels: int) -> None:
        left = count * pixels
        started = time.perf_counter()
        for _ in pictures:
            ended = time.perf_counter()
            with self._changed:
                self._drawing_rate.record(pixels, started, ended)
                self._undrawn -= pixels
            left -= pixels
            started = ended
        with self._changed:
            self._drawings -= 1
            self._undrawn -= left
