"""`POST /classify`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service import errors
from service.admission import Memory, Permit
from service.api import problems, schema
from service.api.access import CLIENT_LEFT, note
from service.api.forms import FIELD, media_type
from service.api.guard import Guard
from service.api.parameters import (
    SCHEMAS,
    TIMEOUT_HEADER,
    Parameters,
    Timeout,
    depth_of,
    read_parameters,
    seconds_of,
)
from service.api.results import Wanted, entry
from service.api.uploads import FORM, IMAGE_TYPES, Body, Upload, diagnose, only_header, read_body
from service.deadline import Deadline
from service.errors import ServerFault
from service.failed_images import FailedImages
from service.lifecycle import Lifecycle
from service.metrics import STAGES, Metrics
from service.model_repository import Model, Repository
from service.pipeline import Classified, Pipeline
from service.runtime.faults import Fault, ImageFault
from service.settings import Settings

T = TypeVar("T")

BINARY = {"type": "string", "format": "binary"}
FAULTS = (
    *errors.fault_types(ImageFault),
    errors.MalformedRequest,
    errors.RepeatedHeader,
    errors.NoImage,
    errors.AmbiguousModel,
    errors.ModelNotNamed,
    errors.UnknownModel,
    errors.RequestTooLarge,
    errors.TooManyImages,
    errors.UnsupportedMediaType,
    errors.UnsupportedEncoding,
    errors.InvalidParameter,
    errors.UnknownParameter,
    errors.ComputationFailed,
    errors.ModelNotReady,
    errors.ModelFailed,
    errors.MemoryExhausted,
    errors.Stopping,
    errors.Overloaded,
    errors.DeadlineMissed,
)


def request_body(max_images: int) -> dict[str, object]:
    """The OpenAPI `requestBody` of the operation."""
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {
            FIELD: {
                "type": "array",
                "items": BINARY,
                "minItems": 1,
                "maxItems": max_images,
                "description": "One or more images. The parameters of the query may be fields, too.",
            },
        },
        # Not `properties`: Swagger UI would fill the parameters in and send what it filled in.
        "patternProperties": {f"^{name}$": schema for name, schema in SCHEMAS.items()},
        "additionalProperties": False,
    }
    images = {media_type: {"schema": BINARY} for media_type in IMAGE_TYPES}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **images}}


def server_timing(answers: Sequence[Classified]) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several images, the longest of each stage."""
    *stages, total = (f"{stage};dur={1000 * max(answer.seconds[stage] for answer in answers):.2f}" for stage in STAGES)
    largest = max(answer.batch_size for answer in answers)
    return ", ".join([*stages, f'batch;desc="{largest}"', total])


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it if the client disconnects.

    Raises:
        ClientDisconnect
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())  # the body has been read: only the disconnect can come
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))  # before the permit gives its images back
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


def router(
    repository: Repository,
    lifecycle: Lifecycle[Pipeline],
    settings: Settings,
    metrics: Metrics,
    memory: Memory,
    guard: Guard,
    failed_images: FailedImages,
) -> APIRouter:
    def select(request: Request, given: Sequence[tuple[str, str]]) -> tuple[Model, Pipeline, Wanted]:
        """What the request asks for: model, pipeline and what it wants to know."""
        values = read_parameters(given)
        model = repository.select(values.get("model"), depth_of(values, repository))
        request.state.model = model.name
        note(request, model=f"{model.name}@{model.version}")
        return model, lifecycle.active(model), Wanted.by(values, model)

    def check_early(request: Request, query: Sequence[tuple[str, str]], pipeline: Pipeline, deadline: Deadline) -> None:
        """Raises Overloaded or DeadlineMissed before the body is read. A form may still name another model."""
        rooms = [pipeline.room]
        content_type = media_type(request.headers.get("content-type", ""))
        if content_type == FORM and not any(name in ("model", "depth") and value for name, value in query):
            rooms = [each.room for each in lifecycle.actives]
        min(rooms, key=lambda room: room.wait).check(deadline)

    async def read(request: Request, permit: Permit, deadline: Deadline) -> Body:
        """The body. Raises DeadlineMissed if it has not arrived by then, and as `read_body` does."""
        if deadline.at == math.inf:
            return await read_body(request, settings, permit)
        try:
            async with asyncio.timeout(deadline.left):
                return await read_body(request, settings, permit)
        except TimeoutError:
            raise deadline.missed("its body took longer to arrive") from None

    def keep_failed(model: Model, uploads: Sequence[Upload], answers: Sequence[Classified | Fault]) -> None:
        """What failed for want of time or room would not fail again, and is not kept."""
        found = [
            (number, upload.data)
            for number, (upload, answer) in enumerate(zip(uploads, answers, strict=True))
            if isinstance(answer, errors.ComputationFailed | errors.InternalError)
        ]
        failed_images.keep(found, {"model": model.name, "version": model.version, "images": len(answers)})

    async def answer(request: Request) -> Response:
        query = QueryParams(request.scope["query_string"]).multi_items()
        deadline = Deadline.after(seconds_of(only_header(request, TIMEOUT_HEADER)))
        with Permit(memory) as permit:
            model, pipeline, wanted = select(request, query)
            check_early(request, query, pipeline, deadline)
            uploads, fields = await read(request, permit, deadline)
            if fields or pipeline.room.closed:  # closed: another version has come meanwhile
                model, pipeline, wanted = select(request, [*query, *fields])
            note(request, images=len(uploads))
            permit.enter(pipeline.room)
            deadline = min(deadline, Deadline.after(settings.request_timeout))
            work = pipeline.classify(permit, [upload.data for upload in uploads], wanted.computed, deadline)
            engine = model.status.info  # of a model that is active
            assert engine is not None
            answers = await unless_disconnected(request.receive, work)
            keep_failed(model, uploads, answers)
        classified = [answer for answer in answers if isinstance(answer, Classified)]
        if len(classified) < len(answers):
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

    guarded = guard.protect("classify", answer)

    async def counted(request: Request) -> Response:
        """Counts every request by model, status and problem."""
        status, problem = 500, errors.InternalError.slug
        try:
            response = await guarded(request)
            status, problem = response.status_code, ""
        except ClientDisconnect:
            status, problem = CLIENT_LEFT, ""  # nobody reads this response
            response = Response(status_code=status)
        except Fault as fault:
            status, problem = problems.status_of(fault), fault.slug
            raise
        except asyncio.CancelledError:  # only the end of the server cancels requests
            stopping = errors.Stopping(retry_after=1)
            status, problem = problems.status_of(stopping), stopping.slug
            raise stopping from None
        finally:
            metrics.requests.labels(getattr(request.state, "model", "unknown"), status, problem).inc()
        return response

    class ClassifyRoute(APIRoute):
        """Goes from the request to the handler without FastAPI's dependency machinery.

        FastAPI documents the operation by the signature of its endpoint. This operation needs no dependencies, and
        solving them would take longer than the handler itself.
        """

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            return counted

    routes = APIRouter(tags=["classification"], route_class=ClassifyRoute)

    @routes.post(
        "/classify",
        response_model=schema.Classification,
        responses=problems.responses(*FAULTS, *guard.faults("classify")),
        dependencies=guard.credentials("classify"),
        openapi_extra={"requestBody": request_body(settings.max_images)},
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
