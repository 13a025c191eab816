"""Errors in the form of another protocol."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request, Response

from service.api import problems
from service.api.guard import Handler
from service.runtime.faults import Fault


def formed(handler: Handler, form: Callable[[Fault], object]) -> Handler:
    """The handler, whose faults are answered with what `form` makes of them; status and headers stay the same."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Fault as fault:
            return problems.response(request, fault, form)

    return answered


def message(fault: Fault) -> str:
    """What a problem document says in several members, in one text."""
    place = f"Image {fault.members['image']} (from 0): " if "image" in fault.members else ""
    return f"{place}{fault} {fault.advice()}"
