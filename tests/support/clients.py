"""Clients that work for as long as a test, or a picture of the documentation, needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def working(count: int, work: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Threads that work meanwhile.

    Args:
        work: called on each with its number and with what is set at the end; must return soon after that.
    """
    ended = threading.Event()
    threads = [threading.Thread(target=work, args=(number, ended)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
