"""What the calls of other protocols do alike: they answer all images or none, and have errors of their own form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse

from service.answers import Classified
from service.api.access import note
from service.api.intake import Intake, Reader
from service.api.problems import Form, headers_of, status_of
from service.api.results import Wanted
from service.api.uploads import read_body
from service.errors import SeveralImages
from service.runtime.faults import Fault


async def classified(
    intake: Intake,
    request: Request,
    known: Sequence[str],
    wanted: Callable[..., Wanted],
    *,
    model: str | None = None,
    body: Reader = read_body,
    one: bool = False,
) -> tuple[Wanted, list[Classified]]:
    """What the request wants, and the answer for each of its images.

    Args:
        known, model, body: as of `Intake.take`; `wanted` is its `read`.
        one: whether the call takes one image only.

    Raises:
        Fault: that of the first image without an answer, or of the request.
    """
    with intake.permit() as permit:
        order = await intake.take(request, permit, known, wanted, model=model, body=body)
        if one and len(order.uploads) > 1:
            raise SeveralImages(images=len(order.uploads))
        answers = await intake.answers(request, permit, order, order.wanted.computed, together=True)
    return order.wanted, [answer for answer in answers if isinstance(answer, Classified)]


def form(said: Callable[[Fault], object]) -> Form:
    """The form of errors of a protocol.

    Args:
        said: what the protocol says of a fault, as JSON.
    """

    def response(request: Request, fault: Fault) -> JSONResponse:
        note(request, problem=fault.slug)
        return JSONResponse(said(fault), status_of(fault), headers_of(fault))

    return response


def message(fault: Fault) -> str:
    """What a problem document says in several members, in one text."""
    place = f"image {fault.members['image']} of the request: " if "image" in fault.members else ""
    return f"{place}{fault} {fault.advice()}"
