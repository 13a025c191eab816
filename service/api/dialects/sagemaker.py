"""`POST /invocations`: what Amazon SageMaker sends to a container; `GET /ping` is in `torchserve`.

Sources, in the SageMaker AI developer guide: "Custom Inference Code with Hosting Services" (the two paths) and "Image
Classification - MXNet" (what the built-in algorithm is sent, and what it answers: the probabilities of all classes).
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from service.api.classification import Classification, server_timing
from service.api.dialects.tensorflow_serving import predict
from service.api.forms import media_type
from service.api.json_images import JSON_TYPE
from service.api.parameters import KNOWN
from service.api.results import by_class, entry

LINES = "application/jsonlines"


def router(classification: Classification) -> APIRouter:
    async def answer(request: Request) -> Response:
        if media_type(request.headers.get("content-type", "")) == JSON_TYPE:
            return await predict(classification, request, KNOWN, None)
        found = await classification.answer(request, KNOWN, by_default_all=True)
        one = found.only()
        prediction = entry(None, one, found.wanted) if found.wanted.narrowed else by_class(one.top)
        if media_type(request.headers.get("accept", "")) == LINES:
            body, content_type = to_json({"prediction": prediction}) + b"\n", LINES
        else:
            body, content_type = to_json(prediction), JSON_TYPE
        return Response(body, media_type=content_type, headers=server_timing([one]))

    routes = APIRouter()
    routes.add_route("/invocations", classification.protected(answer), ["POST"])
    return routes
