"""What stops making progress is ended: an engine, the engine process, a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import children
from tests.support.processes import Service, alive, free_port, request, starting_with
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

HANG_TIMEOUT = 2  # seconds
SETTINGS = {"models": "resnet8-cifar", "provider": "cpu", "max_batch": 1, "hang_timeout": HANG_TIMEOUT}


def outcome(service: Service, photo: bytes) -> int | None:
    """The status of a request; None if its connection breaks."""
    try:
        return service.classify(photo, timeout=60).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_that_never_ends_ends_the_service(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, held: Path, workers: int
) -> None:
    service = start_service(tiny_dir, **SETTINGS, workers=workers)
    assert outcome(service, photo) == 200
    pids = children(service.process.pid)
    held.touch()
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: outcome(service, photo), range(4)))
    assert outcomes == [None] * 4  # a load balancer sends them to another replica
    assert service.process.wait(timeout=30) == 1
    log = service.log.read_text()
    assert "the engine of resnet8-cifar has made no progress for " in log
    assert "exits: the engine of resnet8-cifar hangs" in log
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_batch_that_ends_in_time_is_left_alone(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, held: Path
) -> None:
    service = start_service(tiny_dir, **{**SETTINGS, "hang_timeout": 600})
    held.touch()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(outcome, service, photo)
        until(lambda: 'resnet_images_in_service{model="resnet8-cifar"} 1.0' in service.get("/metrics").text)
        held.unlink()
        assert answer.result() == 200
    assert service.stop() == 0


def test_workers_end_an_engine_process_that_is_stopped(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SETTINGS, workers=2)
    service.wait_until_all_listen()
    pids = children(service.process.pid)
    os.kill(service.process.pid, signal.SIGSTOP)
    assert outcome(service, photo) is None
    assert service.process.wait(timeout=30) == -signal.SIGKILL
    until(lambda: not any(alive(pid) for pid in pids))
    assert "the engine process has made no progress for 2.0 s" in service.log.read_text()


def test_a_worker_that_is_stopped_is_replaced_and_nobody_hangs(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(tiny_dir, **SETTINGS, workers=2)
    service.wait_until_all_listen()
    stopped, other = children(service.process.pid)
    os.kill(stopped, signal.SIGSTOP)
    with ThreadPoolExecutor(16) as pool:
        outcomes = set(pool.map(lambda _: outcome(service, photo), range(32)))
    assert outcomes <= {200, None}
    until(lambda: "listens in its place" in service.log.read_text())
    assert not alive(stopped)
    assert other in children(service.process.pid)
    assert len(children(service.process.pid)) == 2
    assert {outcome(service, photo) for _ in range(8)} == {200}
    assert service.stop() == 0


def test_a_worker_that_takes_long_to_end_is_left_alone(
    tiny_dir: Path, start_service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event loop no longer turns while it sends its last traces, or while the machine is busy."""
    program = f"""import atexit, sys, time
atexit.register(lambda: time.sleep({2 * HANG_TIMEOUT} if "service.workers.worker" in sys.orig_argv else 0))
"""
    monkeypatch.setenv("PYTHONPATH", starting_with(tmp_path, program)["PYTHONPATH"])
    service = start_service(tiny_dir, **SETTINGS, workers=2)
    service.wait_until_all_listen()
    assert service.stop() == 0
    assert "no progress" not in service.log.read_text()


def test_without_any_worker_the_admin_port_is_not_ready(tiny_dir: Path, start_service: Callable[..., Service]) -> None:
    port = free_port()
    service = start_service(tiny_dir, **SETTINGS, workers=2, admin_port=port)
    service.wait_until_all_listen()

    def status() -> int:
        return request("GET", f"http://127.0.0.1:{port}/healthz/ready").status_code

    assert status() == 200
    for pid in children(service.process.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: status() == 503)
    until(lambda: status() == 200)  # others have taken their place
