"""`POST /classify`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic_core import to_json

from service.api import problems, schema
from service.api.guard import Guard
from service.api.intake import Intake, route_of, served
from service.api.openapi import FAULTS, request_body
from service.api.parameters import KNOWN, SCHEMAS, TIMEOUT_HEADER, Parameters, Timeout
from service.api.results import Wanted, answered_by, entry, server_timing
from service.metrics import Metrics
from service.settings import Settings


def router(intake: Intake, settings: Settings, metrics: Metrics, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        with intake.permit() as permit:
            order = await intake.take(request, permit, KNOWN, Wanted.by)
            answers = await intake.answers(request, permit, order, order.wanted.computed)
        root_path = request.scope.get("root_path", "")
        body = {  # a `schema.Classification`
            **answered_by(order.model),
            **order.wanted.restriction,
            "images": [
                entry(upload, answer, order.wanted, root_path)
                for upload, answer in zip(order.uploads, answers, strict=True)
            ],
        }
        return Response(to_json(body), media_type="application/json", headers=server_timing(answers))

    routes = APIRouter(
        tags=["classification"],
        route_class=route_of(served(answer, guard, metrics)),
    )

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
