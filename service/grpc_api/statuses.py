"""Faults as gRPC sees them: status codes, messages and trailing metadata."""

from __future__ import annotations

from typing import NamedTuple

from grpc import StatusCode

from service.api.open_inference import errors as open_inference
from service.api.problems import headers_of, status_of
from service.open_inference.errors import ProtocolError, error_of
from service.runtime.faults import Fault

# From the HTTP status. What is too large and what comes too often are both RESOURCE_EXHAUSTED, as in gRPC.
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
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
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
    said = error_of(error) if isinstance(error, Fault) else error
    fault = said.fault
    # Of an error with a fault behind it, the fault's own status: gRPC has more of them than the protocol.
    http_status = status_of(fault) if fault else open_inference.STATUS[said.code]
    trailing = [("problem", said.slug)]
    if fault and (seconds := headers_of(fault).get("Retry-After")):
        # The second is what gRPC's own retries heed (gRFC A6).
        trailing += [("retry-after", seconds), ("grpc-retry-pushback-ms", f"{seconds}000")]
    return Refusal(CODES[http_status], str(said)[:MOST_CHARACTERS], said.slug, http_status, tuple(trailing))
