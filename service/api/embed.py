"""`POST /embed`: pooled features of images, for search, clustering and classifiers of one's own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from pydantic_core import to_json

from service.answers import Classified
from service.api import openapi, problems, schema
from service.api.guard import Guard
from service.api.intake import Intake, Order, route_of, served
from service.api.openapi import BINARY, FAULTS, request_body
from service.api.parameters import TIMEOUT_HEADER, Absent, Choice, Timeout, choice_of
from service.api.results import MODEL_HEADER, answered_by, given, server_timing
from service.metrics import Metrics
from service.model_repository import Model
from service.predictions import DECIMALS
from service.runtime.faults import Fault
from service.settings import Settings

Format = Literal["json", "npy", "float32", "float16"]
FORMATS: tuple[Format, ...] = ("json", "npy", "float32", "float16")
DTYPES = {"npy": "<f4", "float32": "<f4", "float16": "<f2"}
SHAPE_HEADER = "X-Embedding-Shape"
HEADERS = {
    MODEL_HEADER: "The model and its version: `resnet50@3`.",
    SHAPE_HEADER: "Of binary formats: images and dimensions, `2, 2048` (RFC 9651).",
}


class Parameters(Choice):
    """What a request asks for."""

    normalize: Literal["true", "false"] | Absent = Field(
        default=None, description="Whether embeddings get the length 1, so that their dot product is the cosine."
    )
    format: Format | Absent = Field(
        default=None,
        description="json; npy: a NumPy file, float32; float32, float16: the numbers alone, row by row, little-endian.",
    )


KNOWN = tuple(Parameters.model_fields)
SCHEMAS = Parameters.model_json_schema()["properties"]


class Wanted(NamedTuple):
    """What a request asks a model."""

    is_normalized: bool
    format: Format

    @classmethod
    def by(cls, values: Mapping[str, str], model: Model) -> Wanted:
        """By the parameters of a request. Raises InvalidParameter."""
        is_normalized = choice_of(values, "normalize", ("false", "true")) == "true"
        return cls(is_normalized, choice_of(values, "format", FORMATS))


def normalized(rows: np.ndarray) -> np.ndarray:
    """Rows `(N, C)` of length 1 (L2); one of zeros stays as it is."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    result: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return result


def to_binary(rows: np.ndarray, format: Format) -> bytes:  # noqa: A002 (the parameter's name)
    """Embeddings `(N, C)`. In float16, numbers beyond 65,504 become infinite."""
    with np.errstate(over="ignore"):
        converted = rows.astype(DTYPES[format])
    if format != "npy":
        return converted.tobytes()
    file = io.BytesIO()
    np.save(file, converted)
    return file.getvalue()


def to_document(order: Order[Wanted], answers: Sequence[Classified | Fault], root_path: str) -> bytes:
    """A `schema.Embeddings`."""
    images: list[Mapping[str, object]] = []
    for upload, answer in zip(order.uploads, answers, strict=True):
        if isinstance(answer, Fault):
            images.append(given(upload) | {"error": problems.document(answer, root_path)})
            continue
        row = answer.outputs["embedding"].astype(np.float64)
        row = normalized(row[None])[0] if order.wanted.is_normalized else row
        size = {"width": answer.width, "height": answer.height}
        images.append(given(upload) | size | {"embedding": row.round(DECIMALS).tolist()})
    dimensions = order.model.card.architecture.channels
    body = {"dimensions": dimensions, "normalized": order.wanted.is_normalized, "images": images}
    return to_json(answered_by(order.model) | body)


def router(intake: Intake, settings: Settings, metrics: Metrics, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        with intake.permit() as permit:
            order = await intake.take(request, permit, KNOWN, Wanted.by)
            wanted = order.wanted
            answers = await intake.answers(request, permit, order, 1, ("embedding",), together=wanted.format != "json")
        headers = {MODEL_HEADER: order.model.reference, **server_timing(answers)}
        if wanted.format == "json":
            body = to_document(order, answers, request.scope.get("root_path", ""))
            return Response(body, media_type="application/json", headers=headers)
        rows = np.stack([answer.outputs["embedding"] for answer in answers if isinstance(answer, Classified)])
        headers[SHAPE_HEADER] = f"{rows.shape[0]}, {rows.shape[1]}"
        content = to_binary(normalized(rows) if wanted.is_normalized else rows, wanted.format)
        return Response(content, media_type="application/octet-stream", headers=headers)

    routes = APIRouter(
        tags=["explanation"],
        route_class=route_of(served(answer, guard, metrics)),
    )

    @routes.post(
        "/embed",
        response_model=schema.Embeddings,
        responses={
            200: {
                "content": {"application/octet-stream": {"schema": BINARY}},
                "headers": openapi.headers(HEADERS),
            },
            **problems.responses(*FAULTS, *guard.faults("classify")),
        },
        dependencies=guard.credentials("classify"),
        openapi_extra={"requestBody": request_body(settings.max_images, SCHEMAS)},
        summary="Turn images into vectors",
    )
    async def embed(
        parameters: Annotated[Parameters, Query()],
        milliseconds: Annotated[Timeout, Header(alias=TIMEOUT_HEADER)] = None,
    ) -> None:
        """Send one or many images, as for `/classify`. The answer is what the last layer of the network gets: its
        feature map, averaged over the image.

        In JSON, one bad image among many is an error for that item alone. In the other formats it is the answer to the
        whole request, with its number as `image`.
        """

    return routes
