"""uvicorn's HTTP protocol, for what it leaves open: offers of an upgrade, half-closed connections, bad requests."""

from __future__ import annotations

import asyncio
import json
import socket

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import AddressTooLong, MethodNotAllowed, Problem, UnreadableRequest

OFFER = {b"upgrade", b"http2-settings", b"connection"}
LONGEST_URL = 65535  # bytes that the parser takes
BEGINNING = b"HTTP/1.1 "  # of every answer
LOOK_EVERY = 0.05  # seconds, at a client that has half-closed
LINGER = 2.0  # seconds in which a refused client may read why

# What the parser says, where it is not plain. (what it begins with; in our words)
WORDS = (
    ("User callback error", "its URL cannot be read"),
    ("Invalid char in url", "its URL holds characters that must be percent-encoded"),
    ("Expected HTTP/", "its URL holds a blank, which must be percent-encoded, or no HTTP version follows it"),
    ("Invalid method", "it does not begin with a method (TLS is not spoken here: is the address one of https?)"),
    ("Pause on PRI", "HTTP/2 is not spoken here"),
    ("Request has invalid `Transfer-Encoding`", "its Transfer-Encoding does not end in chunked"),
)


class Begun:
    """The transport of an answer of which the `BEGINNING` has been sent."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._sent = len(BEGINNING)
        self._transport = transport
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        self._transport.write(data[self._sent :])
        self._sent = 0


class Protocol(HttpToolsProtocol):
    """Reads a request that offers an upgrade as if it had not: a server may ignore the offer (RFC 9110, section 7.8).

    Java's HttpClient and `curl --http2` offer HTTP/2 with their first request. The parser takes all that follows its
    headers for the other protocol, so that the body would be lost: it is read again, without the offer.

    A client may close its side of the connection once it has sent a request: it is answered all the same. Requests that
    cannot be read are answered with a problem document, too.
    """

    url = b""
    _refused = False

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":  # for which the parser tells of an upgrade without any offer
                target = self.url.decode("ascii", "replace")
                self._refuse(MethodNotAllowed(path=target, method="CONNECT", allowed="GET, HEAD, POST"))
            else:
                self._read_again(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if len(self.url) > LONGEST_URL:
                self._refuse(AddressTooLong(bytes=len(self.url), max_bytes=LONGEST_URL))
            else:
                said = str(error)
                reason = next((words for beginning, words in WORDS if said.startswith(beginning)), said)
                self._refuse(UnreadableRequest(reason=reason))

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Whoever has sent a whole request may still read; everyone else has gone."""
        cycle = self.cycle
        if self._refused or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        if not self.pipeline and not cycle.response_started:
            # Half a close looks like a whole one, but whoever has closed it all rejects what is sent.
            self.transport.write(BEGINNING)
            cycle.transport = Begun(self.transport)  # type: ignore[assignment]
            self._look_whether_it_is_there()
        return True

    def _look_whether_it_is_there(self) -> None:
        """Until it is answered. Nothing is read any more, which would tell that the client has gone."""
        if self.transport.is_closing():
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(LOOK_EVERY, self._look_whether_it_is_there)

    def _read_again(self, rest: bytes) -> None:
        """The request that has been read so far without its offer, then the rest."""
        request = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in OFFER:
                request += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(request) + b"\r\n" + rest)

    def _refuse(self, problem: Problem) -> None:
        """Answers with a problem and ends the connection."""
        self.logger.warning("%s", problem)
        self._refused = True
        body = json.dumps(problem.document()).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # this is the answer
            self.cycle.message_event.set()
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        if self.pipeline or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed at once, the connection would be reset by what the client still sends, and the answer might be lost.
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)
