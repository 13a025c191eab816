"""Tells the gRPC port that the HTTP server is closing, and that server what to wait for."""

from __future__ import annotations

import asyncio


class Closing:
    """The shutdown of a server, for a second port of its process.

    Attributes:
        begun: set once the server closes its port.
        awaited: tasks that the server then waits for, as for requests in flight, before it shuts the application down.
            It cancels those that take too long. After a further signal it waits for none.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.awaited: set[asyncio.Task[None]] = set()
