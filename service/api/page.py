"""`GET /`: a page for people, in service/static/page; for programs, where things are."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from service.api.documentation import STATIC
from service.api.problems import responses

# The page loads everything from this service. The user's pictures are drawn on canvases, which no policy concerns.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HERE = '"./'  # how the page's addresses begin; seen from a proxy's /prefix without a slash, they would be wrong


def router(places: Mapping[str, str]) -> APIRouter:
    """
    Args:
        places: what there is, and its path, with the method if that is not GET.
    """
    routes = APIRouter(tags=["operations"])
    page = (STATIC / "page" / "index.html").read_text("utf-8")

    @routes.get(
        "/",
        response_model=dict[str, str],
        responses={
            200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The places, or the page."},
            **responses(),
        },
        summary="Where things are; for browsers, a page to try the models",
    )
    async def front(request: Request) -> Response:
        """An address for each thing, as JSON. Clients whose Accept header names text/html get the page."""
        root = request.scope.get("root_path", "")
        if not prefers_html(request.headers.getlist("accept")):
            found = {name: place.replace("/", f"{root}/", 1) for name, place in places.items()}
            return JSONResponse(found, headers={"Vary": "Accept"})
        html = page.replace(HERE, f'"{root}/')  # a prefix has no characters that HTML knows (settings, Forwarded)
        return HTMLResponse(html, headers={"Vary": "Accept", "Content-Security-Policy": CONTENT_SECURITY_POLICY})

    return routes


def prefers_html(accept: list[str]) -> bool:
    """Whether a client asks for HTML by its name, and not rather for JSON (RFC 9110, section 12.5.1).

    `*/*`, which curl sends, names nothing.
    """
    weights = {"text/html": 0.0, "application/json": 0.0}
    for media_range in ",".join(accept).split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in weights:
            weights[name] = _weight(parameters)
    return 0 < weights["text/html"] >= weights["application/json"]


def _weight(parameters: list[str]) -> float:
    """1 unless `q` says otherwise; 0 if it says nothing that can be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
