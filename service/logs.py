"""The log: one line, or one JSON object, for each record, on the standard error stream.

Every record that belongs to a request names its id. A fault that repeats is not repeated for ever.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Literal, TextIO

from service import request_ids
from service.tracing.traces import ids_of_record

Format = Literal["text", "json"]

# Of the warnings and errors that come from one place in the code, so many are written within so many seconds.
MOST, WINDOW_S = 10, 10.0


ACCESS = "service.access"  # the logger of the lines of which every request has one


def configure(level: str, form: Format, *, access: bool, process: str = "") -> None:
    """Sets the log of this process up.

    Args:
        level: the least severe that is written, as in `logging`, in lower case.
        access: whether every request has a line.
        process: names this process among several.
    """
    formatter = JsonFormatter(process) if form == "json" else TextFormatter(process)
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if not access:
        logging.getLogger(ACCESS).setLevel(logging.WARNING)


def request_of(record: logging.LogRecord) -> str:
    """The request's id, or those of several, with spaces between; empty if the record belongs to none.

    Code that runs for a request outside of its task names it: `log.error(…, extra={"request_id": …})`.
    """
    return str(getattr(record, "request_id", "")) or request_ids.current()


class TextFormatter(logging.Formatter):
    """Time, level, logger, the request's id in brackets if there is one, its trace if it is traced, and the message."""

    def __init__(self, process: str) -> None:
        self._process = f"{process}: " if process else ""
        super().__init__()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        request = request_of(record)
        named = f"[{request}] " if request else ""
        named += "".join(f"{name}={value} " for name, value in ids_of_record(record).items())
        when = self.formatTime(record)
        return f"{when} {record.levelname} {self._process}{record.name}: {named}{record.message}"


class JsonFormatter(logging.Formatter):
    """One object for each record: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and what the record has of
    `process`, `request_id`, `trace_id`, `span_id`, `exception` and the fields of an access line.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            found["process"] = self._process
        if request := request_of(record):
            found["request_id"] = request
        found |= ids_of_record(record)
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes the first `MOST` warnings and errors from one place within `WINDOW_S` seconds, and then how many more
    there were: a fault of every request must neither hide the others nor fill the disk.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._counting = threading.Lock()
        self._began = time.monotonic()
        self._seen: dict[tuple[str, int], int] = {}  # records of this window, by where they come from
        self._last: dict[tuple[str, int], logging.LogRecord] = {}  # of those that were held back

    def handle(self, record: logging.LogRecord) -> bool:
        for summary in self._summaries():
            super().handle(summary)
        if record.levelno >= logging.WARNING:
            place = (record.pathname, record.lineno)
            with self._counting:
                self._seen[place] = seen = self._seen.get(place, 0) + 1
                if seen > MOST:
                    self._last[place] = record
                    return False
        return super().handle(record)

    def close(self) -> None:
        for summary in self._summaries(ended=True):
            super().handle(summary)
        super().close()

    def _summaries(self, *, ended: bool = False) -> Iterator[logging.LogRecord]:
        """What to say about the window, if it has ended."""
        if time.monotonic() < self._began + WINDOW_S and not ended:
            return
        with self._counting:
            seen, last = self._seen, self._last
            self._seen, self._last, self._began = {}, {}, time.monotonic()
        for place, record in last.items():
            more = seen[place] - MOST
            message = f"{more} more like this within {WINDOW_S:g} s, the last: {record.getMessage()}"
            yield logging.LogRecord(record.name, record.levelno, *place, message, None, None, sinfo=None)
