"""`POST /classify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic_core import to_json

from service import errors
from service.api import problems, schema
from service.api.guard import Guard
from service.api.intake import FAULTS, Intake, request_body, route_of, to_its_end, unless_disconnected
from service.api.parameters import KNOWN, SCHEMAS, TIMEOUT_HEADER, Parameters, Timeout
from service.api.results import entry
from service.api.uploads import Upload, diagnose
from service.errors import ServerFault
from service.failed_images import FailedImages
from service.metrics import STAGES, Metrics
from service.model_repository import Model
from service.pipeline import Classified
from service.runtime.faults import Fault
from service.settings import Settings


def server_timing(answers: Sequence[Classified]) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several images, the longest of each stage."""
    *stages, total = (f"{stage};dur={1000 * max(answer.seconds[stage] for answer in answers):.2f}" for stage in STAGES)
    largest = max(answer.batch_size for answer in answers)
    return ", ".join([*stages, f'batch;desc="{largest}"', total])


def router(
    intake: Intake, settings: Settings, metrics: Metrics, guard: Guard, failed_images: FailedImages
) -> APIRouter:
    def keep_failed(model: Model, uploads: Sequence[Upload], answers: Sequence[Classified | Fault]) -> None:
        """What failed for want of time or room would not fail again, and is not kept."""
        found = [
            (number, upload.data)
            for number, (upload, answer) in enumerate(zip(uploads, answers, strict=True))
            if isinstance(answer, errors.ComputationFailed | errors.InternalError)
        ]
        failed_images.keep(found, {"model": model.name, "version": model.version, "images": len(answers)})

    async def answer(request: Request) -> Response:
        with intake.permit() as permit:
            model, pipeline, wanted, uploads, deadline = await intake.take(request, permit, KNOWN)
            work = pipeline.classify(permit, [upload.data for upload in uploads], wanted.computed, deadline)
            engine = model.status.info  # of a model that is active
            assert engine is not None
            answers = await unless_disconnected(request.receive, work)
        classified = [answer for answer in answers if isinstance(answer, Classified)]
        if len(classified) < len(answers):
            keep_failed(model, uploads, answers)
            answers = [
                diagnose(answer, upload, request) if isinstance(answer, Fault) else answer
                for upload, answer in zip(uploads, answers, strict=True)
            ]
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
        headers = {"Server-Timing": server_timing(classified)} if classified else {}
        return Response(to_json(body), media_type="application/json", headers=headers)

    guarded = to_its_end(guard.protect("classify", answer))

    async def counted(request: Request) -> Response:
        """Counts every request by model, status and problem."""
        status, problem = 500, errors.InternalError.slug
        try:
            response = await guarded(request)
            status, problem = response.status_code, ""
            return response
        except Fault as fault:
            status, problem = problems.status_of(fault), fault.slug
            raise
        finally:
            metrics.requests.labels(getattr(request.state, "model", "unknown"), status, problem).inc()

    routes = APIRouter(tags=["classification"], route_class=route_of(counted))

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
        """Send one image as the raw body, or one or many as a form with the field `file`.

        One bad image among many is an error for that item alone. A request with a single image has that image's
        status. The response header `Server-Timing` says where the time went.
        """

    return routes
