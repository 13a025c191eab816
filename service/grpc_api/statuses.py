"""Faults as gRPC sees them: status codes, messages and trailing metadata."""

from __future__ import annotations

from typing import NamedTuple

from grpc import StatusCode

from service.api.problems import headers_of, status_of
from service.open_inference.errors import Code, ProtocolError
from service.runtime.faults import Fault

# From the HTTP status of a fault. What is too large and what comes too often are both RESOURCE_EXHAUSTED, as in gRPC.
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    414: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    431: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
# From the category of an error that only the protocol knows, with the HTTP status that it has in metrics.
OF_PROTOCOL = {
    Code.INVALID_ARGUMENT: (StatusCode.INVALID_ARGUMENT, 400),
    Code.NOT_FOUND: (StatusCode.NOT_FOUND, 404),
    Code.UNSUPPORTED: (StatusCode.UNIMPLEMENTED, 501),
    Code.UNAVAILABLE: (StatusCode.UNAVAILABLE, 503),
    Code.INTERNAL: (StatusCode.INTERNAL, 500),
}
# A client reads 8 KiB of metadata, in which every byte beyond ASCII takes three.
MOST_CHARACTERS = 1000


class Refusal(NamedTuple):
    """How a call ends that has no answer.

    Attributes:
        slug: the stable name of what is wrong.
        http_status: what metrics count it as that have HTTP statuses.
        trailing: metadata.
    """

    code: StatusCode
    message: str
    slug: str
    http_status: int
    trailing: tuple[tuple[str, str], ...]


def refusal_of(error: Fault | ProtocolError) -> Refusal:
    fault = error if isinstance(error, Fault) else error.fault
    message = f"{error} {error.advice()}" if isinstance(error, Fault) else str(error)
    if fault:
        http_status = status_of(fault)
        code = CODES[http_status]
    else:
        assert isinstance(error, ProtocolError)
        code, http_status = OF_PROTOCOL[error.code]
    trailing = [("problem", error.slug)]
    if fault and (seconds := headers_of(fault).get("Retry-After")):
        # The second is what gRPC's own retries heed (gRFC A6).
        trailing += [("retry-after", seconds), ("grpc-retry-pushback-ms", f"{seconds}000")]
    return Refusal(code, message[:MOST_CHARACTERS], error.slug, http_status, tuple(trailing))
