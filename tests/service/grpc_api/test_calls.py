"""What surrounds every call: keys, ids, deadlines, cancellation, lines in the log and measurements."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.service.api.client import as_bearer, entry
from tests.service.grpc_api.conftest import GrpcService, method, pixels
from tests.support.waiting import until

PATH = "/inference.GRPCInferenceService/ModelInfer"


def infer(channel: grpc.Channel, *metadata: tuple[str, str], timeout: float | None = None, **options: Any) -> Any:
    """The call after its end: an answer, or the error."""
    made: Any = channel.unary_unary(PATH)
    call = made.future(pixels(**options).SerializeToString(), metadata=metadata, timeout=timeout)
    call.exception()
    return call


def sample(service: GrpcService, name: str, headers: dict[str, str] | None = None) -> float:
    """A sample of the metrics; 0 if there is none."""
    text = service.get("/metrics", headers=headers).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def logged(service: GrpcService, pattern: str) -> re.Match[str]:
    """The line of the log, once it is there."""
    until(lambda: re.search(pattern, service.log.read_text()) is not None)
    found = re.search(pattern, service.log.read_text())
    assert found
    return found


def test_the_id_of_the_client_comes_back_and_is_in_the_log(service: GrpcService, channel: grpc.Channel) -> None:
    call = infer(channel, ("x-request-id", "mine-1"))
    assert ("x-request-id", "mine-1") in call.trailing_metadata()
    size = len(pixels().SerializeToString())
    logged(
        service,
        rf"\[mine-1\] gRPC {PATH} OK in \S+ ms client=127\.0\.0\.1 bytes={size} model=resnet8-cifar@1 images=1\n",
    )


def test_an_answer_says_where_its_time_went(channel: grpc.Channel) -> None:
    timing = dict(infer(channel).trailing_metadata())["server-timing"]
    assert re.fullmatch(r'decode;dur=\S+, queue;dur=\S+, inference;dur=\S+, batch;desc="1", total;dur=\S+', timing)


def test_without_an_id_or_with_one_that_could_do_harm_there_is_a_new_one(channel: grpc.Channel) -> None:
    for metadata in ((), (("x-request-id", "a b"),)):
        found = dict(infer(channel, *metadata).trailing_metadata())
        assert re.fullmatch("[0-9a-f]{32}", found["x-request-id"])


def test_a_refusal_has_the_id_and_its_problem(service: GrpcService, channel: grpc.Channel) -> None:
    call = infer(channel, ("x-request-id", "mine-2"), model="nothing")
    assert call.code() is grpc.StatusCode.NOT_FOUND
    assert dict(call.trailing_metadata()) == {"x-request-id": "mine-2", "problem": "unknown-model"}
    logged(service, rf"\[mine-2\] gRPC {PATH} NOT_FOUND in .* problem=unknown-model\n")


def test_probes_are_not_logged_while_they_are_answered_well(service: GrpcService, channel: grpc.Channel) -> None:
    method(channel, "ServerLive")(b"")
    infer(channel, ("x-request-id", "after-the-probe"))
    logged(service, "after-the-probe")
    assert "ServerLive" not in service.log.read_text()


def test_calls_are_measured_by_method_and_code(service: GrpcService, channel: grpc.Channel) -> None:
    name = 'resnet_grpc_request_seconds_count{code="%s",method="ModelInfer"}'
    names = [
        *(name % code for code in ("OK", "NOT_FOUND")),
        'resnet_requests_total{model="resnet8-cifar",problem="",status="200"}',
        'resnet_requests_total{model="unknown",problem="unknown-model",status="404"}',
    ]
    before = [sample(service, name) for name in names]
    infer(channel)
    infer(channel, model="nothing")
    until(lambda: [sample(service, name) for name in names] == [count + 1 for count in before])
    assert sample(service, "resnet_grpc_requests_in_flight") == 0


def test_a_deadline_that_has_passed(service: GrpcService, channel: grpc.Channel) -> None:
    assert infer(channel, timeout=1e-5).code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(scope="module")
def guarded(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcService]:
    """A service with keys."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    keys.write_text(
        entry("user", '"classify"') + entry("prometheus", '"metrics"') + entry("slow", '"classify"', "rate = 0.001")
    )
    with GrpcService(tiny_dir, folder / "log", api_keys_file=keys) as service:
        yield service


def test_keys_open_and_close_as_over_http(guarded: GrpcService) -> None:
    service = guarded
    with grpc.insecure_channel(service.address) as channel:
        for metadata, code in (
            ((), "UNAUTHENTICATED"),
            ((("authorization", "Bearer nobody"),), "UNAUTHENTICATED"),
            ((("authorization", "Bearer user"), ("x-api-key", "other")), "UNAUTHENTICATED"),
            ((("authorization", "Bearer prometheus"),), "PERMISSION_DENIED"),
            ((("authorization", "Bearer user"),), "OK"),
            ((("x-api-key", "user"),), "OK"),
            ((("x-api-key", "slow"),), "OK"),
            ((("x-api-key", "slow"),), "RESOURCE_EXHAUSTED"),
        ):
            call = infer(channel, *metadata)
            assert call.code().name == code, metadata
        assert call.details().startswith("The key slow may send 0.001 requests a second, 1 at once. Send the request")
        assert dict(call.trailing_metadata())["problem"] == "rate-limited"
        assert 0 < int(dict(call.trailing_metadata())["retry-after"]) <= 1000
        statistics: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")
        for metadata, code in (((), "UNAUTHENTICATED"), ((("x-api-key", "prometheus"),), "OK")):
            call = statistics.future(b"", metadata=metadata)
            call.exception()
            assert call.code().name == code
        for name in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"):
            method(channel, name)(b"")
    logged(service, rf"gRPC {PATH} OK in .* key=user\n")
    counted = {
        (key, status): sample(
            service, f'resnet_key_requests_total{{key="{key}",status="{status}"}}', as_bearer("prometheus")
        )
        for key, status in (("user", 200), ("slow", 429), ("anonymous", 401), ("invalid", 401), ("prometheus", 403))
    }
    assert counted == {
        ("user", 200): 2,
        ("slow", 429): 1,
        ("anonymous", 401): 2,
        ("invalid", 401): 2,
        ("prometheus", 403): 1,
    }


def test_a_refused_call_is_answered_before_its_message_has_come(guarded: GrpcService) -> None:
    held = threading.Event()

    def waiting() -> Iterator[bytes]:
        held.wait(30)
        yield pixels().SerializeToString()

    with grpc.insecure_channel(guarded.address) as channel:
        made: Any = channel.stream_unary(PATH)
        call = made.future(waiting())
        try:
            assert call.exception(timeout=60).code() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            held.set()


def test_a_call_without_a_message_is_refused(channel: grpc.Channel) -> None:
    made: Any = channel.stream_unary(PATH)
    with pytest.raises(grpc.RpcError) as caught:
        made(iter(()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the call carries no message: send one"
