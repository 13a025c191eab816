"""The service as a process, over real sockets: starting, refusing to start, overload, disconnects, stopping."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.folders import copied
from tests.support.processes import JPEG, Service, answers_ready, free_port, request
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

# The work that keeps the engine busy: `resnet18`, one image at a time.
BUSY = {
    "models": "resnet18",
    "provider": "cpu",
    "max_batch": 1,
    "engine_threads": 1,
    "target_wait_ms": 60_000,
    "request_timeout": 600,  # on a busy machine, too, nothing is too late
}
IDLE_18 = 'resnet_images_in_service{model="resnet18"} 0.0'


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_without_models_it_says_how_to_get_some(tmp_path: Path) -> None:
    finished = run("--models-dir", str(tmp_path))
    assert finished.returncode == 1
    assert "python -m model_export quickstart" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    finished = run("--port", "0", "--max-batch", "0")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: max_batch: ")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_unusable_address_is_one_sentence(tiny_dir: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        finished = run("--models-dir", str(tiny_dir), "--port", port, "--workers", workers)
    assert finished.returncode == 3
    assert finished.stderr.endswith(f"listens on 127.0.0.1 port {port}: stop it, or choose another port with --port\n")
    assert len(finished.stderr.splitlines()) == 1
    finished = run("--models-dir", str(tiny_dir), "--port", "0", "--host", "nosuch.invalid", "--workers", workers)
    assert finished.returncode == 3
    assert "nosuch.invalid is not an address of this machine" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_matter(tiny_dir: Path, closed: str) -> None:
    port = free_port()
    command = f"exec {sys.executable} -m service --models-dir {tiny_dir} --port {port} {closed}"
    process = subprocess.Popen(["sh", "-c", command])
    try:
        until(lambda: answers_ready(f"http://127.0.0.1:{port}"), seconds=60)
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def test_a_debugging_allocator_finds_nothing_at_the_end(
    tiny_dir: Path, start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    service = start_service(tiny_dir, provider="cpu")
    assert service.stop(signal.SIGTERM) == 0


def test_an_unavailable_provider_stops_it_with_the_reason(tiny_dir: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    finished = run("--models-dir", str(tiny_dir), "--provider", "cuda", "--port", "0")
    assert finished.returncode == 1
    assert "could not be loaded" in finished.stderr
    assert "CUDA" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_one_damaged_model_does_not_stop_the_others(
    tiny_dir: Path, tmp_path: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    root = copied(tiny_dir, tmp_path / "models")
    with (root / "resnet18" / "1" / "model.onnx").open("ab") as file:
        file.write(b"x")
    service = start_service(root, provider="cpu")
    states = {model["name"]: model["state"] for model in service.get("/models").json()["models"]}
    assert states == {"resnet18": "failed", "resnet8-cifar": "ready"}
    assert service.classify(photo).status_code == 200
    refused = service.classify(photo, "?depth=18")
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/model-failed")


def test_sigterm_turns_readiness_off_finishes_what_runs_and_exits_with_0(
    models_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(models_dir, **BUSY, shutdown_delay=60)
    files = [("file", photo)] * 4
    with ThreadPoolExecutor(16) as pool:
        requests = [pool.submit(service.post, "/classify", files=files, timeout=60) for _ in range(16)]
        until(lambda: IDLE_18 not in service.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.get("/healthz/ready").status_code == 503)
        assert service.get("/healthz/live").status_code == 200
        service.process.send_signal(signal.SIGTERM)  # ends the delay
        responses = [request.result() for request in requests]
    assert [response.status_code for response in responses] == [200] * 16
    assert all(len(response.json()["images"]) == 4 for response in responses)
    assert service.process.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        service.get("/healthz/live")


def test_ctrl_c_stops_it_at_once(tiny_dir: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(tiny_dir, provider="cpu", shutdown_delay=60)
    assert service.stop(signal.SIGINT) == 0


def test_requests_that_a_third_signal_cuts_off_are_told_to_come_back(
    models_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(models_dir, **BUSY, shutdown_delay=60)
    files = [("file", photo)] * 16

    def port_is_closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", service.port)).close()
        except ConnectionError:
            return True
        return False

    with ThreadPoolExecutor(12) as pool:
        requests = [pool.submit(service.post, "/classify", files=files, timeout=60) for _ in range(12)]
        until(lambda: IDLE_18 not in service.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.get("/healthz/ready").status_code == 503)
        service.process.send_signal(signal.SIGTERM)
        until(port_is_closed)
        service.process.send_signal(signal.SIGTERM)
        responses = [request.result() for request in requests]
    cut_off = [response for response in responses if response.status_code != 200]
    assert cut_off
    for response in cut_off:
        assert (response.status_code, response.json()["type"]) == (503, "/problems/stopping")
        assert response.headers["retry-after"] == "1"
    assert service.process.wait(timeout=30) == 0


@pytest.mark.parametrize(("workers", "files"), [(1, 128), (2, 128)])
def test_more_silent_connections_than_descriptors_leave_it_alive(
    tiny_dir: Path, photo: bytes, workers: int, files: int
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = f"--models-dir {tiny_dir} --provider cpu --port {port} --workers {workers} --client-timeout 600"
    command = f"ulimit -n {files}; exec {sys.executable} -m service {arguments}"
    process = subprocess.Popen(["sh", "-c", command])
    silent: list[socket.socket] = []
    try:
        until(lambda: answers_ready(url), seconds=60)
        for _ in range(4):
            silent += [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
            response = request("GET", f"{url}/healthz/live")
            assert response.status_code == 200
            assert "server" not in response.headers
            assert request("POST", f"{url}/classify", content=photo, headers=JPEG).status_code == 200
        found = request("GET", f"{url}/metrics").text
        evicted = re.search(r'resnet_connections_closed_total{reason="evicted"} (.*)', found)
        assert evicted
        assert float(evicted[1]) >= 400 - workers * files
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        for connection in silent:
            connection.close()


def test_beyond_the_target_wait_it_says_when_to_come_back_and_recovers(
    models_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(models_dir, **{**BUSY, "target_wait_ms": 0.001})

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            return await asyncio.gather(*(client.post("/classify", content=photo, headers=JPEG) for _ in range(60)))

    responses = asyncio.run(flood())
    statuses = {response.status_code for response in responses}
    assert statuses == {200, 503}
    for refused in (response for response in responses if response.status_code == 503):
        assert refused.json()["type"] == "/problems/overloaded"
        assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert service.classify(photo).status_code == 200


def test_images_of_clients_that_hang_up_are_not_computed(
    models_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(models_dir, **BUSY)
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: {len(photo)}\r\n\r\n"
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head.encode() + photo)
    until(lambda: IDLE_18 in service.get("/metrics").text)
    metrics = service.get("/metrics").text
    computed = float(metrics.split('resnet_batch_size_sum{model="resnet18"} ')[1].split()[0])
    assert computed < 40
    assert 'resnet_requests_total{model="resnet18",problem="",status="499"}' in metrics
    assert service.classify(photo).status_code == 200


def test_a_client_that_leaves_while_it_uploads_leaves_nothing_behind(
    tiny_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, provider="cpu")
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: {len(photo)}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head.encode() + photo[: len(photo) // 2])
    left = 'resnet_requests_total{model="resnet8-cifar",problem="",status="499"} 5.0'
    until(lambda: left in service.get("/metrics").text)
    metrics = service.get("/metrics").text
    assert "\nresnet_request_bytes 0.0\n" in metrics
    assert 'resnet_batch_size_count{model="resnet8-cifar"} 0.0' in metrics


def test_an_endless_body_is_refused_and_its_memory_is_not_kept(
    tiny_dir: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, provider="cpu", max_image_bytes=100_000)
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += 100_000
            yield bytes(100_000)

    def resident() -> float:
        metrics = service.get("/metrics").text
        return float(metrics.split("\nprocess_resident_memory_bytes ")[1].split()[0])

    before = resident()
    response = service.post("/classify", content=body(), headers=JPEG, timeout=60)
    assert (response.status_code, response.json()["type"]) == (413, "/problems/image-too-large")
    assert resident() - before < 20_000_000


def test_a_slow_upload_delays_nobody_else(tiny_dir: Path, photo: bytes, start_service: Callable[..., Service]) -> None:
    service = start_service(tiny_dir, provider="cpu")
    gate = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield photo[:1000]
        assert gate.wait(30)
        yield photo[1000:]

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.post, "/classify", content=slowly(), headers=JPEG, timeout=60)
        quick = [service.classify(photo) for _ in range(5)]
        assert not slow.done()
        gate.set()
        assert slow.result().json()["images"] == quick[0].json()["images"]
