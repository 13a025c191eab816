"""uvicorn's HTTP protocol, for offers of an upgrade that is not taken."""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

OFFER = {b"upgrade", b"http2-settings", b"connection"}


class Protocol(HttpToolsProtocol):
    """Reads a request that offers an upgrade as if it had not: a server may ignore the offer (RFC 9110, section 7.8).

    Java's HttpClient and `curl --http2` offer HTTP/2 with their first request. The parser takes all that follows its
    headers for the other protocol, so that the body would be lost: it is read again, without the offer.
    """

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
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            request = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
            for name, value in self.headers:
                if name not in OFFER:
                    request += [name, b": ", value, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            super().data_received(b"".join(request) + b"\r\n" + rest)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
