"""The open connections of one server: how many there may be, how long they may keep it waiting, and why it closed them.

The deadlines are checked about once a second for all connections together. A timer for each would cost every request
more than this costs all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Literal, Protocol

from service.metrics import Metrics

log = logging.getLogger(__name__)

Reason = Literal[
    "header_timeout", "headers_too_large", "body_too_slow", "answer_unread", "evicted", "refused"
]  # labels of `resnet_connections_closed_total`

LONGEST_INTERVAL_S = 1.0  # between checks
MOST_TURNED_AWAY = 50  # connections beyond the limit that get a reason; further ones are just closed
RESERVED_FILES = 100  # descriptors for all that is no connection: models, logs, sockets of workers


def most_connections(wanted: int, open_files: int) -> int:
    """How many connections a process accepts that may have this many files open."""
    return min(wanted, max(open_files - RESERVED_FILES, open_files // 4))


class Connection(Protocol):
    """What `Connections` needs of one. `uvicorn_protocol.Protocol` is one."""

    @property
    def newly_read(self) -> int:
        """Bytes of the body that is being read which have come since the last check."""

    def check(self, passed: float) -> None:
        """Ends the connection if its client is overdue. `passed`: how far `Connections.time` went since last time."""

    def turn_away(self) -> None:
        """Answers that there are too many connections, and closes."""

    def abort(self) -> None:
        """Closes at once, whatever has not been sent."""


class Connections:
    """Counts connections in and out, makes room for new ones, and has each checked.

    A connection is idle unless it is inside a request whose headers are complete. At the limit, a new connection takes
    the place of the one that has been idle longest: silent ones, half-sent headers, or keep-alive. If none is idle, it
    takes that of the upload which has brought no byte for longest, at least from one check to the next.

    Attributes:
        time: seconds, for deadlines. It goes on with each check, and stands still while the event loop is held: that is
            no fault of the clients, who may have sent what has not been read.
        client_timeout: seconds to wait for a client; see `Settings`.
        min_body_rate: bytes per second; see `Settings`.
    """

    def __init__(self, most: int, client_timeout: float, min_body_rate: int, metrics: Metrics) -> None:
        self.time = 0.0
        self.client_timeout = client_timeout
        self.min_body_rate = min_body_rate
        self._most = most
        self._gauge = metrics.connections
        self._closed = metrics.connections_closed
        self._open: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the longest idle first
        self._stalled: OrderedDict[Connection, None] = OrderedDict()  # uploads; the longest stalled first
        self._turned_away: set[Connection] = set()
        self._interval = min(LONGEST_INTERVAL_S, client_timeout / 4)
        self._checked_at: float | None = None  # None while no check is due

    def add(self, connection: Connection) -> None:
        """Admits a new connection. At the limit, it replaces an idle or stalled one, or is turned away."""
        if len(self._open) >= self._most and not self._evict():
            self.closing("refused")
            if len(self._turned_away) < MOST_TURNED_AWAY:
                self._turned_away.add(connection)
                connection.turn_away()
            else:
                connection.abort()
            return
        self._open.add(connection)
        self._idle[connection] = None
        self._gauge.inc()
        if self._checked_at is None:
            self._schedule(asyncio.get_running_loop())

    def remove(self, connection: Connection) -> None:
        """Forgets a connection that has ended. Does nothing if it has been forgotten."""
        self._turned_away.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._idle.pop(connection, None)
            self._stalled.pop(connection, None)
            self._gauge.dec()

    def busy(self, connection: Connection) -> None:
        """The headers of a request are complete."""
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """All requests have been answered."""
        if connection in self._open:
            self._idle[connection] = None
            self._stalled.pop(connection, None)

    def stalled(self, connection: Connection) -> None:
        """The body of a request has brought no byte from the check before this one to this one."""
        if connection in self._open:
            self._stalled[connection] = None

    def going_on(self, connection: Connection) -> None:
        """The body of a request has brought bytes, or is no longer waited for."""
        self._stalled.pop(connection, None)

    def deadline(self) -> float:
        """When a client is overdue that has to act from now on, in `time`."""
        return self.time + self.client_timeout + self._interval  # up to an interval of which may have passed already

    def closing(self, reason: Reason) -> None:
        """Counts a connection that the server closes on its own."""
        self._closed.labels(reason).inc()

    def _evict(self) -> bool:
        """Closes the connection that has been idle longest, else stalled longest. False if there is neither."""
        connection = next(iter(self._idle), None) or self._longest_stalled()
        if connection is None:
            return False
        self.remove(connection)
        self.closing("evicted")
        connection.abort()
        return True

    def _longest_stalled(self) -> Connection | None:
        for connection in tuple(self._stalled):
            if not connection.newly_read:
                return connection
            del self._stalled[connection]  # it has gone on since the check
        return None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._checked_at = loop.time()
        loop.call_later(self._interval, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._checked_at is not None
        passed = min(loop.time() - self._checked_at, 2 * self._interval)
        self.time += passed
        for connection in tuple(self._open):
            try:
                connection.check(passed)
            except Exception:  # of one connection, which may not stop the deadlines of the others
                log.exception("a connection could not be checked, and is closed")
                self.remove(connection)
                connection.abort()
        self._checked_at = None
        if self._open:
            self._schedule(loop)
