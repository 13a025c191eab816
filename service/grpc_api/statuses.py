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
OF_PROTOCOL = {
    Code.INVALID_ARGUMENT: StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: StatusCode.NOT_FOUND,
    Code.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
    Code.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Code.INTERNAL: StatusCode.INTERNAL,
}
# The other way, for metrics that have HTTP statuses: as google/rpc/code.proto says.
HTTP = {
    StatusCode.OK: 200,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.INTERNAL: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
# A client reads 8 KiB of metadata, in which every byte beyond ASCII takes three.
MOST_CHARACTERS = 1000


class Refusal(NamedTuple):
    """How a call ends that has no answer.

    Attributes:
        slug: the stable name of what is wrong.
        trailing: metadata.
    """

    code: StatusCode
    message: str
    slug: str
    trailing: tuple[tuple[str, str], ...]


def refusal_of(error: Fault | ProtocolError) -> Refusal:
    fault = error if isinstance(error, Fault) else error.fault
    message = f"{error} {error.advice()}" if isinstance(error, Fault) else str(error)
    code = CODES[status_of(fault)] if fault else OF_PROTOCOL[error.code]  # type: ignore[union-attr]
    trailing = [("problem", error.slug)]
    if fault and (seconds := headers_of(fault).get("Retry-After")):
        # The second is what gRPC's own retries heed (gRFC A6).
        trailing += [("retry-after", seconds), ("grpc-retry-pushback-ms", f"{seconds}000")]
    return Refusal(code, message[:MOST_CHARACTERS], error.slug, tuple(trailing))
