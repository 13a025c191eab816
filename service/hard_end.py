"""The certain end of a process, whatever its threads, its event loop and the readers of its log do."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

GRACE_S = 5.0  # beyond the shutdown's own limits, after which the process exits all the same
LAST_WORDS_S = 1.0


def last_words(logger: logging.Logger, level: int, message: str, *arguments: object) -> None:
    """Logs what is about to end, and waits a second at most.

    A pipe that nobody reads blocks whoever writes to it, and the lock of the log keeps all others waiting.
    """
    words = threading.Thread(target=logger.log, args=(level, message, *arguments), daemon=True)
    words.start()
    words.join(LAST_WORDS_S)


def leave(status: int) -> None:
    """Ends this process if the interpreter would wait for a thread, such as one that still loads a model.

    After a shutdown: no work is left that anybody waits for.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(status)


def end_in(seconds: float) -> None:
    """Ends this process with status 1 after that time, whatever its threads and its event loop do then."""

    def give_up() -> None:
        last_words(log, logging.ERROR, "the shutdown did not finish within %g s: the process exits now", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
