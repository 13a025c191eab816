"""Requests that offer another protocol: what is left of them without the offer.

A server may ignore an offer to upgrade (RFC 9110, section 7.8). Java's HttpClient and `curl --http2` offer HTTP/2 with
their first request.
"""

from __future__ import annotations

from collections.abc import Sequence

HEADERS = {b"upgrade", b"http2-settings", b"connection"}


def without_offer(method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The request line and headers as bytes, without those that make the offer."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in HEADERS]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, url, b"".join(lines))
