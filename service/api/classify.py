"""`POST /classify`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service import errors
from service.api import schema
from service.api.problems import responses
from service.api.uploads import FIELD, IMAGE_TYPES, Upload, read_uploads
from service.card import Label
from service.classifier import Answer, Classifier
from service.metrics import Metrics
from service.repository import Model
from service.settings import Settings

T = TypeVar("T")

DEFAULT_TOP_K = 5

BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "items": BINARY, "description": "One or more images."}},
            }
        },
        **{media_type: {"schema": BINARY} for media_type in IMAGE_TYPES},
    },
}
PROBLEMS = (
    *(cls for cls in errors.problem_types(errors.ImageProblem)),
    errors.MalformedRequest,
    errors.NoImage,
    errors.AmbiguousModel,
    errors.UnknownModel,
    errors.RequestTooLarge,
    errors.TooManyImages,
    errors.UnsupportedMediaType,
    errors.InvalidParameter,
    errors.InternalError,
    errors.ModelNotReady,
    errors.ModelFailed,
    errors.Overloaded,
)


def result(upload: Upload, answer: Answer | errors.Problem, labels: Sequence[Label]) -> schema.ImageResult:
    """One entry of the answer."""
    if isinstance(answer, errors.Problem):
        return schema.ImageResult(file=upload.name, error=schema.Problem.model_validate(answer.document()))
    predictions = [
        schema.Prediction(class_id=class_id, label=labels[class_id].name, probability=round(probability, 6))
        for class_id, probability in zip(answer.top.class_ids.tolist(), answer.top.probabilities.tolist(), strict=True)
    ]
    return schema.ImageResult(file=upload.name, width=answer.width, height=answer.height, predictions=predictions)


def server_timing(answers: Sequence[Answer]) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several images, the longest of each stage."""
    timings = [answer.timings for answer in answers]
    stages = [f"{s};dur={1000 * max(getattr(t, s) for t in timings):.2f}" for s in ("decode", "queue", "inference")]
    largest = max(t.batch_size for t in timings)
    total = 1000 * max(t.total for t in timings)
    return ", ".join([*stages, f'batch;desc="{largest}"', f"total;dur={total:.2f}"])


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it when the client goes: nothing is computed for nobody.

    Raises:
        ClientDisconnect
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body has been read: all that can come is the disconnect
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def router(classifier: Classifier, settings: Settings, metrics: Metrics) -> APIRouter:
    class CountedRoute(APIRoute):
        """Counts every POST by model and status, those that never reach the handler included."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def counted(request: Request) -> Response:
                status = 500
                try:
                    response = await handle(request)
                    status = response.status_code
                except errors.Problem as problem:
                    status = problem.status
                    raise
                except RequestValidationError:
                    status = errors.InvalidParameter.status
                    raise
                finally:
                    model = getattr(request.state, "model", "unknown")
                    metrics.requests.labels(model=model, status=status).inc()
                return response

            return counted

    routes = APIRouter(tags=["classification"], route_class=CountedRoute)

    async def classify_uploads(request: Request, model: Model, top_k: int | None) -> Response:
        classes = model.card.architecture.num_classes
        k = min(DEFAULT_TOP_K, classes) if top_k is None else top_k
        if k > classes:
            raise errors.InvalidParameter(parameter="top_k", value=k, reason=f"{model.name} has {classes} classes")
        classifier.pipeline(model).check_room()  # an overloaded server does not even read the body
        uploads = await read_uploads(request, settings)
        answers = await unless_disconnected(request, classifier.classify(model, [upload.data for upload in uploads], k))
        if len(answers) == 1 and isinstance(answers[0], errors.Problem):
            raise answers[0]
        body = schema.Classification(
            model=model.name,
            depth=model.depth,
            version=model.card.version,
            images=[result(*pair, model.card.labels) for pair in zip(uploads, answers, strict=True)],
        )
        classified = [answer for answer in answers if isinstance(answer, Answer)]
        headers = {"Server-Timing": server_timing(classified)} if classified else {}
        return Response(body.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)

    @routes.post(
        "/classify",
        response_model=schema.Classification,
        responses=responses(*PROBLEMS),
        openapi_extra={"requestBody": REQUEST_BODY},
        summary="Classify one or many images",
    )
    async def classify(
        request: Request,
        model: Annotated[str | None, Query(description="By name, as /models lists them.")] = None,
        depth: Annotated[int | None, Query(description="By depth, as /models lists them.")] = None,
        top_k: Annotated[
            int | None, Query(ge=1, description="How many classes to return, most probable first; 5 if not given.")
        ] = None,
    ) -> Response:
        """Send one image as the raw body, or one or many as a form with the field `file`.

        One bad image among many is an error for that item alone. A request with a single image has that image's
        status. The response header `Server-Timing` says where the time went.
        """
        chosen = classifier.repository.select(model, depth)
        request.state.model = chosen.name
        try:
            return await classify_uploads(request, chosen, top_k)
        except ClientDisconnect:
            return Response(status_code=499)  # nginx's code for it; nobody reads this response

    return routes
