"""The worker's side of the socket to the engine process: a backend whose models are computed there."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from service.backend import Answer, BatchItem, EngineFailed, Failed, NotDecoded, Pending, Ready, Work
from service.batching import BatchTiming, Expired
from service.model_repository import Model, Repository
from service.published import Listing
from service.runtime.graph import Output
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.model_card import ModelCard
from service.runtime.scores import TopK
from service.workers.memory import CAUGHT_UP, LOADED, SharedMemory
from service.workers.messages import (
    HELLO,
    RELEASE,
    RELOAD,
    SUBMIT,
    WITHDRAW,
    Done,
    Mark,
    News,
    Outcome,
    Request,
    Shown,
    Stop,
    Unpacker,
    received,
    to_bits,
)

BEAT_S = 0.5  # between the signs of life of a process
ENGINE_PROCESS = "the engine process"


class _Waiting(NamedTuple):
    """An image that the engine process has."""

    pending: Pending
    model: int
    top_k: int
    outputs: Sequence[Output]
    card: ModelCard


class RemoteBackend:
    """Models that the process at the other end of a socket computes. A `Backend`."""

    def __init__(
        self,
        sock: socket.socket,
        memory: SharedMemory,
        worker: int,
        *,
        on_stop: Callable[[int], None],
        on_lost: Callable[[], None],
    ) -> None:
        """
        Args:
            on_stop: called on the event loop with the signal that the engine process received.
            on_lost: called on the event loop when the engine process has gone: nothing pending is ever answered.
        """
        self.memory = memory
        self.worker = worker
        self._sock = sock
        self._on_stop = on_stop
        self._on_lost = on_lost
        # The slot that was freed last is used next, so only as many slots take memory as are ever used at once. Images
        # are admitted before they come here, so a slot is nearly always free; otherwise a decode thread waits for one.
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        for slot in reversed(memory.slots_of(worker)):
            self._free.put(slot)
        self._waiting: dict[int, _Waiting] = {}  # by slot
        self._counting = threading.Lock()
        self._slots: dict[Pending, int] = {}
        self._indices: dict[Model, int] = {}
        self._unpacker = Unpacker()
        self._news: asyncio.Queue[News | Shown | Mark] = asyncio.Queue()
        self._caught_up = asyncio.Event()

    async def load(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        """Yields what the engine process reports. Also begins to listen to it."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._read)
        self._beat()
        # uvloop made it non-blocking. If the engine process reads slowly, decode threads wait.
        self._sock.setblocking(True)
        self._read()
        while (news := await self._news.get()) is not Mark.LOADED:
            if news is Mark.CAUGHT_UP:
                # A worker listens once it has caught up; its siblings wait for it before they report ready.
                self.memory.progress[self.worker] = CAUGHT_UP
                self._caught_up.set()
            elif isinstance(news, Shown):
                repository.follow(news.listing, news.unreadable, news.answering)
            else:
                assert isinstance(news, News)
                yield news.model, self._outcome(news)
        self.memory.progress[self.worker] = LOADED

    async def changes(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed] | Listing]:
        """Yields what the engine process reports after `load`."""
        while True:
            news = await self._news.get()
            assert not isinstance(news, Mark)  # they end `load`
            if isinstance(news, Shown):
                repository.follow(news.listing, news.unreadable, news.answering)
                yield repository.listing
            else:
                yield news.model, self._outcome(news)

    def _outcome(self, news: News) -> Ready | Failed:
        if news.info:
            self._indices[news.model] = news.index
            return Ready(news.info, RemoteRunner(self, news.index, news.model.card, news.info.decodes))
        assert news.reason is not None
        return Failed(news.reason)

    def reload(self) -> None:
        self._send(Request(RELOAD).pack())

    async def unload(self, model: Model) -> None:
        """Releases the model once the engine process has let go of its images, withdrawn ones too."""
        index = self._indices.pop(model)
        while self.memory.unanswered[self.worker, index]:  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(BEAT_S)
        self._send(Request(RELEASE, model=index).pack())

    @property
    def free_slots(self) -> int:
        """For tests."""
        return self._free.qsize()

    async def catch_up(self) -> None:
        """Returns when `load` has yielded every model that was loaded before this worker began."""
        await self._caught_up.wait()

    def hello(self) -> None:
        """Tells the engine process that this worker listens."""
        self._send(Request(HELLO).pack())

    @property
    def siblings_ready(self) -> bool:
        """Whether all workers that clients can reach have been through all models."""
        return CAUGHT_UP not in self.memory.progress

    def work(self) -> list[Work]:
        """The engine process turns as long as it beats."""
        return [Work(ENGINE_PROCESS, int(self.memory.beats[-1]))]

    def _beat(self) -> None:
        self.memory.beats[self.worker] += 1
        self._beating = self._loop.call_later(BEAT_S, self._beat)

    async def close(self) -> None:
        """The queue is the engine process's: it finishes it."""
        self._beating.cancel()
        self.memory.beats[self.worker] = 0
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def submit(self, model: int, card: ModelCard, item: BatchItem, pending: Pending) -> None:
        slot = self._free.get()
        if pending.done():  # cancelled or too late, while it was decoded or waited for the slot
            self._free.put(slot)
            return
        try:
            packed = self._packed(slot, model, card, item)
        except BaseException:
            self._free.put(slot)
            raise
        self._waiting[slot] = _Waiting(pending, model, item.top_k, item.outputs, card)
        self._slots[pending] = slot
        self._count(model, 1)
        self._send(packed)

    def _packed(self, slot: int, model: int, card: ModelCard, item: BatchItem) -> bytes:
        """Puts an image into a slot; the request for it."""
        image = item.image
        request = Request(SUBMIT, slot, model, item.top_k, item.deadline, mark=item.mark, request_id=item.request_id)
        if item.outputs:
            request = request._replace(outputs=to_bits(item.outputs))
        if isinstance(image, EncodedJpeg):
            self.memory.jpeg(slot, len(image.data))[:] = np.frombuffer(image.data, np.uint8)
            request = request._replace(jpeg_bytes=len(image.data), width=image.width, height=image.height)
        else:
            self.memory.pixels(slot, card.preprocessing.shape)[:] = image
        return request.pack()

    def withdraw(self, pending: Pending) -> None:
        """Tells the engine process if a future is done before its image: cancelled, or too late.

        The slot stays taken until that process lets go of it.
        """
        if (slot := self._slots.get(pending)) is not None:
            with suppress(OSError):  # no room, or closed: the image is computed in vain
                self._send(Request(WITHDRAW, slot).pack(), socket.MSG_DONTWAIT)

    def _send(self, request: bytes, flags: int = 0) -> None:
        with suppress(ConnectionError):  # the engine process has gone: the event loop is about to learn it
            self._sock.send(request, flags)

    def _read(self) -> None:
        for message in received(self._sock):
            if not message:
                self._loop.remove_reader(self._sock)
                self._on_lost()
                return
            content = self._unpacker.unpack(message)
            if isinstance(content, News | Shown | Mark):
                self._news.put_nowait(content)
            elif isinstance(content, Stop):
                self._on_stop(content.signal)
            elif content:
                for done in content:
                    self._finish(done)

    def _count(self, model: int, images: int) -> None:
        """From any thread."""
        with self._counting:
            self.memory.unanswered[self.worker, model] += images

    def _finish(self, done: Done) -> None:
        pending, model, top_k, names, card = self._waiting.pop(done.slot)
        del self._slots[pending]
        self._count(model, -1)
        if not pending.done():  # the client is still there
            if done.outcome is Outcome.EXPIRED:
                pending.set_exception(Expired())
            elif done.outcome is Outcome.NOT_DECODED:
                pending.set_exception(NotDecoded())
            elif done.outcome is Outcome.ANSWERED:
                ids, probabilities = self.memory.top(done.slot, top_k)
                timing = BatchTiming(*done[2:])
                places = self.memory.outputs(done.slot, card.output_shapes) if names else {}
                outputs = {name: places[name].copy() for name in names}
                pending.set_result((Answer(TopK(ids.copy(), probabilities.copy()), outputs), timing))
            else:
                pending.set_exception(EngineFailed("the engine process could not compute this image: see its log"))
        self._free.put(done.slot)


class RemoteRunner:
    """One ready model of a `RemoteBackend`. A `Runner`."""

    def __init__(self, backend: RemoteBackend, index: int, card: ModelCard, decodes: bool = False) -> None:
        self.decodes = decodes
        self._backend = backend
        self._index = index
        self._card = card
        self._unanswered = backend.memory.unanswered[:, index]
        self._per_second = backend.memory.per_second[index : index + 1]

    @property
    def unanswered(self) -> int:
        return int(self._unanswered.sum())

    @property
    def per_second(self) -> float:
        return float(self._per_second[0])

    def pending(self) -> Pending:
        pending: Pending = asyncio.get_running_loop().create_future()
        pending.add_done_callback(self._backend.withdraw)
        return pending

    def submit(self, item: BatchItem, pending: Pending) -> None:
        self._backend.submit(self._index, self._card, item, pending)
