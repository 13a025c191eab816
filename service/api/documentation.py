"""The OpenAPI document, and `GET /docs`: Swagger UI over it, which works without the internet."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service.api import problems
from service.api.problem_examples import FAULTS
from service.model_repository import Repository
from service.runtime.faults import TruncatedImage

STATIC = Path(__file__).parent.parent / "static"
REQUEST_ID = "5f0b6f2c1d9e4a7f8b3c6d2e1a0f9b8c"  # of the examples
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def content_security_policy(page: str) -> str:
    """A policy (CSP level 3) that allows the page its own scripts and this service, and nothing else."""
    digests = (b64encode(sha256(script.encode()).digest()).decode() for script in INLINE_SCRIPT.findall(page))
    scripts = " ".join(("'self'", *(f"'sha256-{digest}'" for digest in digests)))
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def install(app: FastAPI, repository: Repository) -> None:
    """Adds `/docs` and what the page loads, and corrects the document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _without_validation_errors(document)
        _add_examples(document)
        classes = max((model.card.architecture.num_classes for model in repository.models), default=1)
        for path in ("/classify", "/explain"):
            _limit_top_k(document["paths"][path]["post"], classes)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/static/swagger-ui.css",
            swagger_favicon_url=f"{root}/static/favicon-32x32.png",
        )
        page.headers["Content-Security-Policy"] = content_security_policy(bytes(page.body).decode())
        return page


def _without_validation_errors(document: dict[str, Any]) -> None:
    """Removes FastAPI's own validation errors: a path parameter is a string, which is always valid."""
    for path in document["paths"].values():
        for operation in path.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_examples(document: dict[str, Any]) -> None:
    """Adds a problem document of each fault: `problems.responses` refers to them."""
    examples = {
        fault.slug: {"summary": fault.title, "value": problems.document(fault, request_id=REQUEST_ID)}
        for fault in FAULTS
    }
    document["components"]["examples"] = examples
    document["components"]["schemas"]["Problem"]["examples"] = [examples[TruncatedImage.slug]["value"]]


def _limit_top_k(operation: dict[str, Any], classes: int) -> None:
    """Bounds `top_k` of query, form and JSON by the most classes that a model has now."""
    (query,) = (parameter["schema"] for parameter in operation["parameters"] if parameter["name"] == "top_k")
    form, json = (
        operation["requestBody"]["content"][content_type]["schema"]
        for content_type in ("multipart/form-data", "application/json")
    )
    of_json = [kind["properties"]["top_k"] for kind in json["oneOf"]]
    for schema in (query, form["patternProperties"]["^top_k$"], *of_json):
        schema["maximum"] = classes
