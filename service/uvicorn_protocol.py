"""uvicorn's HTTP protocol, extended for clients that are slow, malformed, half-closed, or offer an upgrade."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import refusals
from service.answer_transport import AnswerTransport
from service.connections import Connections
from service.errors import HeadersTooLarge, MethodNotAllowed, RequestTimeout, TooManyConnections
from service.refusals import BODY_PER_FRAMING, MAX_HEAD_BYTES
from service.runtime.faults import Fault
from service.upgrade_offers import without_offer

LINGER_S = 2.0  # for a refused client to read why


class Protocol(HttpToolsProtocol):
    """Holds clients to deadlines and sizes, answers half-closed connections, and explains why a request is refused.

    Deadlines follow progress. Headers must be complete `client_timeout` seconds after the connection has opened or the
    next request has begun. A body may be late by as much in all, and gains time with every byte at `min_body_rate`, but
    never more than `client_timeout` from now: who stops is cut off after that time, however fast it was before. Time in
    which the server does not read costs the client nothing.

    Offers to upgrade are ignored. The parser takes everything after their headers for the other protocol and would lose
    the body, so the request is parsed again without the offer.

    A client may close its side of the connection after sending a request, and still gets its response. An unreadable
    request is answered with a problem document, after the requests before it.
    """

    url = b""

    def __init__(self, limits: Connections, root_path: str = "", **uvicorns: Any) -> None:
        """
        Args:
            root_path: the prefix under which clients see the service, for links in problem documents.
            uvicorns: what uvicorn gives each protocol.
        """
        super().__init__(**uvicorns)
        self._limits = limits
        self._link_prefix = root_path
        self._running: RequestResponseCycle | None = None  # the request that the application has; `cycle` is the last
        self._answer: AnswerTransport | None = None  # of that request
        self._awaited: Literal["headers", "body", "nothing"] = "headers"  # what the client has to send
        self._deadline = 0.0  # for what is awaited, in `Connections.time`
        self.newly_read = 0
        self._begun = False  # whether the body has been awaited since the last check only
        self._body_bytes = 0  # of the request that is being read
        self._other_bytes = 0  # of the request that is being read: its head and what frames its body
        self._piece = 0  # bytes that are being parsed
        self._uncounted = 0  # most bytes of the head that came in one piece with the request before it
        self._unread_deadline: float | None = None  # for what the client has not read, once that has been noticed
        self._refused = False
        self._last_words: Fault | None = None  # a refusal that waits for the answers before it

    @property
    def _unanswered(self) -> bool:
        """Whether the application has a request."""
        return self._running is not None and not self._running.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()
        self._limits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None and self._unanswered:
            self._disconnect(self._running)  # uvicorn tells only the last of several requests
        super().connection_lost(exc)
        self._limits.remove(self)

    def on_message_begin(self) -> None:
        if self._awaited == "nothing":  # right behind the request before it
            self._await_headers(self._piece)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        if self._other_bytes + self._uncounted > MAX_HEAD_BYTES:
            refusals.check_head_size(self.url, self.headers)
        refusals.check_host(self.headers, self.parser.get_http_version())
        refusals.check_pipeline(len(self.pipeline))
        super().on_headers_complete()
        self._awaited = "body"
        self._begun = True
        self._deadline = self._limits.deadline()
        self._limits.busy(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._awaited == "headers":  # trailers may not join the headers (RFC 9110, section 6.5.1); nobody reads them
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        if not self.parser.should_upgrade():
            size = len(body)
            if not self._body_bytes:
                self._limits.going_on(self)
            self.newly_read += size
            self._body_bytes += size
            self._other_bytes -= size
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._awaited = "nothing"
            self._limits.going_on(self)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        assert self._answer is not None
        self._answer.flush()
        super().on_response_complete()
        if self._unanswered or self.transport.is_closing():  # the next request has been started, or none will be
            return
        if self._last_words is not None:
            self._write_refusal(self._last_words)
        self._deadline = self._limits.deadline()  # for a body that is no longer wanted
        self._limits.idle(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._answer = AnswerTransport(self.transport)
        cycle.transport = self._answer  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and not self._refused:
            data = self._parse(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its side. After a complete request it may still read the response; else it has gone."""
        running = self._running
        if self._last_words is not None:
            return True  # after the requests before it
        if self._refused or running is None or running.response_complete or running.more_body:
            return False
        if not self.transport.can_write_eof():  # TLS: the event loop closes both sides
            return False
        if self._awaited == "body":  # of a request behind complete ones: it never gets to the application
            self._drop_last_request()
        self.cycle.keep_alive = False
        if not running.response_started:
            assert self._answer is not None
            self._answer.begin(self.loop)
        return True

    def resume_writing(self) -> None:
        self._unread_deadline = None
        super().resume_writing()

    def check(self, passed: float) -> None:
        """Ends the connection if its client is overdue. See `connections.Connection`."""
        if self.transport.is_closing() or self.flow.write_paused:
            if self._unread_deadline is None:
                self._unread_deadline = self._limits.deadline()
            elif self._limits.time > self._unread_deadline:
                self._limits.closing("answer_unread")
                self.transport.abort()
            return
        if self._refused or self._awaited == "nothing":
            return
        holds = self._holds()
        if holds:
            self._deadline += passed
        elif self._unanswered:
            self._deadline += self.newly_read / self._limits.min_body_rate
        if holds or self.newly_read:
            self._limits.going_on(self)
        elif self._unanswered and not self._begun:
            self._limits.stalled(self)
        self._begun = False
        self.newly_read = 0
        self._deadline = min(self._deadline, self._limits.deadline())
        if self._limits.time > self._deadline:
            self._cut_off()

    def turn_away(self) -> None:
        """There are too many connections."""
        self._refuse(TooManyConnections(retry_after=1))

    def abort(self) -> None:
        self.transport.abort()

    def _holds(self) -> bool:
        """Whether the server keeps the client waiting, not the other way round."""
        running, last = self._running, self.cycle
        if not self._unanswered:
            return False
        if self._awaited == "headers" or last is not running:
            return True  # requests before this one are unanswered
        return self.flow.read_paused or bool(last.body) or last.waiting_for_100_continue

    def _cut_off(self) -> None:
        """The client is overdue."""
        if self._awaited == "body":
            self._limits.closing("body_too_slow")
            if self._unanswered:
                rate = f"at least {self._limits.min_body_rate} bytes a second are expected"
                self._refuse(RequestTimeout(part="body", limit=rate))
            else:
                self.transport.abort()
            return
        self._limits.closing("header_timeout")
        if self._other_bytes:
            self._refuse(RequestTimeout(part="headers", limit=f"{self._limits.client_timeout:g} s are allowed"))
        else:
            self.transport.abort()  # a silent client expects no response

    def _await_headers(self, uncounted: int = 0) -> None:
        self._awaited = "headers"
        self._uncounted = uncounted
        self._deadline = self._limits.deadline()
        self.newly_read = self._body_bytes = self._other_bytes = 0

    def _check_sizes(self) -> None:
        """Refuses a request that has too many bytes beside its body, before more of them arrive."""
        if self._other_bytes <= MAX_HEAD_BYTES + self._body_bytes // BODY_PER_FRAMING:
            return
        if self._awaited == "headers":
            self._explain(refusals.head_too_large(self.url))
        elif self._awaited == "body":
            self._explain(refusals.framing_too_large())

    def _parse(self, data: bytes) -> bytes:
        """Parses a piece. Returns what has to be parsed next: after an offer to upgrade, the request without it."""
        if self._awaited == "nothing":
            self._await_headers()
        self._piece = len(data)
        self._other_bytes += self._piece
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() != b"CONNECT":
                request = without_offer(self.parser.get_method(), self.url, self.headers)
                self.parser = httptools.HttpRequestParser(self)
                self._other_bytes = 0  # they are counted again
                return request + data[upgrade.args[0] :]
            # The parser reports it as an upgrade, with or without an offer.
            target = self.url.decode("ascii", "replace")
            self._explain(MethodNotAllowed(path=target, method="CONNECT", allowed="GET, HEAD, POST"))
        except httptools.HttpParserError as error:
            self._explain(refusals.fault_of(error, self.url))
        else:
            self._check_sizes()
        return b""

    def _drop_last_request(self) -> None:
        """Forgets a request that is incomplete and waits behind others."""
        self.pipeline.popleft()
        self.cycle = self.pipeline[0][0] if self.pipeline else self._running  # type: ignore[assignment]

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Tells the application that the client has gone, and discards the response."""
        cycle.disconnected = True
        cycle.message_event.set()

    def _explain(self, fault: Fault) -> None:
        """Refuses a request because of what is in it."""
        if isinstance(fault, HeadersTooLarge):
            self._limits.closing("headers_too_large")
        self._refuse(fault)

    def _refuse(self, fault: Fault) -> None:
        """Reads no more. Answers with a problem document, after the requests before this one, and closes."""
        self._refused = True
        running = self._running
        if running is None or running.response_complete:
            if self._awaited == "body":  # it has been answered
                self.transport.abort()
            else:
                self._write_refusal(fault)
        elif self._awaited == "body" and self.cycle is running:
            if running.response_started:
                self.transport.abort()
            else:
                self._disconnect(running)
                self._write_refusal(fault)
        else:
            if self._awaited == "body":
                self._drop_last_request()
            self._last_words = fault

    def _write_refusal(self, fault: Fault) -> None:
        default_headers = self.server_state.default_headers
        self.transport.write(refusals.response(fault, self._link_prefix, default_headers, self.client))
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        # Closing at once could lose the response: data that the client is still sending would reset the connection.
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)
