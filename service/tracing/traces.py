"""What a request that is traced notes on its way. Knows no OpenTelemetry: all others pay for one look at a variable.

No time is taken here: the spans are made at the end of the request, of what its stages have measured anyway.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

# Names a span among all spans of all traces: the 16 bytes of its trace's id, and the 8 of its own.
NO_MARK = bytes(24)

# The header of an answer that names its span: W3C's draft, as OpenTelemetry's instrumentations of servers write it.
RESPONSE = "traceresponse"


class Passage(NamedTuple):
    """One image on its way through the pipeline. Times as of `time.perf_counter`, in seconds; 0 if it was not reached.

    Attributes:
        number: the image's, within its request.
        arrived: when it was admitted.
        decoding, decoded: when its decoding began and ended.
        started, ran, batch_size, batch: of its batch, as in `batching.BatchTiming`; a picture has none.
        ended: when its answer was there.
        problem: why it has no answer.
    """

    number: int
    arrived: float
    decoding: float
    decoded: float
    ended: float
    started: float = 0.0
    ran: float = 0.0
    batch_size: int = 0
    batch: bytes = NO_MARK
    problem: str = ""


@dataclass(slots=True)
class Trace:
    """A request that is traced.

    Attributes:
        mark: of its server span.
        passages: of its images.
    """

    mark: bytes
    passages: list[Passage] = field(default_factory=list)

    @property
    def ids(self) -> dict[str, str]:
        """For the log, and as an exemplar: see `ids_of`."""
        return ids_of(self.mark)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def begin(trace: Trace | None) -> None:
    """From here on the current task belongs to this request; None for one that is not traced.

    Where requests are traced, every one begins so: a pipelined one starts in the context of the one before it.
    """
    _current.set(trace)


def current() -> Trace | None:
    """The request that the current task belongs to, if it is traced."""
    return _current.get()


def ids_of(mark: bytes) -> dict[str, str]:
    """`trace_id` and `span_id`, in hexadecimal digits."""
    return {"trace_id": mark[:16].hex(), "span_id": mark[16:].hex()}


def exemplar() -> dict[str, str] | None:
    """What names the current request beside a measurement, if it is traced."""
    trace = _current.get()
    return trace.ids if trace else None


def ids_of_record(record: logging.LogRecord) -> dict[str, str]:
    """Those of the request that a record of the log belongs to; empty if it belongs to none that is traced.

    Code that runs for a request outside of its task gives its mark: `log.error(…, extra={"trace": …})`.
    """
    mark = getattr(record, "trace", NO_MARK)
    if mark != NO_MARK:
        return ids_of(mark)
    trace = _current.get()
    return trace.ids if trace else {}
