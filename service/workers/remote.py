"""The worker's end of the socket to the engine's process: models that are computed elsewhere."""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

from service.batching import Timing
from service.inference import Item, Prediction, TopK
from service.repository import Model, Repository
from service.workers.memory import ABSENT, SharedMemory
from service.workers.messages import HELLO, SUBMIT, WITHDRAW, Done, News, Request, Stop, received, unpack


class EngineFailed(Exception):
    """The engine's process could not compute an image."""


class Remote:
    """The models of a repository, computed by the process at the other end of a socket. A `Backend`."""

    def __init__(
        self,
        sock: socket.socket,
        memory: SharedMemory,
        worker: int,
        repository: Repository,
        *,
        on_stop: Callable[[int], None],
        on_lost: Callable[[], None],
    ) -> None:
        """
        Args:
            on_stop: told, on the event loop, of a signal that the engine's process was sent.
            on_lost: told, on the event loop, when that process has gone. Nothing that waits for it is ever answered.
        """
        self.repository = repository
        self.memory = memory
        self.worker = worker
        self._sock = sock
        self._on_stop = on_stop
        self._on_lost = on_lost
        self._models = list(repository.models.values())
        self._news: queue.SimpleQueue[News | None] = queue.SimpleQueue()  # None: stop waiting for more
        # The last one that was freed is taken first: only as many slots take memory as are ever in use at once. Images
        # are admitted before they come here, so there is nearly always a free one; else a decode thread waits for it.
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        for slot in reversed(memory.slots_of(worker)):
            self._free.put(slot)
        self._waiting: dict[int, tuple[Prediction, int]] = {}  # slot -> whose it is, and its top_k
        self._slots: dict[Prediction, int] = {}
        self._caught_up = asyncio.Event()

    def attach(self) -> None:
        """Begins to listen to the engine's process. On the event loop that requests are served on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._read)
        # uvloop has made it non-blocking; but where the engine's process is behind with reading, decode threads wait.
        self._sock.setblocking(True)
        self._read()
        self._known = self._news.qsize()
        if not self._known:
            self._been_through(0)

    def hello(self) -> None:
        """Tells the engine's process that this worker listens."""
        self._send(Request(HELLO))

    @property
    def ready(self) -> bool:
        """Whether all workers that clients can reach have been through all models."""
        here = self.memory.been_through[self.memory.been_through != ABSENT]
        return bool((here == len(self._models)).all())

    async def catch_up(self) -> None:
        """Returns when `load` has been through all that had been said before `attach`."""
        await self._caught_up.wait()

    def load(self) -> Iterator[tuple[Model, RemoteExecutor | None]]:
        for done in range(1, len(self._models) + 1):
            news = self._news.get()
            if news is None:
                return
            model = self._models[news.model]
            model.info, model.reason = news.info, news.reason
            if news.info is None:
                model.state = "failed"
                yield model, None
            else:
                yield model, RemoteExecutor(self, news.model, model.card.preprocessing.crop)
            self._been_through(done)

    def _been_through(self, models: int) -> None:
        """Once it has caught up, this worker listens, and no other says that it is ready before this one is."""
        if models >= self._known:
            self.memory.been_through[self.worker] = models
        if models == self._known:
            self._loop.call_soon_threadsafe(self._caught_up.set)

    def stop_loading(self) -> None:
        self._news.put(None)

    def submit(self, model: int, side: int, item: Item, prediction: Prediction) -> None:
        slot = self._free.get()
        if prediction.cancelled():  # while it was decoded, or waited for the slot: nobody withdraws it any more
            self._free.put(slot)
            return
        self.memory.pixels(slot, side)[:] = item.pixels
        self._waiting[slot] = prediction, item.top_k
        self._slots[prediction] = slot
        self._send(Request(SUBMIT, slot, model, item.top_k))

    def withdraw(self, prediction: Prediction) -> None:
        """The slot stays taken until the engine's process has let go of it."""
        if (slot := self._slots.get(prediction)) is not None:
            with suppress(BlockingIOError):  # it will be computed for nobody
                self._send(Request(WITHDRAW, slot), socket.MSG_DONTWAIT)

    def _send(self, request: Request, flags: int = 0) -> None:
        with suppress(ConnectionError):  # the engine's process has gone: the event loop is about to hear of it
            self._sock.send(request.pack(), flags)

    def _read(self) -> None:
        for message in received(self._sock):
            if not message:
                self._loop.remove_reader(self._sock)
                self._on_lost()
                return
            content = unpack(message)
            if isinstance(content, News):
                self._news.put(content)
            elif isinstance(content, Stop):
                self._on_stop(content.signal)
            else:
                for done in content:
                    self._finish(done)

    def _finish(self, done: Done) -> None:
        prediction, k = self._waiting.pop(done.slot)
        del self._slots[prediction]
        if not prediction.done():  # its client is still there
            if done.ok:
                ids, probabilities = self.memory.top(done.slot, k)
                timing = Timing(done.queued, done.ran, done.batch_size)
                prediction.set_result((TopK(ids.copy(), probabilities.copy()), timing))
            else:
                prediction.set_exception(EngineFailed("the engine's process could not compute this: its log says why"))
        self._free.put(done.slot)


class RemoteExecutor:
    """One ready model of a `Remote`. An `Executor`."""

    def __init__(self, remote: Remote, index: int, side: int) -> None:
        self._remote = remote
        self._index = index
        self._side = side
        self._in_service = remote.memory.in_service[:, index]
        self._per_second = remote.memory.per_second[index : index + 1]

    @property
    def in_service(self) -> int:
        return int(self._in_service.sum())

    @property
    def per_second(self) -> float:
        return float(self._per_second[0])

    def count(self, images: int) -> None:
        self._in_service[self._remote.worker] += images

    def submit(self, item: Item, prediction: Prediction) -> None:
        self._remote.submit(self._index, self._side, item, prediction)

    def withdraw(self, prediction: Prediction) -> None:
        self._remote.withdraw(prediction)

    def close(self) -> None:
        """Nothing to do: the queue is that of the engine's process."""
