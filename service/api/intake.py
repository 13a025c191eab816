"""What calls with images do alike: from a request to a model, images and a deadline, and to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service import errors
from service.admission import Memory, Permit
from service.answers import Classified
from service.api.access import CLIENT_LEFT, note, noted
from service.api.forms import media_type
from service.api.guard import Guard, Handler
from service.api.json_images import JSON_TYPE
from service.api.parameters import TIMEOUT_HEADER, depth_of, read_parameters, seconds_of
from service.api.problems import STATUS, status_of
from service.api.uploads import FORM, Body, Upload, arriving, diagnose, only_header, read_body
from service.deadline import Deadline
from service.errors import ServerFault
from service.failed_images import FailedImages
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.model_repository import Model, Repository
from service.pipeline import Pipeline
from service.runtime.faults import Fault
from service.runtime.graph import Output
from service.settings import Settings

T = TypeVar("T")
W = TypeVar("W")

# Counted before the first of them; a few, because each takes room that the counters of all processes share.
FROM_ZERO = (errors.Overloaded, errors.MemoryExhausted, errors.DeadlineMissed, errors.ComputationFailed)

# How a protocol reads the body of a request.
Reader = Callable[[Request, Settings, Permit], Coroutine[Any, Any, Body]]


class Order(NamedTuple, Generic[W]):
    """What a request asks for.

    Attributes:
        wanted: what it wants to know of the images.
    """

    model: Model
    pipeline: Pipeline
    wanted: W
    uploads: list[Upload]
    deadline: Deadline


class Intake:
    """Takes orders.

    Attributes:
        memory: what all requests hold together, those of other protocols too.
    """

    def __init__(
        self,
        repository: Repository,
        lifecycle: Lifecycle[Pipeline],
        settings: Settings,
        metrics: Metrics,
        failed_images: FailedImages,
    ) -> None:
        self._repository = repository
        self._lifecycle = lifecycle
        self._settings = settings
        self._metrics = metrics
        self._failed_images = failed_images
        self.memory = Memory(settings.memory.requests, metrics)

    def permit(self) -> Permit:
        """What a request holds until its answer."""
        return Permit(self.memory)

    async def take(
        self,
        request: Request,
        permit: Permit,
        known: Sequence[str],
        read: Callable[[Mapping[str, str], Model], W],
        *,
        model: str | None = None,
        body: Reader = read_body,
    ) -> Order[W]:
        """Reads a request. What can be refused without its body is refused before that is read.

        Args:
            permit: holds the bytes, and the model.
            known: the parameters that the operation has.
            read: what the parameters' values want to know of the images. May raise InvalidParameter.
            model: the reference in the path, if the path names a model. `known` has neither model nor depth then.
            body: reads the body.

        Raises:
            Fault: one of `FAULTS`.
        """
        query = QueryParams(request.scope["query_string"]).multi_items()
        deadline = Deadline.after(seconds_of(only_header(request, TIMEOUT_HEADER)))
        chosen, pipeline, wanted = self._select(request, query, known, read, model)
        self._check_early(request, query, pipeline, deadline, named=model is not None)
        uploads, fields = await arriving(body(request, self._settings, permit), deadline)
        if fields or pipeline.room.closed:  # closed: another version has come meanwhile
            chosen, pipeline, wanted = self._select(request, [*query, *fields], known, read, model)
        note(request, images=len(uploads))
        permit.enter(pipeline.room)
        deadline = min(deadline, Deadline.after(self._settings.request_timeout))
        return Order(chosen, pipeline, wanted, uploads, deadline)

    def _select(
        self,
        request: Request,
        given: Sequence[tuple[str, str]],
        known: Sequence[str],
        read: Callable[[Mapping[str, str], Model], W],
        reference: str | None,
    ) -> tuple[Model, Pipeline, W]:
        """What the request asks for: model, pipeline and what it wants to know."""
        values = read_parameters(given, known)
        model = self._repository.select(reference or values.get("model"), depth_of(values, self._repository))
        request.state.model = model.name
        note(request, model=model.reference)
        return model, self._lifecycle.active(model), read(values, model)

    async def answers(
        self,
        request: Request,
        permit: Permit,
        order: Order[Any],
        top_k: int,
        outputs: Sequence[Output] = (),
        *,
        together: bool = False,
    ) -> list[Classified | Fault]:
        """What the pipeline answers for each image of an order.

        Args:
            together: whether the images have one answer, so that a fault of one is a fault of all.

        Raises:
            Fault: of the only image, or of one of several that have one answer, with its number as `image`; or the
                server's for all of them.
            ClientDisconnect
        """
        uploads = order.uploads
        images = [upload.data for upload in uploads]
        work = order.pipeline.classify(permit, images, top_k, order.deadline, outputs)
        answers = await unless_disconnected(request.receive, work)
        if all(isinstance(answer, Classified) for answer in answers):
            return answers
        self._failed_images.keep_of(images, answers, order.model)
        answers = [
            diagnose(answer, upload, request) if isinstance(answer, Fault) else answer
            for upload, answer in zip(uploads, answers, strict=True)
        ]
        faults = [(number, answer) for number, answer in enumerate(answers) if isinstance(answer, Fault)]
        number, first = faults[0]
        if together and len(answers) > 1:
            first.members["image"] = number
        if together or len(answers) == 1 or all(isinstance(answer, ServerFault) for answer in answers):
            raise first
        if any(isinstance(answer, ServerFault) for answer in answers):
            self._metrics.partial.labels(order.model.name).inc()
        return answers

    def _check_early(
        self, request: Request, query: Sequence[tuple[str, str]], pipeline: Pipeline, deadline: Deadline, *, named: bool
    ) -> None:
        """Raises Overloaded or DeadlineMissed before the body is read.

        Args:
            named: whether the path names the model. If neither it nor the query does, a form or JSON still may.
        """
        rooms = [pipeline.room]
        content_type = media_type(request.headers.get("content-type", ""))
        may_name = not named and content_type in (FORM, JSON_TYPE)
        if may_name and not any(name in ("model", "depth") and value for name, value in query):
            rooms = [each.room for each in self._lifecycle.actives]
        min(rooms, key=lambda room: room.wait).check(deadline)


async def of_upload(request: Request, upload: Upload, work: Coroutine[Any, Any, T]) -> T:
    """Awaits what is made of one image.

    Raises:
        Fault: that of `work`, or the mistake in sending the image behind it.
        ClientDisconnect
    """
    try:
        return await unless_disconnected(request.receive, work)
    except Fault as fault:
        raise diagnose(fault, upload, request) from None


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


def served(handler: Handler, guard: Guard, metrics: Metrics) -> Handler:
    """The handler of a call that classifies: behind the guard, to its end, and counted."""
    return _counted(to_its_end(guard.protect("classify", handler)), metrics)


def _counted(handler: Handler, metrics: Metrics) -> Handler:
    """The handler, which counts every request by model, status and problem.

    A handler that answers a fault itself has noted the problem.
    """

    async def counting(request: Request) -> Response:
        status, problem = 500, errors.InternalError.slug
        try:
            response = await handler(request)
            status, problem = response.status_code, noted(request, "problem")
            return response
        except Fault as fault:
            status, problem = status_of(fault), fault.slug
            raise
        finally:
            metrics.requests.labels(getattr(request.state, "model", "unknown"), status, problem).inc()

    return counting


def count_from_zero(metrics: Metrics, model: str) -> None:
    """Shows the service's failures with a model that come in masses as 0 before the first one.

    Prometheus' `rate` misses what a counter has when it first appears, and that may be a whole overload.
    """
    for fault in FROM_ZERO:
        metrics.requests.labels(model, STATUS[fault], fault.slug)
    metrics.partial.labels(model)


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
