"""Who may use the machine: many at the same time, or one alone, whose measurements others would spoil."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that many hold together, and that one of them can have alone for a while."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._waiting = 0  # for their time alone
        self._is_alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Waits while somebody is alone, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._waiting)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within `together`: waits until the others have finished, or wait for their time alone, too."""
        with self._changed:
            self._together -= 1
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_alone and not self._together)
            self._waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._together += 1
                self._changed.notify_all()
