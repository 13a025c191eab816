"""Deadlines, memory and large images, against a real process."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.service.api.client import problem
from tests.support.processes import JPEG, Service
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SETTINGS = {"models": "resnet8-cifar", "provider": "cpu", "max_batch": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deadline_of_the_client_ends_its_request_and_its_images_are_not_computed(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, held: Path, workers: int
) -> None:
    service = start_service(tiny_dir, **SETTINGS, workers=workers, hang_timeout=600, engine_threads=1, decode_threads=1)

    def computed() -> float:
        found = service.get("/metrics").text.partition('resnet_batch_size_sum{model="resnet8-cifar"} ')[2]
        return float(found.split()[0]) if found else 0.0

    held.touch()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.classify, photo)
        until(lambda: 'resnet_images_in_service{model="resnet8-cifar"} 1.0' in service.get("/metrics").text)
        for _ in range(3):
            late = service.post("/classify", content=photo, headers={**JPEG, "X-Request-Timeout-Ms": "200"}, timeout=60)
            assert problem(late, 504, "deadline-missed")["timeout_ms"] == 200
        held.unlink()
        assert running.result().status_code == 200
    assert service.classify(photo).status_code == 200
    assert computed() == 2  # neither of the three that were too late
    assert 'resnet_images_total{model="resnet8-cifar",outcome="deadline-missed"} 3.0' in service.get("/metrics").text


def test_a_body_that_arrives_after_the_deadline_is_too_late(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 100\r\ncontent-length: {len(photo)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head.encode() + photo[:100])
        answer = b""
        while b"longer" not in answer and (received := connection.recv(65536)):
            answer += received
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"100 ms for the request: its body took longer to arrive" in answer


def test_the_services_own_limit_holds_without_the_header(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, held: Path
) -> None:
    service = start_service(tiny_dir, **SETTINGS, request_timeout=0.2, hang_timeout=600)
    held.touch()
    problem(service.classify(photo, timeout=60), 504, "deadline-missed")
    headers = {**JPEG, "X-Request-Timeout-Ms": "60000"}  # more than the service gives
    problem(service.post("/classify", content=photo, headers=headers, timeout=60), 504, "deadline-missed")
    held.unlink()
    until(lambda: service.classify(photo, timeout=60).status_code == 200)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon", "1e3"])
def test_a_deadline_that_is_no_number_is_refused(real_deadlines: Service, photo: bytes, value: str) -> None:
    response = real_deadlines.post("/classify", content=photo, headers={**JPEG, "X-Request-Timeout-Ms": value})
    assert problem(response, 422, "invalid-parameter")["parameter"] == "X-Request-Timeout-Ms"


@pytest.fixture(scope="module")
def real_deadlines(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tiny_dir, tmp_path_factory.mktemp("deadlines") / "service.log", **SETTINGS)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


def test_two_different_deadlines_are_refused(real_deadlines: Service, photo: bytes) -> None:
    name = b"X-Request-Timeout-Ms"
    headers = [(b"Content-Type", b"image/jpeg"), (name, b"100"), (name, b"200")]
    problem(real_deadlines.post("/classify", content=photo, headers=headers), 400, "repeated-header")


SMALL = {
    **SETTINGS,
    "decode_threads": 1,
    "max_image_bytes": 1_000_000,
    "max_request_bytes": 1_000_000,
    "memory_budget": 100 * 2**20,
    "client_timeout": 600,
}


@pytest.mark.slow
def test_uploads_that_stall_hold_no_more_than_the_budget_and_photographs_are_answered_meanwhile(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SMALL)
    head = b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 1000000\r\n\r\n"
    share = 25 * 2**20  # of bodies
    with ExitStack() as stack:
        connections = []
        for _ in range(60):
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60)))
            connections[-1].sendall(head + bytes(900_000))
            assert service.classify(photo).status_code == 200
            assert held(service) <= share
        refused = 0
        for connection in connections:
            connection.settimeout(0.2)
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer.lower()
            refused += 1
        assert refused >= 60 - share // 900_000
    until(lambda: held(service) == 0)


def held(service: Service) -> int:
    return int(float(service.get("/metrics").text.partition("\nresnet_request_bytes ")[2].split()[0]))


def test_bodies_that_are_announced_and_never_sent_hold_nothing(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SMALL)
    head = b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 1000000\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60)).sendall(head)
        assert service.classify(photo).status_code == 200
        assert held(service) == 0


def large_pngs(count: int) -> list[bytes]:
    """PNGs of 36 megapixels and a few kilobytes."""
    files = []
    for grey in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((6000, 6000), grey, np.uint8)).convert("RGB").save(buffer, "PNG", compress_level=1)
        files.append(buffer.getvalue())
    return files


@pytest.mark.slow
def test_many_large_images_at_once_stay_within_the_budget_and_photographs_do_not_wait_for_them(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SETTINGS, decode_threads=4, memory_budget=2**30, request_timeout=120)
    service.classify(photo)
    before = peak_memory(service)
    forms = [[("file", (f"{i}.png", data, "image/png")) for i, data in enumerate(large_pngs(3))] for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(service.post, "/classify", files=form, timeout=120) for form in forms]
        until(lambda: 'resnet_images_in_service{model="resnet8-cifar"} 12.0' in service.get("/metrics").text)
        answered = 0
        while not all(one.done() for one in waiting):
            assert service.classify(photo, timeout=60).status_code == 200
            answered += not all(one.done() for one in waiting)
    assert answered > 0  # before the large ones
    statuses = {
        image.get("error", {"type": "ok"})["type"] for one in waiting for image in one.result().json()["images"]
    }
    assert statuses <= {"ok", "/problems/overloaded"}
    assert "ok" in statuses
    # What the budget gives to large images; three at once would take more.
    assert peak_memory(service) - before < 2**30 * 3 // 4


def peak_memory(service: Service) -> int:
    """The most memory that the process has had, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
