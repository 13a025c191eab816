"""The service with workers, as processes: what a client sees is what one process would show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

JPEG = {"content-type": "image/jpeg"}
WORKERS = 2


@pytest.fixture
def service(models_dir: Path, start_service: Callable[..., Service]) -> Service:
    return start_service(models_dir, provider="cpu", max_batch=4, workers=WORKERS, shutdown_delay=0.2)


def processes(service: Service) -> list[int]:
    """The workers."""
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def samples(service: Service) -> dict[str, float]:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (ln.rpartition(" ") for ln in lines if not ln.startswith("#"))}


def test_answers_are_those_of_one_process(
    service: Service, models_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    alone = start_service(models_dir, provider="cpu", max_batch=4)
    assert httpx.get(f"{service.url}/models").json() == httpx.get(f"{alone.url}/models").json()
    for query in ("", "?depth=8&top_k=10", "?model=resnet18&top_k=1000"):
        found, expected = (
            httpx.post(f"{one.url}/classify{query}", content=photo, headers=JPEG).json() for one in (service, alone)
        )
        assert found["model"] == expected["model"]
        (image,), (right,) = found["images"], expected["images"]
        assert [p["class_id"] for p in image["predictions"]] == [p["class_id"] for p in right["predictions"]]
        assert [p["probability"] for p in image["predictions"]] == pytest.approx(
            [p["probability"] for p in right["predictions"]], abs=2e-6
        )
    refused = httpx.post(f"{service.url}/classify", content=photo[:-3000], headers=JPEG)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/truncated-image")


def test_every_worker_serves_and_metrics_are_of_all_of_them(service: Service, photo: bytes) -> None:
    assert len(processes(service)) == WORKERS

    def classify(_: int) -> int:  # a connection each: the system divides them
        return httpx.post(f"{service.url}/classify?depth=8", content=photo, headers=JPEG).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(classify, range(64))) == {200}
    for _ in range(8):  # whichever worker answers
        found = samples(service)
        assert found['resnet_requests_total{model="resnet8-cifar",status="200"}'] == 64
        assert found['resnet_images_total{model="resnet8-cifar",outcome="ok"}'] == 64
        assert found['resnet_batch_size_sum{model="resnet8-cifar"}'] == 64
        assert found['resnet_queue_images{model="resnet8-cifar"}'] == 0
        (info,) = [name for name in found if name.startswith("resnet_model_info") and 'depth="8"' in name]
        assert found[info] == 1
    seconds = [
        float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) for pid in processes(service)
    ]
    assert min(seconds) > 0


def test_the_queue_is_that_of_all_workers(
    models_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(models_dir, provider="cpu", max_batch=1, workers=WORKERS, max_queue=4, max_images=4)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 3

    def classify(_: int) -> int:
        return httpx.post(f"{service.url}/classify?depth=18", files=files, timeout=60).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(classify, range(24)))
    assert set(statuses) == {200, 503}
    assert httpx.post(f"{service.url}/classify", files=files).status_code == 200  # and it empties again


def test_a_worker_that_dies_is_replaced(service: Service, photo: bytes) -> None:
    before = processes(service)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(processes(service)) == WORKERS and before[0] not in processes(service))
    new = next(pid for pid in processes(service) if pid not in before)
    until(lambda: b"ready" in Path(service.log).read_bytes().partition(b"starting another")[2])
    assert f"worker 0 (process {before[0]}) ended with status -9: starting another" in service.log.read_text()
    os.kill(before[1], signal.SIGSTOP)  # so that it is the new one that answers, sooner or later
    try:
        answered = 0
        for _ in range(20):
            try:
                answered += httpx.post(f"{service.url}/classify", content=photo, headers=JPEG, timeout=2).is_success
            except httpx.TimeoutException:
                continue
            if answered:
                break
        assert answered
    finally:
        os.kill(before[1], signal.SIGCONT)
    assert alive(new)


def test_sigterm_finishes_what_was_begun(service: Service, photo: bytes) -> None:
    workers = processes(service)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 32
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(httpx.post, f"{service.url}/classify?depth=18", files=files, timeout=60) for _ in range(2)
        ]
        until(lambda: samples(service)['resnet_queue_images{model="resnet18"}'] == 64)
        os.kill(service.process.pid, signal.SIGTERM)
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    assert service.process.wait(60) == 0
    assert not any(map(alive, workers))
    assert service.log.read_text().splitlines()[-1].endswith("INFO service: stopped")


def test_ctrl_c_ends_it_at_once(service: Service) -> None:
    assert service.stop(signal.SIGINT) == 0


def test_no_worker_outlives_the_engines_process(service: Service) -> None:
    workers = processes(service)
    os.kill(service.process.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, workers)))
    assert service.log.read_text().count("the engine's process has gone") == WORKERS


def test_a_port_that_another_service_has_is_refused(service: Service, models_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", f"--port={service.port}", "--workers=2"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 3
    assert "in use" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_when_the_default_model_fails_everything_ends(tmp_path: Path, models_dir: Path) -> None:
    folder = tmp_path / "resnet8-cifar" / "1"
    folder.mkdir(parents=True)
    for file in (models_dir / "resnet8-cifar" / "1").iterdir():
        (folder / file.name).write_bytes(b"" if file.suffix == ".onnx" else file.read_bytes())
    command = [sys.executable, "-m", "service", f"--models-dir={tmp_path}", "--port=0", "--workers=2"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert "the default model, resnet8-cifar, could not be loaded" in finished.stderr.splitlines()[-1]


def test_a_worker_that_cannot_start_ends_everything(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif sys.orig_argv[1:3] == ['-m', 'service.workers.worker']: os._exit(7)\n"
    )
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", "--port=0", "--workers=2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert finished.returncode == 1
    assert "ended with status 7 before it listened" in finished.stderr.splitlines()[-1]
