"""Faults as HTTP sees them: statuses, problem documents (RFC 9457), and the pages their `type` points to."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service import errors, json_faults, request_ids, upload_faults
from service.api.access import handler_of, note
from service.errors import InternalError, InvalidParameter, MalformedRequest, MethodNotAllowed, NotFound, fault_types
from service.runtime import faults
from service.runtime.faults import Fault

log = logging.getLogger(__name__)

Form = Callable[[Request, Fault], Response]  # makes the answer to a fault

MEDIA_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="resnet"'  # how clients prove who they are (RFC 6750, section 3)

STATUS: dict[type[Fault], int] = {
    # one image
    faults.EmptyImage: 400,
    faults.TooManyPixels: 413,
    faults.TooComplexImage: 422,
    faults.UnsupportedImageFormat: 415,
    faults.NotAnImage: 422,
    faults.TruncatedImage: 422,
    faults.CorruptImage: 422,
    upload_faults.ImageTooLarge: 413,
    upload_faults.TooMuchMemory: 413,
    upload_faults.FormAsImage: 422,
    upload_faults.FileNameAsImage: 422,
    upload_faults.TextEncodedImage: 422,
    # the whole request
    errors.UnreadableRequest: 400,
    errors.MalformedRequest: 400,
    errors.RepeatedHeader: 400,
    errors.NoImage: 400,
    errors.SeveralImages: 400,
    json_faults.MalformedJson: 400,
    json_faults.NotBase64: 422,
    json_faults.AddressAsImage: 422,
    errors.NotExplainable: 422,
    errors.AmbiguousModel: 400,
    errors.ModelNotNamed: 400,
    errors.UnknownModel: 404,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTooLarge: 413,
    errors.RequestNeedsTooMuchMemory: 413,
    errors.TooManyImages: 413,
    errors.AddressTooLong: 414,
    errors.HeadersTooLarge: 431,
    errors.RequestTimeout: 408,
    errors.UnsupportedMediaType: 415,
    errors.UnsupportedEncoding: 415,
    errors.InvalidParameter: 422,
    errors.UnknownParameter: 422,
    # who may call
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.CallClosed: 403,
    errors.RateLimited: 429,
    errors.TooManyAtOnce: 429,
    # the server
    errors.InternalError: 500,
    errors.ComputationFailed: 503,
    errors.ModelFailed: 503,
    errors.ModelNotReady: 503,
    errors.MemoryExhausted: 503,
    errors.TooManyConnections: 503,
    errors.Stopping: 503,
    errors.Overloaded: 503,
    errors.DeadlineMissed: 504,
}


# What may become of any call: its request does not get to the application, or the application fails by accident.
OF_ANY_CALL: tuple[type[Fault], ...] = (
    errors.UnreadableRequest,
    errors.RequestTimeout,
    errors.AddressTooLong,
    errors.HeadersTooLarge,
    errors.InternalError,
    errors.TooManyConnections,
)


def status_of(fault: Fault) -> int:
    return STATUS[type(fault)]


def headers_of(fault: Fault) -> dict[str, str]:
    """The response headers that belong to a fault."""
    if isinstance(fault, errors.RetryLater | errors.RateLimited):
        return {"Retry-After": str(fault.members["retry_after"])}
    if isinstance(fault, errors.MethodNotAllowed):
        return {"Allow": str(fault.members["allowed"])}
    if isinstance(fault, errors.Unauthorized):
        error = fault.members.get("error")
        return {"WWW-Authenticate": f'{CHALLENGE}, error="{error}"' if error else CHALLENGE}
    if isinstance(fault, errors.Forbidden):
        return {"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{fault.members["scope"]}"'}
    return {}


def document(fault: Fault, root_path: str = "", request_id: str = "") -> dict[str, object]:
    """The members of the problem document.

    Args:
        root_path: the prefix under which clients see the service.
        request_id: by default that of the request that this task belongs to.
    """
    return {
        "type": f"{root_path}/problems/{fault.slug}",
        "title": fault.title,
        "status": status_of(fault),
        "detail": str(fault),
        "remedy": fault.advice(),
        "request_id": request_id or request_ids.current(),
        **fault.members,
    }


def response(request: Request, fault: Fault) -> JSONResponse:
    # Inside a mounted application, `root_path` is the mount's.
    root_path = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    note(request, problem=fault.slug)
    return JSONResponse(document(fault, root_path), status_of(fault), headers_of(fault), media_type=MEDIA_TYPE)


def responses(*types: type[Fault]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of an operation that can end in these faults, besides those of any call.

    `documentation` has the examples that they name.
    """
    by_status: dict[int | str, dict[str, Any]] = {}
    for cls in sorted((*types, *OF_ANY_CALL), key=lambda cls: STATUS[cls]):
        described = by_status.setdefault(
            STATUS[cls],
            # A reference to the schema of `ImageResult.error`: FastAPI's `model=` would declare application/json.
            {
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
                "description": "",
            },
        )
        described["description"] = f"{described['description']}; {cls.title}".removeprefix("; ")
        described["content"][MEDIA_TYPE]["examples"][cls.slug] = {"$ref": f"#/components/examples/{cls.slug}"}
    return by_status


def install(app: FastAPI, forms: Mapping[str, Form] | None = None) -> None:
    """Answers every error with a problem document, and a path with a trailing slash as without it.

    Args:
        forms: what answers instead under paths with these first parts: other protocols have errors of another form.
    """
    not_found = app.router.default

    async def without_slash(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path and path != scope["path"]:
            await app.router({**scope, "path": path}, receive, send)
        else:
            await not_found(scope, receive, send)

    # Instead of a redirect, which clients do not follow for POST and whose address may be wrong behind a proxy.
    app.router.redirect_slashes = False
    app.router.default = without_slash

    def formed(request: Request, fault: Fault) -> Response:
        return (forms or {}).get(handler_of(request.scope), response)(request, fault)

    @app.exception_handler(Fault)
    async def known(request: Request, fault: Fault) -> Response:
        return formed(request, fault)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        parameter = str(first["loc"][-1])
        return formed(request, InvalidParameter(parameter=parameter, value=str(first["input"]), reason=first["msg"]))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            return formed(request, NotFound(path=path))
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return formed(request, MethodNotAllowed(path=path, method=request.method, allowed=allowed))
        return formed(request, MalformedRequest(reason=error.detail))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        answer = formed(request, InternalError())  # starlette logs the traceback
        answer.headers[request_ids.HEADER] = request_ids.current()  # this one passes no middleware
        return answer


def router() -> APIRouter:
    """`GET /problems/{slug}`: the page that the `type` of a problem document points to."""
    routes = APIRouter(tags=["problems"])
    pages = {cls.slug: cls for cls in fault_types()}

    @routes.get(
        "/problems/{slug}",
        response_class=PlainTextResponse,
        responses=responses(NotFound),
        summary="What a problem means",
    )
    async def page(slug: str) -> PlainTextResponse:
        if slug not in pages:
            raise NotFound(path=f"/problems/{slug}")
        fault = pages[slug]
        text = f"{fault.title} (HTTP status {STATUS[fault]})\n\n{fault.detail}\n\nRemedy: {fault.remedy}\n"
        return PlainTextResponse(re.sub(r"\{\w+\}", "…", text))

    return routes
