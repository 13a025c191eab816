"""The certain end of a process that shuts down."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

GRACE_S = 5.0  # beyond the shutdown's own limits, after which the process exits all the same


def end_in(seconds: float) -> None:
    """Ends this process with status 1 after that time, whatever its threads and its event loop do then."""

    def give_up() -> None:
        log.error("the shutdown did not finish within %g s: the process exits now", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
