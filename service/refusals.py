"""Why a request is refused before the application sees it, and the response that says so."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service import request_ids
from service.api import access
from service.api.problems import MEDIA_TYPE, document, headers_of, status_of
from service.errors import AddressTooLong, HeadersTooLarge, UnreadableRequest
from service.runtime.faults import Fault

Headers = Sequence[tuple[bytes, bytes]]

MAX_URL_BYTES = 65535  # the parser's limit
MAX_HEAD_BYTES = 2**16  # request line and headers; also what frames a chunked body: sizes, extensions, trailers
MOST_PIPELINED = 16  # requests that wait on one connection for the answers before them; clients rarely send any ahead
BODY_PER_FRAMING = 8  # bytes of body that allow one more byte of framing: chunks of 48 bytes pass, of one byte do not

# Plain words for the parser's errors. (first words of the error, reason)
REASONS = (
    ("User callback error", "its URL cannot be read"),
    ("Invalid char in url", "its URL contains characters that must be percent-encoded"),
    ("Expected HTTP/", "its URL contains a space, which must be percent-encoded, or no HTTP version follows it"),
    ("Invalid method", "it does not start with a method (this port speaks HTTP, not HTTPS)"),
    ("Pause on PRI", "this server does not speak HTTP/2"),
    ("Request has invalid `Transfer-Encoding`", "its Transfer-Encoding does not end in chunked"),
)
HOST = re.compile(rb"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")


def fault_of(error: Exception, url: bytes) -> Fault:
    """The fault behind an error of the parser. `url` is as much of it as has been read."""
    if isinstance(error.__context__, Fault):  # raised in one of the parser's callbacks
        return error.__context__
    if len(url) > MAX_URL_BYTES:
        return AddressTooLong(bytes=len(url), max_bytes=MAX_URL_BYTES)
    message = str(error)
    return UnreadableRequest(reason=next((reason for start, reason in REASONS if message.startswith(start)), message))


def head_too_large(url: bytes) -> Fault:
    """The fault of a request line and headers of more than `MAX_HEAD_BYTES`."""
    if len(url) > MAX_URL_BYTES:
        return AddressTooLong(bytes=len(url), max_bytes=MAX_URL_BYTES)
    return HeadersTooLarge(max_bytes=MAX_HEAD_BYTES, part="request line and headers")


def framing_too_large() -> Fault:
    """The fault of a chunked body whose chunks are tiny, or whose extensions or trailers are long."""
    return HeadersTooLarge(max_bytes=MAX_HEAD_BYTES, part="chunk sizes, chunk extensions and trailers")


def check_head_size(url: bytes, headers: Headers) -> None:
    """Raises HeadersTooLarge, AddressTooLong."""
    if len(url) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers) > MAX_HEAD_BYTES:
        raise head_too_large(url)


def check_pipeline(waiting: int) -> None:
    """Raises UnreadableRequest if more requests than `MOST_PIPELINED` wait on a connection."""
    if waiting >= MOST_PIPELINED:
        raise UnreadableRequest(reason=f"more than {MOST_PIPELINED} requests were sent ahead of their answers")


def check_host(headers: Headers, http_version: str) -> None:
    """Exactly one Host, and a valid one (RFC 9112, section 3.2). Raises UnreadableRequest."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise UnreadableRequest(reason="it has more than one header Host")
    if hosts:
        if not _is_host(hosts[0]):
            raise UnreadableRequest(reason="its header Host is not a host")
    elif http_version == "1.1":
        raise UnreadableRequest(reason="it has no header Host")


def _is_host(value: bytes) -> bool:
    match = HOST.fullmatch(value)
    if match and match["ip"]:
        try:
            ipaddress.IPv6Address(match["ip"].decode())
        except ValueError:
            return False
    return match is not None


def response(fault: Fault, root_path: str, default_headers: Headers, client: tuple[str, int] | None) -> bytes:
    """A whole response: a problem document, after which the connection closes. Also logs it."""
    request_id = request_ids.new_id()
    access.refused(fault, request_id, client)
    body = json.dumps(document(fault, root_path, request_id)).encode()
    headers = [
        *default_headers,
        (request_ids.HEADER.lower().encode(), request_id.encode()),
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in headers_of(fault).items()),
    ]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[status_of(fault)] + lines + b"\r\n" + body
