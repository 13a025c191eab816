"""Who may call: API keys at the routes that need one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import ClientDisconnect

from service.api.access import CLIENT_LEFT, note
from service.api.problems import status_of
from service.errors import CallClosed, Forbidden, RateLimited, Stopping, TooManyAtOnce, Unauthorized
from service.keys import ANONYMOUS, INVALID, Key, KeyFile, Scope
from service.metrics import Metrics
from service.runtime.faults import Fault
from service.settings import Settings

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# Both only describe, for the OpenAPI document and the Authorize button of /docs.
CREDENTIALS = (
    Security(HTTPBearer(auto_error=False, description="A key of this service.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, in a header of its own.")),
)


class Visit:
    """A call that the guard has let in.

    Attributes:
        http_status: the one it is counted with; the caller sets it once it is known. A fault that passes the guard
            brings its own.
    """

    def __init__(self) -> None:
        self.http_status = 500


class Guard:
    """Lets the holders of keys through, within the limits of their keys.

    Without a keys file, the scopes `classify` and `metrics` are open to everybody and `admin` is closed.

    Serves one event loop. It stands at the route, behind the router: another spelling of a path (a prefix, a slash at
    its end) cannot lead around it. It does not read the body.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises KeysError if the keys file is missing or broken."""
        self._keys = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
        self._anonymous: tuple[Scope, ...] = ("classify",) if settings.anonymous_classify else ()
        self._metrics = metrics

    def require(self, scope: Scope) -> type[APIRoute]:
        """The class of routes whose calls need a key with this scope: `APIRouter(route_class=guard.require("admin"))`.

        A dependency would come too late: FastAPI reads the body first.
        """
        protect = self.protect

        class GuardedRoute(APIRoute):
            def get_route_handler(self) -> Handler:
                return protect(scope, super().get_route_handler())

        return GuardedRoute

    def protect(self, scope: Scope, handler: Handler) -> Handler:
        """The handler behind the guard; the handler itself if everybody may call."""
        if self._keys is None:
            return handler if _open_without_keys(scope) else _closed(scope)

        async def guarded(request: Request) -> Response:
            with self.admit(scope, _tokens(request), functools.partial(note, request)) as visit:
                try:
                    response = await handler(request)
                except RequestValidationError:
                    visit.http_status = 422
                    raise
                except ClientDisconnect:
                    visit.http_status = CLIENT_LEFT
                    raise
                except asyncio.CancelledError:  # the server stops
                    visit.http_status = status_of(Stopping(retry_after=1))
                    raise
                visit.http_status = response.status_code
            return response

        return guarded

    @contextmanager
    def admit(self, scope: Scope, tokens: set[str], note: Callable[..., None]) -> Iterator[Visit]:
        """Lets a call in, over any transport, for the time of the context. Counts it by its key's name and its status.

        Args:
            tokens: the keys that the call carries.
            note: is told the name of the key, as `key`: for the line in the log.

        Raises:
            Unauthorized, Forbidden, CallClosed, RateLimited, TooManyAtOnce
        """
        visit = Visit()
        if self._keys is None:
            if not _open_without_keys(scope):
                raise CallClosed(scope=scope)
            yield visit
            return
        name = INVALID
        try:
            key = self._key(self._keys, tokens, scope)
            name = key.name if key else ANONYMOUS
            if key and scope not in (*key.scopes, *self._anonymous):
                raise Forbidden(key=key.name, scope=scope)
            with key.allowance if key else nullcontext():
                yield visit
        except Fault as fault:
            visit.http_status = status_of(fault)
            if isinstance(fault, Unauthorized) and "error" not in fault.members:
                name = ANONYMOUS
            raise
        finally:
            self._metrics.key_requests.labels(name, visit.http_status).inc()
            note(key=name)

    def credentials(self, scope: Scope) -> Sequence[Security]:
        """The `dependencies` of a route that describe its keys; none if everybody may call."""
        return () if self._keys is None and _open_without_keys(scope) else CREDENTIALS

    def faults(self, scope: Scope) -> tuple[type[Fault], ...]:
        """What the guard of a route may raise."""
        if self._keys is None:
            return () if _open_without_keys(scope) else (CallClosed,)
        return Unauthorized, Forbidden, RateLimited, TooManyAtOnce

    def _key(self, keys: KeyFile, tokens: set[str], scope: Scope) -> Key | None:
        """The key of a request; None for an anonymous one, if such may call. Raises Unauthorized."""
        if not tokens:
            if scope in self._anonymous:
                return None
            raise Unauthorized(reason="The request carries no key")
        if len(tokens) > 1:
            raise Unauthorized(reason="The request carries several keys", error="invalid_token")
        (token,) = tokens
        key = keys.find(token)
        if key is None:
            raise Unauthorized(reason="The service does not know this key", error="invalid_token")
        return key


def tokens_of(authorizations: Iterable[str], api_keys: Iterable[str]) -> set[str]:
    """The keys that a request carries: as Bearer (RFC 6750, section 2.1) or as X-API-Key.

    Other schemes of Authorization are a proxy's business.

    Args:
        authorizations, api_keys: the values of these headers.
    """
    tokens = {token.strip() for token in api_keys}
    for value in authorizations:
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            tokens.add(token.strip())
    return tokens


def _tokens(request: Request) -> set[str]:
    return tokens_of(request.headers.getlist("authorization"), request.headers.getlist("x-api-key"))


def _open_without_keys(scope: Scope) -> bool:
    return scope != "admin"


def _closed(scope: Scope) -> Handler:
    async def closed(request: Request) -> Response:
        raise CallClosed(scope=scope)

    return closed
