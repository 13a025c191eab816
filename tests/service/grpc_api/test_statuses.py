"""Every fault has a status code, and says what is wrong and what to do."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from service.api.open_inference.errors import STATUS as OF_PROTOCOL
from service.api.problems import STATUS
from service.errors import Overloaded, RateLimited, TooManyImages, UnknownModel
from service.grpc_api.statuses import CODES, MOST_CHARACTERS, refusal_of
from service.open_inference.errors import Code, ProtocolError, error_of, invalid
from service.runtime.faults import CorruptImage, Fault


def test_every_fault_and_every_category_of_the_protocol_has_a_code() -> None:
    assert set(STATUS.values()) <= CODES.keys()
    assert set(OF_PROTOCOL.values()) <= CODES.keys()
    assert set(Code) == OF_PROTOCOL.keys()


@pytest.mark.parametrize(
    ("error", "code", "trailing"),
    [
        (
            Overloaded.by(5, 2),
            StatusCode.UNAVAILABLE,
            (("problem", "overloaded"), ("retry-after", "3"), ("grpc-retry-pushback-ms", "3000")),
        ),
        (
            error_of(Overloaded.by(5, 2)),
            StatusCode.UNAVAILABLE,
            (("problem", "overloaded"), ("retry-after", "3"), ("grpc-retry-pushback-ms", "3000")),
        ),
        (
            RateLimited(key="k", rate=1, burst=1, retry_after=7),
            StatusCode.RESOURCE_EXHAUSTED,
            (("problem", "rate-limited"), ("retry-after", "7"), ("grpc-retry-pushback-ms", "7000")),
        ),
        (
            error_of(UnknownModel(wanted="the name x", available="y")),
            StatusCode.NOT_FOUND,
            (("problem", "unknown-model"),),
        ),
        (invalid("wrong"), StatusCode.INVALID_ARGUMENT, (("problem", "invalid-argument"),)),
        (ProtocolError(Code.UNSUPPORTED, "no"), StatusCode.UNIMPLEMENTED, (("problem", "unsupported"),)),
    ],
)
def test_a_refusal(error: Fault | ProtocolError, code: StatusCode, trailing: object) -> None:
    refusal = refusal_of(error)
    assert (refusal.code, refusal.trailing) == (code, trailing)
    assert refusal.message.startswith(str(error))


def test_metrics_count_a_refusal_as_over_http() -> None:
    assert refusal_of(error_of(TooManyImages(max_images=1))).http_status == 413
    assert refusal_of(ProtocolError(Code.UNSUPPORTED, "no")).http_status == 501


def test_a_fault_says_what_to_do() -> None:
    message = refusal_of(Overloaded.by(5, 2)).message
    assert message == (
        "An image would wait 5000 ms; the limit is 2000 ms. Send the request again after 3 s: then the queue has "
        "drained below the limit."
    )


def test_a_message_stays_short_enough_for_a_header() -> None:
    assert len(refusal_of(CorruptImage(reason="x" * 100_000)).message) == MOST_CHARACTERS
