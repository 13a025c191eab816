"""TorchServe's inference API, as its handler `image_classifier` answers it.

Sources: pytorch/serve, docs/inference_api.md (`POST /predictions/{name}[/{version}]`, `GET /ping`),
ts/torch_handler/image_classifier.py (the five best classes, `{label: probability}`) and
frontend/server/src/main/java/org/pytorch/serve/http/ErrorResponse.java (`code`, `type`, `message`).
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from service.api.dialects.calls import classified, message
from service.api.guard import Guard
from service.api.intake import Intake, served
from service.api.problems import status_of
from service.api.results import Wanted, by_label, server_timing
from service.metrics import Metrics
from service.runtime.faults import Fault

KNOWN = ("top_k", "labels")

# By status; any other is the client's mistake.
TYPES = {
    404: "ModelNotFoundException",
    413: "RequestEntityTooLargeException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
    504: "ServiceUnavailableException",
}


def error(fault: Fault) -> dict[str, object]:
    """An error as TorchServe says it."""
    status = status_of(fault)
    return {"code": status, "type": TYPES.get(status, "BadRequestException"), "message": message(fault)}


def named_by(request: Request) -> str:
    """The model that the path names. TorchServe counts versions as 1.0, 2.0."""
    name, version = request.path_params["name"], request.path_params.get("version")
    return f"{name}@{version.removesuffix('.0')}" if version else str(name)


def router(intake: Intake, metrics: Metrics, guard: Guard, ready: Callable[[], bool]) -> APIRouter:
    """`ready`: as of `health.router`."""

    async def answer(request: Request) -> Response:
        wanted, answers = await classified(intake, request, KNOWN, Wanted.by, model=named_by(request), one=True)
        body = to_json(by_label(answers[0], wanted))
        return Response(body, media_type="application/json", headers=server_timing(answers))

    async def ping(request: Request) -> Response:
        """SageMaker reads the status, TorchServe's clients the body."""
        return JSONResponse({"status": "Healthy"}) if ready() else JSONResponse({"status": "Unhealthy"}, 503)

    routes = APIRouter()
    for path in ("/predictions/{name}", "/predictions/{name}/{version}"):
        # `curl -T photo.jpg` of TorchServe's examples is a PUT.
        routes.add_route(path, served(answer, guard, metrics), ["POST", "PUT"])
    routes.add_route("/ping", ping, ["GET"])
    return routes
