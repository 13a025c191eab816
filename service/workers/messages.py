"""The messages between a worker and the engine process, over a socket that keeps them apart (SOCK_SEQPACKET).

Both ends are the same program on the same machine: records are plain structs, and the rare news of a model is a pickle.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from service.model_repository import Repository
from service.runtime.engine import EngineInfo
from service.settings import Settings
from service.workers.memory import Layout

MAX_BYTES = 1 << 16  # of a message; more records are split over several messages

# From worker to engine: slot, model, top_k, deadline.
HELLO = b"h"  # the worker listens
SUBMIT = b"s"
WITHDRAW = b"w"
_REQUEST = struct.Struct("<cIHHd")

# From engine to worker.
_DONE = b"d"
_NEWS = b"n"
_STOP = b"q"
_RECORD = struct.Struct("<IBddH")


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
    model: int = 0  # its index in the repository
    top_k: int = 0
    deadline: float = 0.0

    def pack(self) -> bytes:
        return _REQUEST.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> Request:
        return cls(*_REQUEST.unpack(message))


class Outcome(IntEnum):
    """What became of an image."""

    FAILED = 0
    ANSWERED = 1
    EXPIRED = 2  # its deadline came first


class Done(NamedTuple):
    """The engine process is done with a slot."""

    slot: int
    outcome: Outcome
    queued: float  # seconds, as in `BatchTiming`
    ran: float
    batch_size: int


class News(NamedTuple):
    """A model is ready, with `info`, or has failed for a `reason`."""

    model: int
    reason: str | None
    info: EngineInfo | None

    def pack(self) -> bytes:
        return _NEWS + pickle.dumps(tuple(self))


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


def unpack(message: bytes) -> News | Stop | list[Done]:
    """Reads a message from the engine process."""
    if message[:1] == _STOP:
        return Stop(message[1])
    if message[:1] == _NEWS:
        return News(*pickle.loads(message[1:]))
    return [Done(slot, Outcome(outcome), *timing) for slot, outcome, *timing in _RECORD.iter_unpack(message[1:])]
