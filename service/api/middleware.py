"""ASGI middleware: scheme and prefix as trusted proxies forward them, and HEAD requests."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Forwarded:
    """Sets the scheme and the prefix that clients see, from X-Forwarded-Proto and -Prefix of trusted proxies.

    Of several values in one header, the first counts. Headers of other clients and invalid values are ignored. Host
    and port make no difference: every link is a path.

    Args:
        root_path: the prefix if no proxy sends one. Proxies may or may not strip it from the path.
        trusted: the networks of trusted proxies.
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
            scheme, prefix = (
                headers.get(f"x-forwarded-{name}", "").partition(",")[0].strip() for name in ("proto", "prefix")
            )
            if scheme.lower() in ("http", "https"):
                scope["scheme"] = scheme.lower()
            if PREFIX.fullmatch(prefix.rstrip("/")):
                scope["root_path"] = prefix.rstrip("/")
        if scope["path"] == scope["root_path"]:
            scope["path"] += "/"  # the router would see an empty path, and know none
        await self._app(scope, receive, send)

    def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:  # a Unix socket
            return False
        return any(address in network for network in self._trusted)


class Head:
    """Answers HEAD like GET, without the body (RFC 9110, section 9.3.2). Monitors use it."""

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
