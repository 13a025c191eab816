"""The id by which a request can be followed: from its answer to every line of the log about it."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar

HEADER = "X-Request-ID"
MAX_CHARACTERS = 64

_HARMLESS = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_CHARACTERS}}}")
# Every request runs in a task of its own, and so in a context of its own: nobody has to take the id back.
_current: ContextVar[str] = ContextVar("request_id", default="")


def new_id() -> str:
    """32 hexadecimal digits that no other request has."""
    return os.urandom(16).hex()


def begin(wanted: str | None) -> str:
    """From here on the current task belongs to this request; returns its id.

    Args:
        wanted: the client's own id: taken if it has 1 to 64 letters, digits, `.`, `_` and `-`. Anything else could
            pretend to be another line of the log, or a header.
    """
    chosen = wanted if wanted and _HARMLESS.fullmatch(wanted) else new_id()
    _current.set(chosen)
    return chosen


def current() -> str:
    """The id of the request that the current task belongs to; empty outside of requests."""
    return _current.get()
