"""`POST /invocations`: what Amazon SageMaker sends to a container; `GET /ping` is in `torchserve`.

Sources, in the SageMaker AI developer guide: "Custom Inference Code with Hosting Services" (the two paths) and "Image
Classification - MXNet" (what the built-in algorithm is sent, and what it answers: the probabilities of all classes).
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from service.api.dialects.calls import classified
from service.api.dialects.tensorflow_serving import predict
from service.api.forms import media_type
from service.api.guard import Guard
from service.api.intake import Intake, served
from service.api.json_images import JSON_TYPE
from service.api.parameters import KNOWN
from service.api.results import Wanted, answered, by_class, server_timing
from service.metrics import Metrics

LINES = "application/jsonlines"


def router(intake: Intake, metrics: Metrics, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        if media_type(request.headers.get("content-type", "")) == JSON_TYPE:
            return await predict(intake, request, KNOWN, None)
        wanted, answers = await classified(intake, request, KNOWN, Wanted.by_or_all, one=True)
        (only,) = answers
        prediction = answered(only, wanted) if wanted.narrowed else by_class(only.top)
        if media_type(request.headers.get("accept", "")) == LINES:
            body, content_type = to_json({"prediction": prediction}) + b"\n", LINES
        else:
            body, content_type = to_json(prediction), JSON_TYPE
        return Response(body, media_type=content_type, headers=server_timing(answers))

    routes = APIRouter()
    routes.add_route("/invocations", served(answer, guard, metrics), ["POST"])
    return routes
