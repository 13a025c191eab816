"""How a response gets into its connection: head and body in one piece, and to a client that has closed its own side."""

from __future__ import annotations

import asyncio
import socket

STATUS_PREFIX = b"HTTP/1.1 "  # the first bytes of every response
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBE_INTERVAL_S = 0.05


class AnswerTransport:
    """A connection's transport for one response.

    uvicorn writes the head, then the body. Here the head waits for the first piece of the body, and both are sent at
    once. A process that is killed between the two would leave a head without a body: a balancer that has passed the
    head on cannot ask another replica any more.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None  # that waits for the body
        self._has_head = False
        self._sent = 0  # bytes of the head that have been sent already
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if data == CONTINUE:
            self._transport.write(data)
        elif self._has_head:
            self.flush(data)
        else:
            self._has_head = True
            self._head = data[self._sent :]

    def flush(self, data: bytes = b"") -> None:
        """Sends what waits. Responses without a body need this."""
        if self._head is not None:
            data = self._head + data
            self._head = None
        if data:
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sends the first bytes of a response, and aborts the connection if the client turns out to have gone.

        For a client that has closed its side of the connection. A full close looks like a half one, but then the
        client's system rejects whatever is sent.
        """
        self._sent = len(STATUS_PREFIX)
        self._transport.write(STATUS_PREFIX)
        _probe(self._transport, loop)


def _probe(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """asyncio would notice a rejection only while reading, which has ended."""
    if transport.is_closing():
        return
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        transport.abort()
    else:
        loop.call_later(PROBE_INTERVAL_S, _probe, transport, loop)
