"""The messages between a worker and the engine process, over a socket that keeps them apart (SOCK_SEQPACKET).

Both ends are the same program on the same machine: records are plain structs, and the rare news of a model is a pickle.
"""

from __future__ import annotations

import functools
import pickle
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from service.model_repository import Model, Repository
from service.published import Listing, Stamp
from service.request_ids import MAX_CHARACTERS
from service.runtime.engine import EngineInfo
from service.runtime.graph import OUTPUTS, Output
from service.settings import Settings
from service.tracing.traces import NO_MARK
from service.workers.memory import Layout

MAX_BYTES = 1 << 16  # of a message; more records are split over several messages

# From worker to engine: slot, model, top_k, deadline; of a JPEG its bytes, width and height; the outputs as bits;
# the mark of the request in traces, and its id.
HELLO = b"h"  # the worker listens
SUBMIT = b"s"
WITHDRAW = b"w"
RELEASE = b"r"  # no request of this worker uses the model any more
RELOAD = b"l"  # look at the model folder
_REQUEST = struct.Struct(f"<cIHIdIIIB{len(NO_MARK)}s{MAX_CHARACTERS}s")

# From engine to worker.
_DONE = b"d"
_NEWS = b"n"
_PIECE = b"p"  # the beginning of news that are longer than a message
_STOP = b"q"
_MARK = b"m"
_RECORD = struct.Struct(f"<IBddHd{len(NO_MARK)}s")


@dataclass(frozen=True)
class Start:
    """What a worker reads from its standard input before anything else."""

    worker: int
    settings: Settings
    repository: Repository
    layout: Layout
    memory_fd: int
    socket_fd: int
    engine_pid: int


class Request(NamedTuple):
    kind: bytes
    slot: int = 0
    model: int = 0  # its index
    top_k: int = 0
    deadline: float = 0.0
    jpeg_bytes: int = 0  # 0: the slot has pixels
    width: int = 0
    height: int = 0
    outputs: int = 0  # of the graph: a bit for each, in their order
    mark: bytes = NO_MARK
    request_id: str = ""

    def pack(self) -> bytes:
        return _REQUEST.pack(*self[:-1], self.request_id.encode())

    @classmethod
    def unpack(cls, message: bytes) -> Request:
        *numbers, request_id = _REQUEST.unpack(message)
        return cls._make((*numbers, request_id.rstrip(b"\0").decode()))


def to_bits(outputs: Sequence[Output]) -> int:
    return sum(1 << OUTPUTS.index(name) for name in outputs)


@functools.cache
def from_bits(bits: int) -> tuple[Output, ...]:
    return tuple(name for position, name in enumerate(OUTPUTS) if bits >> position & 1)


class Outcome(IntEnum):
    """What became of an image."""

    FAILED = 0
    ANSWERED = 1
    EXPIRED = 2  # its deadline came first
    NOT_DECODED = 3  # a JPEG that the processor has to decode


class Done(NamedTuple):
    """The engine process is done with a slot."""

    slot: int
    outcome: Outcome
    queued: float  # from here on as in `BatchTiming`
    ran: float
    batch_size: int
    started: float = 0.0
    batch: bytes = NO_MARK


@dataclass(frozen=True)
class News:
    """What has become of a version. Has `info` if it is ready, a `reason` if it has failed.

    `index` stands for a ready model in requests and in shared memory.
    """

    model: Model
    index: int = 0
    reason: str | None = None
    info: EngineInfo | None = None

    def pack(self) -> Iterator[bytes]:
        """The card of a model with many classes takes several messages."""
        return _in_pieces(pickle.dumps(self))


@dataclass(frozen=True)
class Shown:
    """What there is to serve, and what answers, as the engine process sees it."""

    listing: Listing
    unreadable: Mapping[Stamp, str]
    answering: Mapping[str, Stamp]

    @classmethod
    def of(cls, repository: Repository) -> Shown:
        answering = {reference: model.stamp for reference, model in repository.answering.items()}
        return cls(repository.listing, dict(repository.unreadable), answering)

    def pack(self) -> Iterator[bytes]:
        return _in_pieces(pickle.dumps(self))


class Mark(IntEnum):
    """Where the worker stands among the news."""

    CAUGHT_UP = 0  # it has been told of every model so far
    LOADED = 1  # and of every model that the service began with

    def pack(self) -> bytes:
        return _MARK + bytes([self])


class Stop(NamedTuple):
    """The engine process received this signal."""

    signal: int

    def pack(self) -> bytes:
        return _STOP + bytes([self.signal])


def received(sock: socket.socket) -> Iterator[bytes]:
    """The messages that have arrived, without waiting for more; then an empty one if the other end has gone."""
    while True:
        try:
            message = sock.recv(MAX_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        yield message
        if not message:
            return


def pack_done(records: Iterable[Done]) -> Iterator[bytes]:
    """Packs records into as few messages as possible."""
    packed = b"".join(_RECORD.pack(*record) for record in records)
    room = (MAX_BYTES - 1) // _RECORD.size * _RECORD.size
    for start in range(0, len(packed), room):
        yield _DONE + packed[start : start + room]


def _in_pieces(data: bytes) -> Iterator[bytes]:
    while len(data) >= MAX_BYTES:
        yield _PIECE + data[: MAX_BYTES - 1]
        data = data[MAX_BYTES - 1 :]
    yield _NEWS + data


class Unpacker:
    """Reads the messages of the engine process."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def unpack(self, message: bytes) -> News | Shown | Mark | Stop | list[Done] | None:
        """The content of a message; None if more of it follows."""
        kind, content = message[:1], message[1:]
        if kind == _PIECE:
            self._pieces.append(content)
            return None
        if kind == _NEWS:
            data = b"".join([*self._pieces, content])
            self._pieces.clear()
            news: News | Shown = pickle.loads(data)
            return news
        if kind == _MARK:
            return Mark(content[0])
        if kind == _STOP:
            return Stop(content[0])
        return [Done(slot, Outcome(outcome), *timing) for slot, outcome, *timing in _RECORD.iter_unpack(content)]
