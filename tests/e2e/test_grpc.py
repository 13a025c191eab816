"""Calls over gRPC that last: cancelled, overdue, in flight at the end; and several workers."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from benchmarks.processes import children
from service.grpc_api.messages import ModelInferRequest
from tests.support.processes import Service, free_port, listens
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SIDE = 32
MODEL = "resnet8-cifar"
Start = Callable[..., Service]


def request() -> bytes:
    """For one image."""
    message = ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(3 * SIDE * SIDE)])
    message.inputs.add(name="image", datatype="UINT8", shape=[1, 3, SIDE, SIDE])
    return message.SerializeToString()


def infer(channel: grpc.Channel, timeout: float | None = None) -> Any:
    """A call that has begun."""
    method: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return method.future(request(), timeout=timeout)


def sample(service: Service, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", service.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def until_in_service(service: Service, images: int) -> None:
    until(lambda: sample(service, f'resnet_images_in_service{{model="{MODEL}"}}') == images)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def service(held: Path, tiny_dir: Path, start_service: Start, port: int) -> Service:
    """No batch of it ends while the file `held` exists."""
    return start_service(
        tiny_dir, provider="cpu", max_batch=1, target_wait_ms=60_000, grpc_port=port, shutdown_delay=0.2
    )


def test_a_cancelled_call_withdraws_its_images(service: Service, held: Path, port: int) -> None:
    held.touch()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [infer(channel) for _ in range(8)]
        until_in_service(service, 8)
        for call in calls:
            call.cancel()
        until_in_service(service, 0)
        held.unlink()
        assert infer(channel).exception(timeout=30) is None
    assert sample(service, f'resnet_images_total{{model="{MODEL}",outcome="withdrawn"}}') == 8
    cancelled = 'resnet_grpc_request_seconds_count{code="CANCELLED",method="ModelInfer"}'
    until(lambda: sample(service, cancelled) == 8)
    assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
def test_an_overdue_call_gives_its_place_back(service: Service, held: Path, port: int) -> None:
    held.touch()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = infer(channel, timeout=1.0)
        until_in_service(service, 1)
        assert call.exception(timeout=30).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until_in_service(service, 0)
        held.unlink()
        assert infer(channel).exception(timeout=30) is None
    overdue = 'resnet_grpc_request_seconds_count{code="DEADLINE_EXCEEDED",method="ModelInfer"}'
    until(lambda: sample(service, overdue) == 1)


def test_what_has_begun_is_finished_at_the_end(service: Service, held: Path, port: int) -> None:
    held.touch()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = infer(channel)
        until_in_service(service, 1)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(port))
        held.unlink()
        assert call.exception(timeout=30) is None
    assert service.process.wait(30) == 0
    assert "Traceback" not in service.log.read_text()


def test_those_who_call_without_a_pause_are_told_to_go_elsewhere(
    tiny_dir: Path, start_service: Start, port: int
) -> None:
    service = start_service(tiny_dir, provider="cpu", max_batch=8, grpc_port=port, shutdown_delay=0)

    def call_until_refused(_: int) -> grpc.StatusCode:
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while (error := infer(channel).exception(timeout=30)) is None:
                pass
            code: grpc.StatusCode = error.code()
            return code

    with ThreadPoolExecutor(8) as pool:
        ends = pool.map(call_until_refused, range(8))
        until(lambda: sample(service, f'resnet_images_total{{model="{MODEL}",outcome="ok"}}') > 50)
        service.process.send_signal(signal.SIGTERM)
        assert set(ends) == {grpc.StatusCode.UNAVAILABLE}
    assert service.process.wait(30) == 0
    assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
def test_what_does_not_end_is_refused(held: Path, tiny_dir: Path, start_service: Start, port: int) -> None:
    service = start_service(
        tiny_dir, provider="cpu", max_batch=1, grpc_port=port, shutdown_delay=0, shutdown_timeout=1, hang_timeout=60
    )
    held.touch()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = infer(channel)
        until_in_service(service, 1)
        service.process.send_signal(signal.SIGTERM)
        error = call.exception(timeout=30)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details().startswith("The server stopped before it could answer the request.")
        assert dict(error.trailing_metadata())["problem"] == "stopping"
    held.unlink()
    service.process.wait(60)


@pytest.mark.slow
def test_further_signals_cut_calls_off(service: Service, held: Path, port: int) -> None:
    held.touch()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = infer(channel)
        until_in_service(service, 1)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(port))
        for _ in range(2):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # two at once would count as one
        assert service.process.wait(30) == 0
        assert call.exception(timeout=30).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
def test_workers_share_the_port(tiny_dir: Path, start_service: Start, port: int) -> None:
    service = start_service(tiny_dir, provider="cpu", max_batch=4, workers=2, grpc_port=port, shutdown_delay=0.5)
    service.wait_until_all_listen()
    image = triton.InferInput("image", [2, 3, SIDE, SIDE], "UINT8")
    image.set_data_from_numpy(np.zeros((2, 3, SIDE, SIDE), np.uint8))

    def ask() -> None:
        """Over a connection of its own."""
        arguments = [("grpc.use_local_subchannel_pool", 1)]
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=arguments) as client:
            result = client.infer(MODEL, [image])
            assert result.as_numpy("logits").shape == (2, 10)

    for _ in range(30):
        ask()
    answered = set(re.findall(r"worker (\d): .* gRPC \S+/ModelInfer OK", service.log.read_text()))
    assert answered == {"0", "1"}
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        (statistics,) = client.get_inference_statistics(MODEL).model_stats
        assert statistics.inference_count == 60  # of both

    (first, *_) = children(service.process.pid)
    first_log = service.log.read_text()
    os.kill(first, signal.SIGKILL)
    until(lambda: "listens in its place" in service.log.read_text().removeprefix(first_log))
    for _ in range(10):
        ask()
    assert service.stop() == 0
