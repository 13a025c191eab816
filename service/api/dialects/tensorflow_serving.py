"""TensorFlow Serving's REST API, of which KServe's V1 protocol and Vertex AI's custom containers speak a part.

Sources: tensorflow/serving, tensorflow_serving/g3doc/api_rest.md (predict in rows and in columns, classify, model
status); kserve/kserve, python/kserve/kserve/protocol/rest/v1_endpoints.py (`GET /v1/models`, `ready`, 503); Vertex AI,
"Custom container requirements for inference" (`parameters` beside `instances`).

The model has the signature of TensorFlow's official ResNet: an image file goes in, `classes` (the best class) and
`probabilities` (of all classes, by class id) come out. With `top_k` or `labels`, in the query or in `parameters`, a
prediction is an entry of `/classify` instead.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from service.api.dialects.calls import classified, message
from service.api.guard import Guard
from service.api.intake import Intake, served
from service.api.json_images import Content, Encoded, described, fields_of, image_of, list_of
from service.api.results import Wanted, answered, by_class, by_label, server_timing
from service.api.uploads import read_json
from service.json_faults import MalformedJson
from service.metrics import Metrics
from service.model_repository import Model, Repository
from service.redaction import redacted
from service.runtime.faults import Fault

# Parameters beside the model, which the path names.
KNOWN = ("top_k", "labels")

EXPECTED = '{"instances": [{"b64": "the image file in base64"}, ...]}'
EXAMPLES = '{"examples": [{"image": {"b64": "the image file in base64"}}, ...]}'

# Inputs of these names may be plain base64: TensorFlow's official ResNet and the examples of TorchServe and Vertex AI
# use them. An input of any other name must be {"b64": ...}.
INPUTS = ("image_bytes", "image", "data", "content")

STATES = {"loading": "LOADING", "ready": "AVAILABLE", "failed": "END"}
PREFIX = "/v1/models/{name}"
VERSIONED = (PREFIX, PREFIX + "/versions/{label}", PREFIX + "/labels/{label}")


async def predict(intake: Intake, request: Request, known: Sequence[str], model: str | None) -> Response:
    """Answers a request of the predict API.

    Args:
        known, model: as of `Intake.take`.
    """
    columnar = False

    def layout(members: Mapping[str, object]) -> Content:
        nonlocal columnar
        content, columnar = layout_of_predict(members), members.get("inputs") is not None
        return content

    read = functools.partial(read_json, layout=layout)
    wanted, answers = await classified(intake, request, known, Wanted.by_or_all, model=model, body=read)
    body: dict[str, object]
    if wanted.narrowed:
        entries = [answered(answer, wanted) for answer in answers]
        body = {"outputs" if columnar else "predictions": entries}
    else:
        classes = [int(answer.top.class_ids[0]) for answer in answers]
        probabilities = [by_class(answer.top) for answer in answers]
        if columnar:
            body = {"outputs": {"classes": classes, "probabilities": probabilities}}
        else:
            rows = zip(classes, probabilities, strict=True)
            body = {"predictions": [{"classes": best, "probabilities": all_of_them} for best, all_of_them in rows]}
    return Response(to_json(body), media_type="application/json", headers=server_timing(answers))


def layout_of_predict(members: Mapping[str, object]) -> Content:
    """`{"instances": [X, ...]}`, or `{"inputs": X}` with a list of X, one X, or an object of one named input.

    X is `{"b64": base64}`, an object with one named input like that, or a text of base64. Other members of an object
    are ignored, and so are `signature_name` and whatever else a client sends beside them.

    Raises:
        MalformedJson
    """
    rows, columns = members.get("instances"), members.get("inputs")
    if (rows is None) == (columns is None):
        found = "both instances and inputs" if rows is not None else "neither instances nor inputs"
        raise MalformedJson(reason=f"it has {found}", expected=EXPECTED)
    if rows is not None:
        images = [_image(value, place) for place, value in list_of(rows, "instances", EXPECTED)]
    else:
        place = "inputs"
        if isinstance(columns, dict) and "b64" not in columns:
            name, columns = _input(columns, place)
            place = f"{place}.{name}"
        several = columns if isinstance(columns, list) else [columns]
        images = [_image(value, place) for place, value in list_of(several, place, EXPECTED)]
    parameters = members.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise MalformedJson(reason=f"parameters is {described(parameters)}", expected="an object")
    return Content(images, fields_of(parameters or {}))


def layout_of_examples(members: Mapping[str, object]) -> Content:
    """`{"examples": [{"image": {"b64": base64}}, ...]}`: the classify API. Raises MalformedJson."""
    examples = list_of(members.get("examples"), "examples", EXAMPLES)
    return Content([_image(value, place) for place, value in examples], [])


def _image(value: object, place: str) -> Encoded:
    """The image of one instance."""
    if isinstance(value, dict) and "b64" not in value:
        name, value = _input(value, place)
        place = f"{place}.{name}"
    if isinstance(value, dict) and "b64" in value:
        value = {"b64": value["b64"]}
    if isinstance(value, list):
        raise MalformedJson(reason=f"{place} is a list, as of pixels", expected=EXPECTED)
    return image_of(value, place)


def _input(members: Mapping[str, object], place: str) -> tuple[str, object]:
    """The one input among the members of an object that holds images."""
    found = [
        name
        for name, value in members.items()
        if name in INPUTS or isinstance(value[0] if isinstance(value, list) and value else value, dict)
    ]
    if len(found) != 1:
        names = ", ".join(name[:40] for name in found[:5])
        reason = f"{place} has several inputs, {names}" if found else f"{place} is {described(dict(members))}"
        raise MalformedJson(reason=reason, expected=EXPECTED)
    return found[0], members[found[0]]


def error(fault: Fault) -> dict[str, str]:
    """An error as TensorFlow Serving and KServe say it."""
    return {"error": message(fault)}


def named_by(request: Request) -> str:
    """The model that the path names."""
    name, label = request.path_params["name"], request.path_params.get("label")
    return f"{name}@{label}" if label else str(name)


def router(intake: Intake, repository: Repository, metrics: Metrics, guard: Guard) -> APIRouter:
    async def predicted(request: Request) -> Response:
        return await predict(intake, request, KNOWN, named_by(request))

    async def labelled(request: Request) -> Response:
        read = functools.partial(read_json, layout=layout_of_examples)
        wanted, answers = await classified(intake, request, KNOWN, Wanted.by, model=named_by(request), body=read)
        results = [[list(pair) for pair in by_label(answer, wanted).items()] for answer in answers]
        return Response(to_json({"results": results}), media_type="application/json", headers=server_timing(answers))

    async def models(request: Request) -> Response:
        return JSONResponse({"models": list(dict.fromkeys(model.name for model in repository.models))})

    async def status(request: Request) -> Response:
        """Of all versions of a model, or of one: 200 if requests are answered, else 503."""
        wanted = named_by(request)
        model = repository.get(wanted)
        versions = [model] if "@" in wanted else [one for one in repository.versions if one.name == model.name]
        ready = model.status.state == "ready"
        body: dict[str, object] = {
            "name": wanted,
            "ready": ready,
            "model_version_status": [
                version_status(one) for one in sorted(versions, key=lambda one: one.version, reverse=True)
            ],
        }
        return JSONResponse(
            body if ready else {**body, "error": f"Model {wanted} is not ready."}, 200 if ready else 503
        )

    routes = APIRouter()
    for path in VERSIONED:
        for method, handler in (("predict", predicted), ("classify", labelled)):
            routes.add_route(f"{path}:{method}", served(handler, guard, metrics), ["POST"])
        routes.add_route(path, status, ["GET"])
    routes.add_route("/v1/models", models, ["GET"])
    return routes


def version_status(model: Model) -> dict[str, object]:
    """As `ModelVersionStatus` in JSON (tensorflow_serving/apis/get_model_status.proto)."""
    state, reason, _ = model.status
    return {
        "version": str(model.version),
        "state": STATES[state],
        "status": {
            "error_code": "INTERNAL" if state == "failed" else "OK",
            "error_message": redacted(reason, model.path) if reason else "",
        },
    }
