"""How a second port of a process follows the end of its server."""

from __future__ import annotations

import asyncio


class Closing:
    """The end of a server, for what ends with it.

    Attributes:
        begun: set once the server closes its port.
        awaited: what the server waits for from then on, as for requests in flight, before it shuts the application
            down. It cancels what takes too long, and a signal to stop at once waits for nothing.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.awaited: set[asyncio.Task[None]] = set()
