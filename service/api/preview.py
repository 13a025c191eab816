"""`POST /preview`: what the network sees of an image."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from service.api import openapi, problems
from service.api.guard import Guard
from service.api.intake import Intake, of_upload, route_of, to_its_end
from service.api.openapi import BINARY, FAULTS, request_body
from service.api.parameters import SCHEMAS, TIMEOUT_HEADER, Choice, Timeout
from service.api.results import MODEL_HEADER
from service.errors import SeveralImages
from service.runtime.images.preview import DecodePath

KNOWN = tuple(Choice.model_fields)
PATH_HEADER = "X-Decoded"
HEADERS = {
    MODEL_HEADER: "The model and its version: `resnet50@3`.",
    PATH_HEADER: 'How the file was decoded: `format="JPEG", width=4032, height=3024, mode="RGB", bits=8, '
    "transparency=?0, orientation=6, passes=1, divisor=4, lacks_end=?0` (RFC 9651).",
}


class Picture(Response):
    media_type = "image/png"


def structured(path: DecodePath) -> str:
    """A dictionary of strings, integers and booleans (RFC 9651, section 3.2)."""

    def item(value: object) -> str:
        return f"?{int(value)}" if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)

    return ", ".join(f"{name}={item(value)}" for name, value in path._asdict().items())


def router(intake: Intake, guard: Guard) -> APIRouter:
    async def answer(request: Request) -> Response:
        with intake.permit() as permit:
            order = await intake.take(request, permit, KNOWN, lambda values, model: None)
            if len(order.uploads) > 1:
                raise SeveralImages(images=len(order.uploads))
            (upload,) = order.uploads
            shown = await of_upload(request, upload, order.pipeline.show(permit, upload.data, order.deadline))
        timing = ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in shown.seconds.items())
        headers = {
            MODEL_HEADER: order.model.reference,
            PATH_HEADER: structured(shown.path),
            "Server-Timing": timing,
        }
        return Picture(shown.png, headers=headers)

    routes = APIRouter(tags=["classification"], route_class=route_of(to_its_end(guard.protect("classify", answer))))

    @routes.post(
        "/preview",
        response_class=Picture,
        responses={
            200: {
                "description": "A PNG.",
                "content": {Picture.media_type: {"schema": BINARY}},
                "headers": openapi.headers(HEADERS),
            },
            **problems.responses(*FAULTS, SeveralImages, *guard.faults("classify")),
        },
        dependencies=guard.credentials("classify"),
        openapi_extra={"requestBody": request_body(1, {name: SCHEMAS[name] for name in KNOWN})},
        summary="See what the network sees of an image",
    )
    async def preview(
        parameters: Annotated[Choice, Query()],
        milliseconds: Annotated[Timeout, Header(alias=TIMEOUT_HEADER)] = None,
    ) -> None:
        """Send one image, as for `/classify`. The answer is the network's input, pixel by pixel, before its
        normalisation: upright, resized and cropped as the model's card says. Nothing is computed.
        """

    return routes
