"""What goes wrong with a call of the protocol, in the categories that Triton has for it."""

from __future__ import annotations

import enum

from service import errors
from service.runtime.faults import Fault

MOST_CHARACTERS = 500  # of a message: it may repeat what the request says


class Code(enum.Enum):
    """Categories of errors, as in Triton's `TRITONSERVER_Error_Code`."""

    INVALID_ARGUMENT = "invalid-argument"
    NOT_FOUND = "not-found"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ProtocolError(Exception):
    """The answer to a call is an error.

    Attributes:
        code: the category.
        fault: the fault of this service behind it; None for what only the protocol knows.
        slug: a stable name of what is wrong, for logs and metrics.
    """

    def __init__(self, code: Code, message: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fault = fault
        self.slug = fault.slug if fault else code.value


def invalid(message: str) -> ProtocolError:
    """The request is wrong in itself."""
    return ProtocolError(Code.INVALID_ARGUMENT, message[:MOST_CHARACTERS])


def error_of(fault: Fault, image: int | None = None) -> ProtocolError:
    """A fault in the protocol's terms.

    Args:
        image: the index of the image at fault, in a request with several.
    """
    where = "" if image is None else f"image {image} of the request: "
    return ProtocolError(code_of(fault), f"{where}{fault} {fault.advice()}", fault)


def code_of(fault: Fault) -> Code:
    if isinstance(fault, errors.UnknownModel | errors.NotFound):
        return Code.NOT_FOUND
    if isinstance(fault, errors.InternalError):
        return Code.INTERNAL
    if isinstance(fault, errors.ServerFault):
        return Code.UNAVAILABLE
    return Code.INVALID_ARGUMENT
