"""The engine process's side of the socket to a worker."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from service.backend import NotDecoded, Pending, Runner
from service.batching import Expired
from service.model_repository import Model
from service.runtime.engine import Image
from service.runtime.graph import Output
from service.runtime.images.encoded import EncodedJpeg
from service.tracing.traces import NO_MARK
from service.workers.memory import ABSENT, SharedMemory
from service.workers.messages import (
    HELLO,
    RELEASE,
    RELOAD,
    WITHDRAW,
    Done,
    Mark,
    News,
    Outcome,
    Request,
    Shown,
    Stop,
    from_bits,
    pack_done,
    received,
)
from service.workers.model_table import Loaded

log = logging.getLogger(__name__)


class SharedItem(NamedTuple):
    """A batch item whose pixels lie in shared memory, or a JPEG from there."""

    image: Image
    top_k: int
    deadline: float
    request_id: str = ""
    outputs: Sequence[Output] = ()
    mark: bytes = NO_MARK


class EngineSide:
    """Takes images from a worker to the runners and reports their answers. Lives on the event loop.

    Attributes:
        pending: the images without an answer yet, by slot.
        uses: the indices of the models that the worker has been told of and has not released.
    """

    def __init__(
        self,
        sock: socket.socket,
        memory: SharedMemory,
        worker: int,
        loaded: Mapping[int, Loaded],
        on_hello: Callable[[], None],
        on_release: Callable[[], None],
        on_reload: Callable[[], None],
    ) -> None:
        """
        Args:
            loaded: the models in this process by index, as they come and go.
            on_hello: called when the worker listens.
            on_release: called after the worker has left `uses`, or some of it.
            on_reload: called when the worker was asked to look at the model folder.
        """
        self._sock = sock
        self._memory = memory
        self._worker = worker
        self._loaded = loaded
        self._on_hello = on_hello
        self._on_release = on_release
        self._on_reload = on_reload
        self.uses: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self.pending: dict[int, Pending] = {}
        self._done: list[Done] = []
        # What the socket has no room for because the worker reads slowly. Bounded: a worker has no more images than
        # slots.
        self._unsent: deque[bytes] = deque()
        self._open = True
        self._loop.add_reader(sock, self._read)

    def tell(self, message: News | Shown | Mark | Stop) -> None:
        if isinstance(message, News | Shown):
            if self._open and isinstance(message, News) and message.info:  # a closed side never releases it
                self.uses.add(message.index)
            for piece in message.pack():
                self._send(piece)
        else:
            self._send(message.pack())

    @property
    def unsent(self) -> int:
        """Messages that wait for room in the socket; for tests."""
        return len(self._unsent)

    def close(self) -> None:
        """Drops the worker's images: those that still wait are not computed."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for pending in self.pending.values():
            pending.cancel()
        self._memory.unanswered[self._worker] = 0
        self._memory.progress[self._worker] = ABSENT
        self.uses.clear()
        self._on_release()

    def _read(self) -> None:
        for message in received(self._sock):
            if not message:
                self.close()
                return
            request = Request.unpack(message)
            if request.kind == HELLO:
                self._on_hello()
                if not self._open:  # the worker left while it was answered
                    return
            elif request.kind == RELEASE:
                self.uses.discard(request.model)
                self._on_release()
            elif request.kind == RELOAD:
                self._on_reload()
            elif request.kind == WITHDRAW:
                if pending := self.pending.get(request.slot):
                    pending.cancel()
            else:
                self._submit(request)

    def _submit(self, request: Request) -> None:
        if request.model not in self._loaded:
            # It was released while this image came over: nobody waits for it any more.
            self._report(Done(request.slot, Outcome.FAILED, queued=0.0, ran=0.0, batch_size=0))
            return
        model, runner = self._loaded[request.model]
        pending = runner.pending()
        self.pending[request.slot] = pending
        pending.add_done_callback(functools.partial(self._finish, request, model, runner))
        image: Image
        if request.jpeg_bytes:
            image = EncodedJpeg(self._memory.jpeg(request.slot, request.jpeg_bytes), request.width, request.height)
        else:
            image = self._memory.pixels(request.slot, model.card.preprocessing.shape)
        outputs = from_bits(request.outputs)
        item = SharedItem(image, request.top_k, request.deadline, request.request_id, outputs, request.mark)
        runner.submit(item, pending)

    def _finish(self, request: Request, model: Model, runner: Runner, pending: Pending) -> None:
        del self.pending[request.slot]
        if not self._open:  # the slot belongs to another worker by now
            return
        done = Done(request.slot, Outcome.FAILED, queued=0.0, ran=0.0, batch_size=0)
        if pending.cancelled():
            pass
        elif isinstance(pending.exception(), Expired):
            done = done._replace(outcome=Outcome.EXPIRED)
        elif isinstance(pending.exception(), NotDecoded):
            done = done._replace(outcome=Outcome.NOT_DECODED)
        elif not pending.exception():  # the runner has logged any other exception
            try:
                (top, outputs), timing = pending.result()
                shared = self._memory.top(request.slot, request.top_k)
                shared.class_ids[:] = top.class_ids
                shared.probabilities[:] = top.probabilities
                if outputs:
                    places = self._memory.outputs(request.slot, model.card.output_shapes)
                    for name, array in outputs.items():
                        places[name][:] = array
                done = Done(request.slot, Outcome.ANSWERED, *timing)
            except Exception:  # the worker waits for its slot in any case
                log.exception("an answer could not be handed to worker %d", self._worker)
            self._memory.per_second[request.model] = runner.per_second
        self._report(done)

    def _report(self, done: Done) -> None:
        # All images of a batch finish in one round of the event loop; the next round reports them together.
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
