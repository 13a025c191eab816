"""Requests that make a load, and what became of those that were not answered as they should be."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_ANSWER = "no answer"
PROBLEM_BYTES = 4096  # of an answer that are looked at for its problem


class Upload(NamedTuple):
    """A body to send, and the status that its answer should have."""

    body: bytes
    content_type: str = "image/jpeg"
    status: int = 200


def post(
    url: str, body: bytes, content_type: str, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[tuple[str, int], bytes]:
    """The address of a POST request (host, port), and its bytes.

    Args:
        headers: further ones.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    )
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    return (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), head.encode() + body


def tls(url: str) -> ssl.SSLContext | None:
    """How to connect to the address; None without TLS."""
    return ssl.create_default_context() if urlsplit(url).scheme == "https" else None


def refusal(status: int, body: bytes) -> str:
    """Names an answer that should have been another: `503 overloaded`, by its problem document (RFC 9457) if any.

    Args:
        status: 0 if the connection broke.
    """
    if not status:
        return NO_ANSWER
    try:
        slug = str(json.loads(body)["type"]).rpartition("/")[2]
    except (ValueError, KeyError, TypeError):
        slug = ""
    return f"{status} {slug}".rstrip()


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % are no larger than; NaN of none."""
    if not ascending:
        return float("nan")
    return ascending[max(0, -int(-len(ascending) * percent // 100) - 1)]
