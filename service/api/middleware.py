"""What stands before the application: proxies that are trusted, and HEAD."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?")


class Forwarded:
    """The address that clients see: a prefix that is set, and what trusted proxies say in X-Forwarded-Proto, -Host and
    -Prefix.

    Of a list, which several proxies have made, the first counts. Whoever is not a trusted proxy is not believed, nor is
    a value that cannot be an address.

    Args:
        root_path: the prefix where no proxy says one. Proxies may strip it from the path or not.
        trusted: addresses or networks of proxies.
    """

    def __init__(
        self, app: ASGIApp, root_path: str, trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path
        if self._is_trusted(scope["client"]):
            headers = Headers(scope=scope)
            scheme, host, prefix = (
                headers.get(f"x-forwarded-{name}", "").partition(",")[0].strip() for name in ("proto", "host", "prefix")
            )
            if scheme.lower() in ("http", "https"):
                scope["scheme"] = scheme.lower()
            if HOST.fullmatch(host):
                MutableHeaders(scope=scope)["host"] = host
            if PREFIX.fullmatch(prefix.rstrip("/")):
                scope["root_path"] = prefix.rstrip("/")
        await self._app(scope, receive, send)

    def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:  # a Unix socket
            return False
        return any(address in network for network in self._trusted)


class Head:
    """Answers HEAD as GET, without the body (RFC 9110, section 9.3.2): monitors ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
