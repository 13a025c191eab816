"""Errors as the protocol writes them: `{"error": "..."}`, with Triton's statuses."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse

from service.api.access import note
from service.api.problems import headers_of, status_of
from service.open_inference.errors import Code, ProtocolError, code_of, error_of
from service.runtime.faults import Fault

STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.UNSUPPORTED: 501,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}
# What HTTP itself, a proxy or the guard has to say stays as it is: the protocol leaves these to the transport.
OF_HTTP = (401, 403, 405, 413, 415, 429)


def http_status(error: ProtocolError | Fault) -> int:
    if isinstance(error, Fault):
        status = status_of(error)
        return status if status in OF_HTTP else STATUS[code_of(error)]
    return STATUS[error.code]


def response(request: Request, error: ProtocolError | Fault) -> JSONResponse:
    """
    Args:
        error: a Fault if it did not get as far as the data plane.
    """
    said = error_of(error) if isinstance(error, Fault) else error
    note(request, problem=said.slug)
    headers = headers_of(said.fault) if said.fault else {}
    return JSONResponse({"error": str(said)}, http_status(error), headers)


def handle(request: Request, error: Exception) -> JSONResponse:
    """The handler of ProtocolError."""
    assert isinstance(error, ProtocolError)
    return response(request, error)
