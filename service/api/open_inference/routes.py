"""`/v2`: what clients of Triton, KServe and OpenVINO Model Server call."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import from_json

from service.api.access import note
from service.api.guard import Guard
from service.api.intake import route_of, served, unless_disconnected
from service.api.open_inference import errors
from service.api.open_inference.answers import answer
from service.api.open_inference.bodies import HEADER, parse
from service.api.parameters import TIMEOUT_HEADER, seconds_of
from service.api.results import server_timing
from service.api.uploads import arriving, check_encoding, only_header, read_whole
from service.deadline import Deadline
from service.errors import RequestTooLarge
from service.metrics import Metrics
from service.open_inference.data_plane import DataPlane
from service.open_inference.descriptions import ConfiguredTensor, IndexEntry, TensorMetadata
from service.open_inference.errors import ProtocolError, invalid
from service.open_inference.statistics import ModelStatistics
from service.runtime.faults import Fault

MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"
INDEX_BYTES = 4096  # of a request for the index: one flag


def router(plane: DataPlane) -> APIRouter:
    """Health, metadata and the index: open to everybody, as /healthz and /models are.

    The protocol has an OpenAPI document of its own, so these paths are not in the service's.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/v2/health/live")
    async def live() -> Response:
        return JSONResponse({"live": True})

    @routes.get("/v2/health/ready")
    async def ready() -> Response:
        is_ready = plane.server_ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @routes.get("/v2")
    async def server() -> Response:
        return JSONResponse(plane.server_metadata()._asdict())

    @routes.get(MODEL)
    @routes.get(VERSION)
    async def model(name: str, version: str = "") -> Response:
        found = plane.model_metadata(name, version)
        return JSONResponse(found._asdict() | {"inputs": _listed(found.inputs), "outputs": _listed(found.outputs)})

    @routes.get(f"{MODEL}/config")
    @routes.get(f"{VERSION}/config")
    async def config(name: str, version: str = "") -> Response:
        found = plane.model_config(name, version)
        return JSONResponse(found._asdict() | {"input": _listed(found.input), "output": _listed(found.output)})

    @routes.get(f"{MODEL}/ready")
    @routes.get(f"{VERSION}/ready")
    async def model_ready(name: str, version: str = "") -> Response:
        is_ready = plane.model_ready(name, version)
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @routes.post("/v2/repository/index")
    async def index(request: Request) -> Response:
        with plane.permit() as permit:
            body = await read_whole(request, permit, INDEX_BYTES, RequestTooLarge)
        try:
            given = from_json(body) if body.strip() else {}
        except ValueError as error:
            raise invalid(f"the request is not JSON: {error}") from None
        ready_only = given.get("ready", False) if isinstance(given, dict) else None
        if not isinstance(ready_only, bool):
            raise invalid('the request must be an object, and its member "ready" true or false')
        return JSONResponse(_listed(plane.repository_index(ready_only=ready_only)))

    return routes


def _listed(entries: Sequence[TensorMetadata | ConfiguredTensor | IndexEntry]) -> list[dict[str, object]]:
    return [entry._asdict() for entry in entries]


def statistics_router(plane: DataPlane, guard: Guard) -> APIRouter:
    """What /metrics tells, in Triton's form: for the operator."""
    routes = APIRouter(include_in_schema=False, route_class=guard.require("metrics"))

    @routes.get("/v2/models/stats")
    @routes.get(f"{MODEL}/stats")
    @routes.get(f"{VERSION}/stats")
    async def stats(name: str = "", version: str = "") -> Response:
        return JSONResponse({"model_stats": [_written(one) for one in await plane.model_statistics(name, version)]})

    return routes


def _written(stats: ModelStatistics) -> dict[str, object]:
    """As Triton writes it. There is no cache."""
    totals = {
        stage: {"count": total.count, "ns": total.ns}
        for stage in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        for total in (getattr(stats, stage),)
    }
    nothing = {"count": 0, "ns": 0}
    return {
        "name": stats.name,
        "version": stats.version,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {**totals, **dict.fromkeys(("cache_hit", "cache_miss"), nothing)},
        "batch_stats": [],
    }


def infer_router(plane: DataPlane, metrics: Metrics, guard: Guard) -> APIRouter:
    async def infer(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version", "")
        deadline = Deadline.after(seconds_of(only_header(request, TIMEOUT_HEADER)))
        model = plane.find(name, version)
        request.state.model = model.name
        note(request, model=model.reference)
        plane.admit(model, deadline)
        check_encoding(request)
        header = only_header(request, HEADER)
        with plane.permit() as permit:
            body = await arriving(read_whole(request, permit, plane.max_message_bytes, RequestTooLarge), deadline)
            asked = parse(body, header, name, version, model.card.preprocessing.shape, permit)
            answered = await unless_disconnected(request.receive, plane.infer(permit, asked, deadline))
            note(request, images=len(answered.answers))
            response = await answer(asked, answered, permit)
        response.headers.update(server_timing(answered.answers))
        return response

    async def in_form(request: Request) -> Response:
        """Answers faults here: what is counted is the protocol's status, which is not that of the fault."""
        try:
            return await infer(request)
        except (ProtocolError, Fault) as error:
            return errors.response(request, error)

    routes = APIRouter(include_in_schema=False, route_class=route_of(served(in_form, guard, metrics)))

    @routes.post(f"{MODEL}/infer")
    @routes.post(f"{VERSION}/infer")
    async def documented() -> None:
        """Answered by `in_form`."""

    return routes
