"""`POST /classify`."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service import errors
from service.api import schema
from service.api.forms import FIELD
from service.api.problems import responses
from service.api.uploads import IMAGE_TYPES, Upload, explained, read_body
from service.card import Label
from service.classifier import Answer, Classifier
from service.metrics import Metrics
from service.repository import Model, Repository
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
                # Not model, depth and top_k, which are in the query's description: Swagger UI would fill them in and
                # send what it filled in.
                "properties": {
                    FIELD: {
                        "type": "array",
                        "items": BINARY,
                        "minItems": 1,
                        "description": "One or more images. The parameters of the query may be fields, too.",
                    },
                },
            }
        },
        **{media_type: {"schema": BINARY} for media_type in IMAGE_TYPES},
    },
}
PROBLEMS = (
    *(cls for cls in errors.problem_types(errors.ImageProblem)),
    errors.MalformedRequest,
    errors.RepeatedHeader,
    errors.NoImage,
    errors.AmbiguousModel,
    errors.UnknownModel,
    errors.RequestTooLarge,
    errors.TooManyImages,
    errors.UnsupportedMediaType,
    errors.UnsupportedEncoding,
    errors.InvalidParameter,
    errors.UnknownParameter,
    errors.InternalError,
    errors.ModelNotReady,
    errors.ModelFailed,
    errors.Overloaded,
)


class Parameters(BaseModel):
    """What a request asks for, in its query or in the fields of its form."""

    model: str | None = Field(default=None, description="By name, as /models lists them.")
    depth: int | None = Field(default=None, description="By depth, as /models lists them.")
    top_k: int | None = Field(
        default=None, ge=1, description="How many classes to return, most probable first; 5 if not given."
    )


KNOWN = tuple(Parameters.model_fields)
NEAR = 0.7  # of 1, so alike is a name to the one that was meant
WHOLE = re.compile(r"\s*0*([0-9]{1,9})\s*")


def read_parameters(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The parameters that are given, wherever. An empty one is as good as none: browsers send empty fields.

    Raises:
        InvalidParameter: one is given twice with different values.
        UnknownParameter
    """
    values: dict[str, str] = {}
    for name, value in given:
        if name not in KNOWN:
            nearest = difflib.get_close_matches(name.lower(), KNOWN, 1, cutoff=NEAR)
            meant = {"nearest": nearest[0]} if nearest else {}
            raise errors.UnknownParameter(parameter=name, known=", ".join(KNOWN), **meant)
        if value and values.setdefault(name, value) != value:
            raise errors.InvalidParameter(parameter=name, value=value, reason=f"it is also given as '{values[name]}'.")
    return values


def depth_of(values: Mapping[str, str], repository: Repository) -> int | None:
    """The depth that is asked for. Raises InvalidParameter: it is no number."""
    value = values.get("depth")
    if value is None:
        return None
    depth = whole_number(value)
    if depth is None:
        served = ", ".join(str(depth) for depth in sorted({model.depth for model in repository.models.values()}))
        raise errors.InvalidParameter(parameter="depth", value=value, reason=f"give one of the numbers {served}.")
    return depth


def top_k_of(values: Mapping[str, str], model: Model) -> int:
    """How many classes are asked for. Raises InvalidParameter: no number, or not one that the model has."""
    classes = model.card.architecture.num_classes
    value = values.get("top_k")
    if value is None:
        return min(DEFAULT_TOP_K, classes)
    k = whole_number(value)
    if k is None or not 1 <= k <= classes:
        reason = f"give a whole number from 1 to {classes} (the classes of {model.name})."
        raise errors.InvalidParameter(parameter="top_k", value=value, reason=reason)
    return k


def whole_number(text: str) -> int | None:
    found = WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def result(
    upload: Upload, answer: Answer | errors.Problem, labels: Sequence[Label], root_path: str
) -> dict[str, object]:
    """One entry of the answer: a `schema.ImageResult`."""
    entry: dict[str, object] = {} if upload.name is None else {"file": upload.name}
    if isinstance(answer, errors.Problem):
        return entry | {"error": answer.document(root_path)}
    predictions = [
        {"class_id": class_id, "label": labels[class_id].name, "probability": round(probability, 6)}
        for class_id, probability in zip(answer.top.class_ids.tolist(), answer.top.probabilities.tolist(), strict=True)
    ]
    return entry | {"width": answer.width, "height": answer.height, "predictions": predictions}


