"""Statuses of errors: Triton's, and HTTP's own."""

from __future__ import annotations

import pytest

from service import errors
from service.api.open_inference.errors import http_status
from service.api.problems import STATUS
from service.open_inference.errors import Code, ProtocolError, error_of
from service.runtime.faults import Fault

TRITON = {400, 404, 500, 501, 503}
HTTP = {401, 403, 405, 413, 415, 429}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.INVALID_ARGUMENT, 400),
        (Code.NOT_FOUND, 404),
        (Code.INTERNAL, 500),
        (Code.UNSUPPORTED, 501),
        (Code.UNAVAILABLE, 503),
    ],
)
def test_every_category_has_its_status(code: Code, status: int) -> None:
    assert http_status(ProtocolError(code, "")) == status


@pytest.mark.parametrize("fault", STATUS, ids=lambda fault: fault.slug)
def test_every_fault_has_a_status_of_triton_or_of_http(fault: type[Fault]) -> None:
    assert http_status(fault.__new__(fault)) in TRITON | HTTP


def test_what_the_data_plane_refuses_is_not_of_http() -> None:
    """A body that is too large is HTTP's; too large an image in it is the request's."""
    fault = errors.RequestTooLarge(bytes=2, max_bytes=1)
    assert http_status(fault) == 413
    assert http_status(error_of(fault)) == 400
