"""`POST /classify`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic_core import to_json

from service.api import problems, schema
from service.api.classification import Classification, server_timing
from service.api.guard import Guard
from service.api.intake import FAULTS, request_body, route_of
from service.api.parameters import KNOWN, SCHEMAS, TIMEOUT_HEADER, Parameters, Timeout
from service.api.results import entry
from service.errors import ServerFault
from service.metrics import Metrics
from service.pipeline import Classified
from service.runtime.faults import Fault
from service.settings import Settings


def router(classification: Classification, settings: Settings, metrics: Metrics, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        model, engine, wanted, uploads, answers = await classification.answer(request, KNOWN)
        if isinstance(answers[0], Fault) and (len(answers) == 1 or all(isinstance(a, ServerFault) for a in answers)):
            raise answers[0]  # the status of the only image, or the server's fault for all of them
        if any(isinstance(answer, ServerFault) for answer in answers):
            metrics.partial.labels(model.name).inc()
        body = {  # a `schema.Classification`
            "model": model.name,
            "depth": model.depth,
            "version": model.card.version,
            "provider": engine.provider,
            "precision": engine.precision,
            **wanted.restriction,
            "images": [
                entry(upload, answer, wanted, request.scope.get("root_path", ""))
                for upload, answer in zip(uploads, answers, strict=True)
            ],
        }
        headers = server_timing([answer for answer in answers if isinstance(answer, Classified)])
        return Response(to_json(body), media_type="application/json", headers=headers)

    routes = APIRouter(tags=["classification"], route_class=route_of(classification.protected(answer)))

    @routes.post(
        "/classify",
        response_model=schema.Classification,
        responses=problems.responses(*FAULTS, *guard.faults("classify")),
        dependencies=guard.credentials("classify"),
        openapi_extra={"requestBody": request_body(settings.max_images, SCHEMAS)},
        summary="Classify one or many images",
    )
    async def classify(
        parameters: Annotated[Parameters, Query()],
        milliseconds: Annotated[Timeout, Header(alias=TIMEOUT_HEADER)] = None,
    ) -> None:
        """Send one image as the raw body, or one or many as a form with the field `file`, or as JSON with base64.

        One bad image among many is an error for that item alone. A request with a single image has that image's
        status. The response header `Server-Timing` says where the time went.
        """

    return routes
