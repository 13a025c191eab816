"""Calls a function in a process of its own, which may die of it: a new one takes the next call."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Died(Exception):
    """The process died during the call."""


class Alone(Generic[Result]):
    """A function in another process, to which it goes pickled, as do arguments and results. To be closed."""

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._connection: Connection | None = None

    def __call__(self, *arguments: Any) -> Result:
        """Raises Died, also if the function raises."""
        if self._connection is None:
            spawn = multiprocessing.get_context("spawn")
            self._connection, there = spawn.Pipe()
            spawn.Process(target=_serve, args=(there, self._function), daemon=True).start()
            there.close()  # so that the end of the process is the end of what can be received
        try:
            self._connection.send(arguments)
            return self._connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            self.close()
            raise Died from None

    def close(self) -> None:
        """Ends the process."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _serve(connection: Connection, function: Callable[..., object]) -> None:
    with suppress(EOFError, ConnectionError):  # the caller has closed its end, perhaps during a call, or died
        while True:
            connection.send(function(*connection.recv()))
