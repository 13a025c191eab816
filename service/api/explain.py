"""`POST /explain`: which places of an image speak for a class, and how much (`service.runtime.class_activation`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from pydantic_core import to_json

from service.answers import Classified
from service.api import problems, schema
from service.api.guard import Guard
from service.api.intake import Intake, Order, of_upload, route_of, served
from service.api.openapi import BINARY, FAULTS, request_body
from service.api.parameters import TIMEOUT_HEADER, Absent, Choice, Timeout, Whole, choice_of, classes_of, top_k_of
from service.api.results import MODEL_HEADER, answered_by, given, server_timing
from service.errors import InvalidParameter, NotExplainable, SeveralImages
from service.metrics import Metrics
from service.model_repository import Model
from service.predictions import DECIMALS
from service.redaction import redacted
from service.runtime.class_activation import Classifier, NoClassifier
from service.runtime.images.resizing import Box, input_box
from service.threads import on_thread

Format = Literal["json", "png", "multipart"]
FORMATS: tuple[Format, ...] = ("json", "png", "multipart")


class Parameters(Choice):
    """What a request asks for."""

    classes: str | Absent = Field(
        default=None,
        description="The classes to explain: their names or class ids, separated by commas. The most probable if not "
        "given.",
    )
    top_k: Whole | Absent = Field(
        default=None, description="How many of them, most probable first. All if `classes` names them; else 1."
    )
    format: Format | Absent = Field(
        default=None,
        description="json: maps as numbers. png: the map of one class over the whole image. multipart: both, a form "
        "with `explanation` and an `overlay` for each class.",
    )


KNOWN = tuple(Parameters.model_fields)
SCHEMAS = Parameters.model_json_schema()["properties"]


class Wanted(NamedTuple):
    """What a request asks a model.

    Attributes:
        classes: the ids of the classes to explain; None for the most probable.
        top_k: how many of them.
    """

    classes: tuple[int, ...] | None
    top_k: int
    format: Format

    @classmethod
    def by(cls, values: Mapping[str, str], model: Model) -> Wanted:
        """By the parameters of a request. Raises InvalidParameter."""
        classes = classes_of(values, model, "classes")
        top_k = top_k_of(values, model, classes, default=1 if classes is None else len(classes))
        wanted = cls(classes, top_k, choice_of(values, "format", FORMATS))
        if wanted.format == "png" and top_k > 1:
            reason = f"a PNG shows one class, and the request asks for {top_k}: use multipart."
            raise InvalidParameter(parameter="format", value="png", reason=reason)
        return wanted


class Explained(NamedTuple):
    """What one image's answer consists of.

    Attributes:
        class_ids: most probable first.
        maps: float32 `(len(class_ids), h, w)`.
        biases: float32 `(len(class_ids),)`.
        box: what the maps cover, in pixels of the upright image.
    """

    answer: Classified
    class_ids: list[int]
    maps: np.ndarray
    biases: np.ndarray
    box: Box


def last_layer(order: Order[Wanted]) -> Classifier:
    """Raises NotExplainable."""
    found = order.pipeline.last_layer
    if isinstance(found, NoClassifier):
        reason = redacted(str(found), order.model.path)
        raise NotExplainable(model=order.model.reference, reason=reason)
    return found


def explained(order: Order[Wanted], classifier: Classifier, answer: Classified) -> Explained:
    """On a thread: reads the last layer, as far as it is used."""
    card, wanted = order.model.card, order.wanted
    ranked = answer.top.class_ids
    if wanted.classes is not None:
        ranked = ranked[np.isin(ranked, wanted.classes)]
    ids = ranked[: wanted.top_k].tolist()
    maps = classifier.maps(answer.outputs["feature_map"], ids)
    box = input_box((answer.width, answer.height), card.preprocessing)
    return Explained(answer, ids, maps, classifier.biases[ids], box)


def to_document(order: Order[Wanted], found: Explained) -> bytes:
    """A `schema.Explanation`."""
    answer, labels = found.answer, order.model.card.labels
    probabilities = dict(zip(answer.top.class_ids.tolist(), answer.top.probabilities.tolist(), strict=True))
    logits = answer.outputs["logits"].tolist()
    (upload,) = order.uploads
    image = {"width": answer.width, "height": answer.height, "box": [round(side, 3) for side in found.box]}
    explanations = [
        {
            "class_id": class_id,
            "label": labels[class_id].name,
            "probability": round(probabilities[class_id], DECIMALS),
            "logit": round(logits[class_id], DECIMALS),
            "bias": round(float(bias), DECIMALS),
            "map": values.astype(np.float64).round(DECIMALS).tolist(),
        }
        for class_id, bias, values in zip(found.class_ids, found.biases, found.maps, strict=True)
    ]
    return to_json(answered_by(order.model) | {"image": given(upload) | image, "explanations": explanations})


def to_form(document: bytes, pictures: Sequence[bytes], class_ids: Sequence[int]) -> tuple[bytes, str]:
    """A form (RFC 7578) with the document and the pictures, and its content type."""
    boundary = uuid4().hex
    parts = [('name="explanation"', "application/json", document)]
    for class_id, picture in zip(class_ids, pictures, strict=True):
        parts.append((f'name="overlay"; filename="class-{class_id}.png"', "image/png", picture))
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\nContent-Type: {kind}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, kind, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def router(intake: Intake, metrics: Metrics, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        with intake.permit() as permit:
            order = await intake.take(request, permit, KNOWN, Wanted.by)
            format = order.wanted.format  # noqa: A001 (the parameter's name)
            if len(order.uploads) > 1:
                raise SeveralImages(images=len(order.uploads))
            classifier = last_layer(order)
            (upload,) = order.uploads
            every = order.model.card.architecture.num_classes
            answers = await intake.answers(request, permit, order, every, ("logits", "feature_map"))
            (first,) = answers
            assert isinstance(first, Classified)  # the fault of an only image was raised
            found = await on_thread(explained, order, classifier, first)
            pictures = []
            if format != "json":
                size = first.width, first.height
                drawing = order.pipeline.draw(permit, upload.data, size, found.maps, found.box, order.deadline)
                pictures = await of_upload(request, upload, drawing)
        headers = {MODEL_HEADER: order.model.reference, **server_timing(answers)}
        if format == "png":
            return Response(pictures[0], media_type="image/png", headers=headers)
        document = to_document(order, found)
        if format == "json":
            return Response(document, media_type="application/json", headers=headers)
        body, content_type = to_form(document, pictures, found.class_ids)
        return Response(body, headers={**headers, "Content-Type": content_type})

    routes = APIRouter(
        tags=["explanation"],
        route_class=route_of(served(answer, guard, metrics)),
    )

    @routes.post(
        "/explain",
        response_model=schema.Explanation,
        responses={
            200: {"content": {"image/png": {"schema": BINARY}, "multipart/form-data": {"schema": BINARY}}},
            **problems.responses(*FAULTS, SeveralImages, NotExplainable, *guard.faults("classify")),
        },
        dependencies=guard.credentials("classify"),
        openapi_extra={"requestBody": request_body(1, SCHEMAS)},
        summary="See why an image gets its class",
    )
    async def explain(
        parameters: Annotated[Parameters, Query()],
        milliseconds: Annotated[Timeout, Header(alias=TIMEOUT_HEADER)] = None,
    ) -> None:
        """Send one image, as for `/classify`. The answer is an exact class activation map for each class: the mean of
        its places and the class's bias add up to the logit.
        """

    return routes
