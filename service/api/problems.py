"""Problem documents: every error response of the service, and the pages their `type` points to."""

from __future__ import annotations

import logging
import re

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.errors import (
    InternalError,
    InvalidParameter,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    problem_types,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def response(request: Request, problem: Problem) -> JSONResponse:
    # in a mounted application the root path is that of the mount
    document = problem.document(request.scope.get("app_root_path", request.scope.get("root_path", "")))
    return JSONResponse(document, problem.status, problem.headers, media_type=MEDIA_TYPE)


def responses(*problems: type[Problem]) -> dict[int | str, dict[str, object]]:
    """The OpenAPI `responses` of an operation that can end in these problems."""
    by_status: dict[int | str, dict[str, object]] = {}
    for problem in sorted(problems, key=lambda cls: cls.status):
        described = by_status.setdefault(
            problem.status,
            # The schema is that of `ImageResult.error`; `model=` would claim that it is sent as application/json.
            {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, "description": ""},
        )
        described["description"] = f"{described['description']}; {problem.title}".removeprefix("; ")
    return by_status


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem document, and none of a slash behind a path."""
    not_found = app.router.default

    async def without_slash(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path and path != scope["path"]:
            await app.router({**scope, "path": path}, receive, send)
        else:
            await not_found(scope, receive, send)

    # Not a redirect: clients that post do not follow it, and behind a proxy its address may be wrong.
    app.router.redirect_slashes = False
    app.router.default = without_slash

    @app.exception_handler(Problem)
    async def known(request: Request, problem: Problem) -> JSONResponse:
        return response(request, problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        parameter = str(first["loc"][-1])
        return response(request, InvalidParameter(parameter=parameter, value=str(first["input"]), reason=first["msg"]))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        if error.status_code == 404:
            return response(request, NotFound(path=path))
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return response(request, MethodNotAllowed(path=path, method=request.method, allowed=allowed))
        return response(request, MalformedRequest(reason=error.detail))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return response(request, InternalError())  # starlette logs the traceback and keeps it from the client


def router() -> APIRouter:
    """`GET /problems/{slug}`: what the `type` of a problem document resolves to."""
    routes = APIRouter(tags=["problems"])
    pages = {problem.slug: problem for problem in problem_types()}

    @routes.get("/problems/{slug}", response_class=PlainTextResponse, summary="What a problem means")
    async def page(slug: str) -> PlainTextResponse:
        if slug not in pages:
            raise NotFound(path=f"/problems/{slug}")
        problem = pages[slug]
        text = f"{problem.title} (HTTP status {problem.status})\n\n{problem.detail}\n\nRemedy: {problem.remedy}\n"
        return PlainTextResponse(re.sub(r"\{\w+\}", "…", text))

    return routes
