"""uvicorn's HTTP protocol, extended for upgrade offers, half-closed connections and unreadable requests."""

from __future__ import annotations

import asyncio
import json
import socket

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import MEDIA_TYPE, document, headers_of, status_of
from service.errors import AddressTooLong, MethodNotAllowed, UnreadableRequest
from service.runtime.faults import Fault

UPGRADE_HEADERS = {b"upgrade", b"http2-settings", b"connection"}
MAX_URL_BYTES = 65535  # the parser's limit
STATUS_PREFIX = b"HTTP/1.1 "  # the first bytes of every response
PROBE_INTERVAL_S = 0.05  # between checks that a half-closed client is still there
LINGER_S = 2.0  # for a refused client to read why

# Plain words for the parser's errors. (first words of the error, reason)
REASONS = (
    ("User callback error", "its URL cannot be read"),
    ("Invalid char in url", "its URL contains characters that must be percent-encoded"),
    ("Expected HTTP/", "its URL contains a space, which must be percent-encoded, or no HTTP version follows it"),
    ("Invalid method", "it does not start with a method (this port speaks HTTP, not HTTPS)"),
    ("Pause on PRI", "this server does not speak HTTP/2"),
    ("Request has invalid `Transfer-Encoding`", "its Transfer-Encoding does not end in chunked"),
)


class StartedTransport:
    """A transport for a response whose `STATUS_PREFIX` has already been sent."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._sent = len(STATUS_PREFIX)
        self._transport = transport
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        self._transport.write(data[self._sent :])
        self._sent = 0


class Protocol(HttpToolsProtocol):
    """Ignores upgrade offers, answers half-closed connections, and explains why a request cannot be read.

    A server may ignore an offer to upgrade (RFC 9110, section 7.8). Java's HttpClient and `curl --http2` offer HTTP/2
    with their first request. The parser takes everything after its headers for the other protocol and would lose the
    body, so the request is parsed again without the offer.

    A client may close its side of the connection after sending a request, and still gets its response. An unreadable
    request is answered with a problem document.
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
            if self.parser.get_method() == b"CONNECT":  # the parser reports it as an upgrade, with or without an offer
                target = self.url.decode("ascii", "replace")
                self._refuse(MethodNotAllowed(path=target, method="CONNECT", allowed="GET, HEAD, POST"))
            else:
                self._parse_without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if len(self.url) > MAX_URL_BYTES:
                self._refuse(AddressTooLong(bytes=len(self.url), max_bytes=MAX_URL_BYTES))
            else:
                message = str(error)
                reason = next((reason for start, reason in REASONS if message.startswith(start)), message)
                self._refuse(UnreadableRequest(reason=reason))

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its side. After a complete request it may still read the response; else it has gone."""
        cycle = self.cycle
        if self._refused or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        if not self.transport.can_write_eof():  # TLS: the event loop closes both sides
            return False
        cycle.keep_alive = False
        if not self.pipeline and not cycle.response_started:
            # A full close looks the same, but then the client's system rejects whatever is sent: send the prefix.
            self.transport.write(STATUS_PREFIX)
            cycle.transport = StartedTransport(self.transport)  # type: ignore[assignment]
            self._probe_client()
        return True

    def _probe_client(self) -> None:
        """Aborts the connection once the client has gone. asyncio would notice only while reading, which has ended."""
        if self.transport.is_closing():
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(PROBE_INTERVAL_S, self._probe_client)

    def _parse_without_offer(self, rest: bytes) -> None:
        """Parses the request line and headers again without the offer, then the rest of the data."""
        request = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in UPGRADE_HEADERS:
                request += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(request) + b"\r\n" + rest)

    def _refuse(self, fault: Fault) -> None:
        """Answers with a problem document and closes the connection."""
        self.logger.warning("%s", fault)
        self._refused = True
        body = json.dumps(document(fault)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.encode(), value.encode()) for name, value in headers_of(fault).items()),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # discard the response of the application
            self.cycle.message_event.set()
        self.transport.write(STATUS_LINE[status_of(fault)] + lines + b"\r\n" + body)
        if self.pipeline or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing at once could lose the response: data that the client is still sending would reset the connection.
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
