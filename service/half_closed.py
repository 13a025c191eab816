"""A client that has closed its side of the connection: whether it still reads, and a response that has begun."""

from __future__ import annotations

import asyncio
import socket

STATUS_PREFIX = b"HTTP/1.1 "  # the first bytes of every response
PROBE_INTERVAL_S = 0.05


class StartedTransport:
    """A transport for a response whose `STATUS_PREFIX` has already been sent."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._sent = len(STATUS_PREFIX)
        self._transport = transport
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        self._transport.write(data[self._sent :])
        self._sent = 0


def start_response(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> StartedTransport:
    """Sends the prefix of a response, and aborts the connection if the client turns out to have gone.

    A full close looks like a half one, but then the client's system rejects whatever is sent. Returns the transport for
    the rest of the response.
    """
    transport.write(STATUS_PREFIX)
    _probe(transport, loop)
    return StartedTransport(transport)


def _probe(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """asyncio would notice a rejection only while reading, which has ended."""
    if transport.is_closing():
        return
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        transport.abort()
    else:
        loop.call_later(PROBE_INTERVAL_S, _probe, transport, loop)