def server_timing(answers: Sequence[Answer]) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several images, the longest of each stage."""
    timings = [answer.timings for answer in answers]
    stages = [f"{s};dur={1000 * max(getattr(t, s) for t in timings):.2f}" for s in ("decode", "queue", "inference")]
    largest = max(t.batch_size for t in timings)
    total = 1000 * max(t.total for t in timings)
    return ", ".join([*stages, f'batch;desc="{largest}"', f"total;dur={total:.2f}"])


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it when the client goes: nothing is computed for nobody.

    Raises:
        ClientDisconnect
    """
    task = asyncio.current_task()
    assert task is not None
    waiting = True
    gone = False

    def leave(message: asyncio.Future[Message]) -> None:
        nonlocal gone
        # Once the work is done nothing is cancelled any more: this may have been scheduled in the same moment.
        if waiting and not message.cancelled():
            gone = True
            task.cancel()

    leaving = asyncio.ensure_future(receive())  # the body has been read: all that can come is the disconnect
    leaving.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        waiting = False
        leaving.cancel()


def router(classifier: Classifier, settings: Settings, metrics: Metrics) -> APIRouter:
    async def respond(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nginx's code for it; nobody reads this response

    def asked(request: Request, given: Sequence[tuple[str, str]]) -> tuple[Model, int]:
        """The model that is meant, which has room, and how many classes."""
        values = read_parameters(given)
        model = classifier.repository.select(values.get("model"), depth_of(values, classifier.repository))
        request.state.model = model.name
        k = top_k_of(values, model)
        classifier.pipeline(model).check_room()
        return model, k

    async def answer(request: Request) -> Response:
        query = QueryParams(request.scope["query_string"]).multi_items()
        model, k = asked(request, query)  # an overloaded server does not even read the body
        uploads, fields = await read_body(request, settings)
        if fields:
            model, k = asked(request, [*query, *fields])
        work = classifier.classify(model, [upload.data for upload in uploads], k)
        answers = await unless_disconnected(request.receive, work)
        classified = [answer for answer in answers if isinstance(answer, Answer)]
        if len(classified) < len(answers):
            answers = [
                explained(answer, upload, request) if isinstance(answer, errors.Problem) else answer
                for upload, answer in zip(uploads, answers, strict=True)
            ]
        if len(answers) == 1 and isinstance(answers[0], errors.Problem):
            raise answers[0]
        body = {  # a `schema.Classification`
            "model": model.name,
            "depth": model.depth,
            "version": model.card.version,
            "images": [
                result(upload, answer, model.card.labels, request.scope.get("root_path", ""))
                for upload, answer in zip(uploads, answers, strict=True)
            ],
        }
        headers = {"Server-Timing": server_timing(classified)} if classified else {}
        return Response(to_json(body), media_type="application/json", headers=headers)

    class ClassifyRoute(APIRoute):
        """Counts every request by model and status, and goes from the socket to the handler without detours.

        FastAPI documents the operation by the signature of its endpoint. Its machinery of dependencies, which this
        operation does not need, takes more time than the handler itself: `handle` does without.
        """

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] != "POST":
                await super().handle(scope, receive, send)  # which refuses it
                return
            request = Request(scope, receive, send)
            status = 500
            try:
                response = await respond(request)
                status = response.status_code
            except errors.Problem as problem:
                status = problem.status
                raise
            finally:
                metrics.requests.labels(getattr(request.state, "model", "unknown"), status).inc()
            await response(scope, receive, send)

    async def classify(parameters: Annotated[Parameters, Query()]) -> None:
        """Send one image as the raw body, or one or many as a form with the field `file`.

        One bad image among many is an error for that item alone. A request with a single image has that image's
        status. The response header `Server-Timing` says where the time went.
        """

    routes = APIRouter(tags=["classification"], route_class=ClassifyRoute)
    routes.post(
        "/classify",
        response_model=schema.Classification,
        responses=responses(*PROBLEMS),
        openapi_extra={"requestBody": REQUEST_BODY},
        summary="Classify one or many images",
    )(classify)
    return routes
