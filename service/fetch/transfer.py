"""Transfers files: resumes where the last attempt stopped, and tries again while that may help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from service.fetch.source import Blocked, Interrupted
from service.runtime.progress import Progress

log = logging.getLogger(__name__)

ATTEMPTS = 6  # without progress
BACKOFF_S = 0.5  # before the second attempt; doubles with each further one, to 8 s before the last
SHOWN_FROM = 10**6  # bytes of a file whose progress is shown

Result = TypeVar("Result")


def retried(work: Callable[[], Result], what: str, reached: Callable[[], int] = lambda: 0) -> Result:
    """The result of `work`, which is tried again if the network fails.

    Args:
        reached: how far it is; attempts are counted since it last got further.

    Raises:
        Interrupted: the last attempt failed.
    """
    failures, best = 0, reached()
    while True:
        try:
            return work()
        except Blocked:
            raise
        except Interrupted as error:
            if reached() > best:
                failures, best = 0, reached()
            failures += 1
            if failures == ATTEMPTS:
                raise
            delay = BACKOFF_S * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %g s", what, error, delay)
            time.sleep(delay)


def download(read: Callable[[int], Iterator[bytes]], path: Path, size: int, what: str) -> None:
    """Writes a file of so many bytes. What is there already is its beginning: only the rest is asked for.

    Args:
        read: the content from a byte on.

    Raises:
        FetchError: the file cannot be read.
        Interrupted: the network failed until the last attempt; what has come stays, for the next run.
        OSError: the file cannot be written.
    """
    if path.exists() and path.stat().st_size > size:
        path.unlink()
    path.touch()
    if path.stat().st_size == size:
        return
    with Progress(what, size, unit="B", initial=path.stat().st_size, shown=size >= SHOWN_FROM) as progress:

        def go_on() -> None:
            with path.open("ab") as file:
                while missing := size - file.tell():
                    before = file.tell()
                    for chunk in read(file.tell()):
                        file.write(chunk[:missing])
                        progress.advance(len(chunk[:missing]))
                        missing -= len(chunk[:missing])
                    if file.tell() == before:
                        raise Interrupted(f"the server sent {before} of {size} bytes")

        retried(go_on, what, lambda: path.stat().st_size)
