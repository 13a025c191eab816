"""The open connections of one server: how many there may be, how long they may keep it waiting, and why it closed them.

The deadlines are checked about once a second for all connections together. A timer for each would cost every request
more than this costs all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Literal, Protocol, get_args

from service.metrics import Metrics

log = logging.getLogger(__name__)

Reason = Literal[
    "header_timeout", "headers_too_large", "body_too_slow", "answer_unread", "evicted", "refused"
]  # labels of `resnet_connections_closed_total`

LONGEST_INTERVAL_S = 1.0  # between checks
KEPT_S = 1.0  # a connection is kept alive so long at least, whoever wants its place
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

    At the limit, a new connection takes the place of another that does nothing, the longest first of each kind: of one
    that has sent neither a whole request nor the first byte of a body; of an upload that has brought no byte from one
    check to the next; of one that has been kept alive for `KEPT_S` without a further request. Kept ones come last: they
    are those of good clients.

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
        self._closed = {reason: metrics.connections_closed.labels(reason) for reason in get_args(Reason)}
        self._open: set[Connection] = set()
        self._silent: OrderedDict[Connection, None] = OrderedDict()  # no request or body so far; the longest first
        self._stalled: OrderedDict[Connection, None] = OrderedDict()  # uploads; the longest stalled first
        self._kept: OrderedDict[Connection, float] = OrderedDict()  # kept alive, since when; the longest first
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
        self._silent[connection] = None
        self._gauge.inc()
        if self._checked_at is None:
            self._schedule(asyncio.get_running_loop())

    def remove(self, connection: Connection) -> None:
        """Forgets a connection that has ended. Does nothing if it has been forgotten."""
        self._turned_away.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            for group in (self._silent, self._stalled, self._kept):
                group.pop(connection, None)
            self._gauge.dec()

    def busy(self, connection: Connection) -> None:
        """The headers of a request are complete."""
        self._kept.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """All requests have been answered."""
        if connection in self._open:
            self._kept[connection] = time.monotonic()
            self.going_on(connection)

    def stalled(self, connection: Connection) -> None:
        """The body of a request has brought no byte from the check before this one to this one."""
        if connection in self._open and connection not in self._silent:
            self._stalled[connection] = None

    def going_on(self, connection: Connection) -> None:
        """The body of a request has brought bytes, or is not waited for."""
        self._silent.pop(connection, None)
        self._stalled.pop(connection, None)

    def deadline(self) -> float:
        """When a client is overdue that has to act from now on, in `time`."""
        return self.time + self.client_timeout + self._interval  # up to an interval of which may have passed already

    def closing(self, reason: Reason) -> None:
        """Counts a connection that the server closes on its own."""
        self._closed[reason].inc()

    def _evict(self) -> bool:
        """Closes a connection that does nothing. False if there is none."""
        connection = next(iter(self._silent), None) or self._longest_stalled() or self._longest_kept()
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

    def _longest_kept(self) -> Connection | None:
        connection, since = next(iter(self._kept.items()), (None, 0.0))
        return connection if connection and time.monotonic() - since > KEPT_S else None

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
