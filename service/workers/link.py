"""The engine's end of the socket to a worker."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from service.inference import Executor, Prediction
from service.repository import Model
from service.workers.memory import ABSENT, SharedMemory
from service.workers.messages import HELLO, WITHDRAW, Done, News, Request, Stop, pack_done, received

log = logging.getLogger(__name__)


class SlotItem(NamedTuple):
    """An item of a batch whose pixels lie in shared memory."""

    pixels: np.ndarray
    top_k: int


class Link:
    """Takes images from a worker to the executors, and tells it when they are done. Lives on the event loop.

    Attributes:
        greeted: whether the worker has ever said that it listens.
    """

    def __init__(
        self,
        sock: socket.socket,
        memory: SharedMemory,
        worker: int,
        models: Sequence[Model],
        executors: Sequence[Executor | None],
        on_hello: Callable[[], None],
    ) -> None:
        """
        Args:
            executors: of the models, as they become ready.
            on_hello: told when the worker listens.
        """
        self.greeted = False
        self._sock = sock
        self._memory = memory
        self._worker = worker
        self._models = models
        self._executors = executors
        self._on_hello = on_hello
        self._loop = asyncio.get_running_loop()
        self._predictions: dict[int, Prediction] = {}  # by slot
        self._done: list[Done] = []
        # What the socket has no room for, because the worker is slow to read. A worker has no more images than slots.
        self._unsent: deque[bytes] = deque()
        self._open = True
        self._loop.add_reader(sock, self._read)

    def tell(self, message: News | Stop) -> None:
        self._send(message.pack())

    def close(self) -> None:
        """Forgets the worker's images: those that wait are not computed any more."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for prediction in self._predictions.values():
            prediction.cancel()
        self._memory.in_service[self._worker] = 0
        self._memory.been_through[self._worker] = ABSENT

    def _read(self) -> None:
        for message in received(self._sock):
            if not message:
                self.close()
                return
            request = Request.unpack(message)
            if request.kind == HELLO:
                self.greeted = True
                self._on_hello()
                if not self._open:  # it has gone while it was answered
                    return
            elif request.kind == WITHDRAW:
                if prediction := self._predictions.get(request.slot):
                    prediction.cancel()
            else:
                self._submit(request)

    def _submit(self, request: Request) -> None:
        executor = self._executors[request.model]
        assert executor is not None  # the worker was told that it is ready
        prediction: Prediction = self._loop.create_future()
        self._predictions[request.slot] = prediction
        prediction.add_done_callback(functools.partial(self._finish, request, executor))
        side = self._models[request.model].card.preprocessing.crop
        executor.submit(SlotItem(self._memory.pixels(request.slot, side), request.top_k), prediction)

    def _finish(self, request: Request, executor: Executor, prediction: Prediction) -> None:
        del self._predictions[request.slot]
        if not self._open:  # the slot is another worker's by now
            return
        done = Done(request.slot, ok=False, queued=0.0, ran=0.0, batch_size=0)
        if not prediction.cancelled() and not prediction.exception():  # which the executor has logged
            try:
                top, timing = prediction.result()
                shared = self._memory.top(request.slot, request.top_k)
                shared.class_ids[:] = top.class_ids
                shared.probabilities[:] = top.probabilities
                done = Done(request.slot, True, *timing)
            except Exception:  # the worker waits for its slot, whatever happens
                log.exception("an answer could not be handed to worker %d", self._worker)
            self._memory.per_second[request.model] = executor.per_second
        # A batch ends in one round of the event loop: its images are told of together, in the next.
        if not self._done:
            self._loop.call_soon(self._flush)
        self._done.append(done)

    def _flush(self) -> None:
        done, self._done = self._done, []
        for message in pack_done(done):
            self._send(message)

    def _send(self, message: bytes) -> None:
        if not self._open:
            return
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._write()

    def _write(self) -> None:
        while self._unsent:
            try:
                self._sock.send(self._unsent[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._write)
                return
            except ConnectionError:
                self.close()
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)
