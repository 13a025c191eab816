"""What `/classify` and `/preview` do alike: from a request to a model, images and a deadline, and to its end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service import errors
from service.admission import Memory, Permit
from service.api.access import CLIENT_LEFT, note
from service.api.forms import FIELD, media_type
from service.api.guard import Handler
from service.api.parameters import TIMEOUT_HEADER, depth_of, read_parameters, seconds_of
from service.api.results import Wanted
from service.api.uploads import FORM, IMAGE_TYPES, Upload, only_header, read_body
from service.deadline import Deadline
from service.lifecycle import Lifecycle
from service.model_repository import Model, Repository
from service.pipeline import Pipeline
from service.runtime.faults import ImageFault
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


def request_body(max_images: int, parameters: Mapping[str, object]) -> dict[str, object]:
    """The OpenAPI `requestBody` of an operation with these parameters, by name."""
    images = "The image" if max_images == 1 else "One or more images"
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {
            FIELD: {
                "type": "array",
                "items": BINARY,
                "minItems": 1,
                "maxItems": max_images,
                "description": f"{images}. The parameters of the query may be fields, too.",
            },
        },
        # Not `properties`: Swagger UI would fill the parameters in and send what it filled in.
        "patternProperties": {f"^{name}$": schema for name, schema in parameters.items()},
        "additionalProperties": False,
    }
    raw = {media_type: {"schema": BINARY} for media_type in IMAGE_TYPES}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}}


class Order(NamedTuple):
    """What a request asks for."""

    model: Model
    pipeline: Pipeline
    wanted: Wanted
    uploads: list[Upload]
    deadline: Deadline


class Intake:
    """Takes orders."""

    def __init__(
        self, repository: Repository, lifecycle: Lifecycle[Pipeline], settings: Settings, memory: Memory
    ) -> None:
        self._repository = repository
        self._lifecycle = lifecycle
        self._settings = settings
        self._memory = memory

    def permit(self) -> Permit:
        """What a request holds until its answer."""
        return Permit(self._memory)

    async def take(self, request: Request, permit: Permit, known: Sequence[str]) -> Order:
        """Reads a request. What can be refused without its body is refused before that is read.

        Args:
            permit: holds the bytes, and the model.
            known: the parameters that the operation has.

        Raises:
            Fault: one of `FAULTS`.
        """
        query = QueryParams(request.scope["query_string"]).multi_items()
        deadline = Deadline.after(seconds_of(only_header(request, TIMEOUT_HEADER)))
        model, pipeline, wanted = self._select(request, query, known)
        self._check_early(request, query, pipeline, deadline)
        uploads, fields = await arriving(read_body(request, self._settings, permit), deadline)
        if fields or pipeline.room.closed:  # closed: another version has come meanwhile
            model, pipeline, wanted = self._select(request, [*query, *fields], known)
        note(request, images=len(uploads))
        permit.enter(pipeline.room)
        deadline = min(deadline, Deadline.after(self._settings.request_timeout))
        return Order(model, pipeline, wanted, uploads, deadline)

    def _select(
        self, request: Request, given: Sequence[tuple[str, str]], known: Sequence[str]
    ) -> tuple[Model, Pipeline, Wanted]:
        """What the request asks for: model, pipeline and what it wants to know."""
        values = read_parameters(given, known)
        model = self._repository.select(values.get("model"), depth_of(values, self._repository))
        request.state.model = model.name
        note(request, model=f"{model.name}@{model.version}")
        return model, self._lifecycle.active(model), Wanted.by(values, model)

    def _check_early(
        self, request: Request, query: Sequence[tuple[str, str]], pipeline: Pipeline, deadline: Deadline
    ) -> None:
        """Raises Overloaded or DeadlineMissed before the body is read. A form may still name another model."""
        rooms = [pipeline.room]
        content_type = media_type(request.headers.get("content-type", ""))
        if content_type == FORM and not any(name in ("model", "depth") and value for name, value in query):
            rooms = [each.room for each in self._lifecycle.actives]
        min(rooms, key=lambda room: room.wait).check(deadline)


async def arriving(body: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """Awaits a body. Raises DeadlineMissed if it has not arrived by then."""
    if deadline.at == math.inf:
        return await body
    try:
        async with asyncio.timeout(deadline.left):
            return await body
    except TimeoutError:
        raise deadline.missed("its body took longer to arrive") from None


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


def to_its_end(handler: Handler) -> Handler:
    """The handler, which also answers when its client has left and when the server stops."""

    async def ended(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)  # nobody reads this response
        except asyncio.CancelledError:  # only the end of the server cancels requests
            raise errors.Stopping(retry_after=1) from None

    return ended


def route_of(handler: Handler) -> type[APIRoute]:
    """The class of a route that goes from the request to the handler without FastAPI's dependency machinery.

    FastAPI documents the operation by the signature of its endpoint. Such an operation needs no dependencies, and
    solving them would take longer than the handler itself.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            return handler

    return Route
