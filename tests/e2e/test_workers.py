"""The service with workers, as processes: clients see what one process would show them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent

import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict

from benchmarks.processes import children
from service.local_runner import FAILURES
from tests.support.folders import copied
from tests.support.processes import Service, alive, before_each_batch, free_port, starting_with
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WORKERS = 2
STOPPED = "INFO service: stopped"
QUEUE_18 = 'resnet_images_in_service{model="resnet18"}'


@pytest.fixture
def service(tiny_dir: Path, start_service: Callable[..., Service]) -> Service:
    """Two workers over models that compute next to nothing."""
    return start_with_workers(start_service, tiny_dir)


@pytest.fixture
def real_service(models_dir: Path, start_service: Callable[..., Service]) -> Service:
    """Two workers over real networks: `resnet18` keeps the engine busy for a while."""
    return start_with_workers(start_service, models_dir)


def start_with_workers(start_service: Callable[..., Service], models_dir: Path) -> Service:
    service = start_service(
        models_dir,
        provider="cpu",
        max_batch=4,
        workers=WORKERS,
        target_wait_ms=60_000,
        request_timeout=600,
        shutdown_delay=0.2,
    )
    service.wait_until_all_listen()
    return service


def command(models_dir: Path, port: int = 0, workers: int = WORKERS) -> list[str]:
    """Starts the service without waiting for it."""
    options = [f"--models-dir={models_dir}", f"--port={port}", f"--workers={workers}"]
    return [sys.executable, "-m", "service", *options]


def processes(service: Service) -> list[int]:
    """The workers."""
    return children(service.process.pid)


def next_process(service: Service, before: list[int]) -> int:
    """Waits for a worker that is not among `before`."""
    until(lambda: not set(processes(service)) <= set(before))
    return next(pid for pid in processes(service) if pid not in before)


def until_logged(service: Service, text: str) -> None:
    until(lambda: text in service.log.read_text())


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def requests_of(pid: int) -> float:
    """How many requests a worker has answered, by the file in which it counts them."""
    file = Path(environment_of(pid)["PROMETHEUS_MULTIPROC_DIR"]) / f"counter_{pid}.db"
    counts = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
    return sum(value for key, value, *_ in counts if "resnet_requests_total" in key)


def samples(service: Service) -> dict[str, float]:
    lines = service.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (ln.rpartition(" ") for ln in lines if not ln.startswith("#"))}


def test_answers_are_those_of_one_process(
    real_service: Service, models_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    alone = start_service(models_dir, provider="cpu", max_batch=4)
    both = (real_service, alone)
    listed, expected = (service.get("/models").json() for service in both)
    for model in (*listed["models"], *expected["models"]):
        for measured in ("tuning", "lanes"):  # which may differ from run to run
            assert model.pop(measured)
    assert listed == expected
    for query in ("", "?depth=8&top_k=10", "?model=resnet18&top_k=1000"):
        found, expected = (service.classify(photo, query).json() for service in both)
        for name in ("model", "version", "provider", "precision"):
            assert found[name] == expected[name]
        (image,), (right,) = found["images"], expected["images"]
        assert [p["class_id"] for p in image["predictions"]] == [p["class_id"] for p in right["predictions"]]
        assert [p["probability"] for p in image["predictions"]] == pytest.approx(
            [p["probability"] for p in right["predictions"]], abs=2e-6
        )
    crops = [service.post("/preview", content=photo).content for service in both]
    assert crops[0] == crops[1]
    assert crops[0].startswith(b"\x89PNG")
    refused = real_service.classify(photo[:-3000])
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/truncated-image")


def test_every_worker_serves_and_metrics_are_those_of_all(service: Service, photo: bytes) -> None:
    assert len(processes(service)) == WORKERS

    def classify(_: int) -> int:  # each on its own connection: the system shares connections out
        return service.classify(photo, "?depth=8").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(classify, range(64))) == {200}
    counts = [requests_of(pid) for pid in processes(service)]
    assert min(counts) > 0
    assert sum(counts) == 64
    for _ in range(8):  # a different worker may answer each time
        found = samples(service)
        assert found['resnet_requests_total{model="resnet8-cifar",problem="",status="200"}'] == 64
        assert found['resnet_images_total{model="resnet8-cifar",outcome="ok"}'] == 64
        assert found['resnet_batch_size_sum{model="resnet8-cifar"}'] == 64
        assert found['resnet_images_in_service{model="resnet8-cifar"}'] == 0
        (info,) = [name for name in found if name.startswith("resnet_model_info") and 'depth="8"' in name]
        assert found[info] == 1


def test_once_one_worker_is_ready_all_are(tiny_dir: Path, start_service: Callable[..., Service], photo: bytes) -> None:
    service = start_service(tiny_dir, provider="cpu", max_batch=1, workers=4, models="resnet8-cifar")
    with ThreadPoolExecutor(16) as pool:
        posts = [pool.submit(service.classify, photo) for _ in range(32)]
    assert {post.result().status_code for post in posts} == {200}


def test_all_workers_share_one_queue(models_dir: Path, start_service: Callable[..., Service], photo: bytes) -> None:
    service = start_service(models_dir, provider="cpu", max_batch=4, workers=WORKERS, target_wait_ms=0.001)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 3

    def classify(_: int) -> int:
        return service.post("/classify?depth=18", files=files, timeout=60).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(classify, range(24)))
    assert set(statuses) == {200, 503}
    assert service.post("/classify", files=files).status_code == 200  # the queue has emptied


def test_a_worker_that_dies_is_replaced(service: Service, photo: bytes) -> None:
    before = processes(service)
    os.kill(before[0], signal.SIGKILL)
    new = next_process(service, before)
    until_logged(service, f"worker 0 (process {new}) listens in its place")
    assert f"worker 0 (process {before[0]}) ended with status -9: starting another" in service.log.read_text()
    assert samples(service)["resnet_worker_restarts_total"] == 1

    def answers() -> bool:
        assert service.classify(photo).is_success
        return requests_of(new) > 0

    until(answers)  # the kernel deals connections out by chance


def test_a_replacement_that_dies_is_tried_again_while_the_others_serve(service: Service, photo: bytes) -> None:
    before = processes(service)
    os.kill(before[0], signal.SIGKILL)
    replacement = next_process(service, before)
    os.kill(replacement, signal.SIGKILL)
    until_logged(service, f"(process {replacement}) ended with status -9: starting another in ")
    assert service.classify(photo).status_code == 200
    until_logged(service, "listens in its place")


def test_workers_ignore_signals_of_their_own(service: Service, photo: bytes) -> None:
    before = processes(service)
    for pid in before:
        os.kill(pid, signal.SIGTERM)  # systemd signals every process of a service
    time.sleep(0.5)
    assert processes(service) == before
    assert service.classify(photo).status_code == 200


def test_sigterm_finishes_what_was_begun(real_service: Service, photo: bytes) -> None:
    service = real_service
    workers = processes(service)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 32
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(service.post, "/classify?depth=18", files=files, timeout=60) for _ in range(2)]
        until(lambda: samples(service)[QUEUE_18] == 64)
        os.kill(service.process.pid, signal.SIGTERM)
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    assert service.process.wait(60) == 0
    assert not any(map(alive, workers))
    assert service.log.read_text().splitlines()[-1].endswith(STOPPED)


def test_ctrl_c_stops_it_at_once(service: Service) -> None:
    assert service.stop(signal.SIGINT) == 0


def test_workers_die_with_the_engine_process_and_invent_no_answer(real_service: Service, photo: bytes) -> None:
    service = real_service
    workers = processes(service)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 16

    def classify(_: int) -> int | None:
        try:
            return service.post("/classify?depth=18", files=files, timeout=60).status_code
        except httpx.TransportError:  # a load balancer would try another replica
            return None

    with ThreadPoolExecutor(8) as pool:
        waiting = pool.map(classify, range(8))
        until(lambda: samples(service)[QUEUE_18] >= 64)
        os.kill(service.process.pid, signal.SIGKILL)
        assert set(waiting) <= {200, None}
    until(lambda: not any(map(alive, workers)))
    log = service.log.read_text()
    assert log.count("the engine process has gone") == WORKERS
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_keep_the_service_from_ending(
    tiny_dir: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, provider="cpu", max_batch=1, workers=2, shutdown_delay=0, shutdown_timeout=1)
    service.wait_until_all_listen()
    hanging = processes(service)[0]
    os.kill(hanging, signal.SIGSTOP)
    assert service.stop() == 1
    assert f"worker 0 (process {hanging}) did not end in time and was killed" in service.log.read_text()
    assert not alive(hanging)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_stops_it_without_a_traceback(
    models_dir: Path, start_service: Callable[..., Service], number: signal.Signals
) -> None:
    service = start_service(models_dir, ready=False, provider="cpu", max_batch=1, workers=WORKERS)
    until(lambda: len(processes(service)) == WORKERS)
    assert service.stop(number) == 0
    log = service.log.read_text()
    assert log.splitlines()[-1].endswith(STOPPED)
    assert "Traceback" not in log


def test_two_services_that_start_together_do_not_share_a_port(tiny_dir: Path) -> None:
    same = command(tiny_dir, free_port())
    pair = [subprocess.Popen(same, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: any(process.poll() is not None for process in pair))
    (refused,) = (process for process in pair if process.poll() is not None)
    (serving,) = (process for process in pair if process is not refused)
    serving.terminate()
    for process in pair:
        process.communicate(timeout=60)
    assert (refused.returncode, serving.returncode) == (3, 0)


def test_a_worker_that_cannot_load_is_tried_again(service: Service, tmp_path: Path) -> None:
    """For example because something has cleaned away the folder of the counters."""
    before = processes(service)
    folder = Path(environment_of(before[0])["PROMETHEUS_MULTIPROC_DIR"])
    folder.rename(tmp_path / "away")
    os.kill(before[0], signal.SIGKILL)
    until_logged(service, "ended with status 1: starting another in ")
    (tmp_path / "away").rename(folder)
    until_logged(service, "listens in its place")


def loading_by(folder: Path, body: str) -> dict[str, str]:
    """An environment in which this body replaces that of `load_engine`."""
    function = f"def load(*args, **options):\n{indent(body, '    ')}\n"
    return starting_with(folder, f"{function}from service import local_backend\nlocal_backend.load_engine = load\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_while_loading_is_reported(tiny_dir: Path, tmp_path: Path, workers: int) -> None:
    environment = loading_by(tmp_path, "raise MemoryError")
    finished = subprocess.run(
        command(tiny_dir, workers=workers), capture_output=True, text=True, timeout=60, env=environment
    )
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr
    assert "MemoryError()" in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_shutdown_does_not_wait_for_a_model_that_is_being_loaded(
    tiny_dir: Path, tmp_path: Path, start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The first start measures for a while."""
    begun = tmp_path / "begun"
    body = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)"
    monkeypatch.setenv("PYTHONPATH", loading_by(tmp_path, body)["PYTHONPATH"])
    service = start_service(tiny_dir, ready=False, workers=workers, shutdown_delay=0)
    until(begun.exists)
    assert service.stop() == 0
    assert service.log.read_text().splitlines()[-1].endswith(STOPPED)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_engine_that_fails_batch_after_batch_ends_the_service(
    tiny_dir: Path,
    photo: bytes,
    tmp_path: Path,
    start_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """As CUDA does after some errors, until its process ends."""
    does = 'if on(): raise RuntimeError("CUDA failure 700")'
    broken = before_each_batch(monkeypatch, tmp_path / "broken", does)
    service = start_service(tiny_dir, provider="cpu", max_batch=1, workers=workers)
    assert service.classify(photo).status_code == 200
    broken.touch()
    assert [service.classify(photo).status_code for _ in range(FAILURES)] == [503] * FAILURES
    assert service.process.wait(timeout=60) == 1
    fault = f"resnet8-cifar: the engine has failed {FAILURES} times in a row: CUDA failure 700"
    log = service.log.read_text().splitlines()
    assert log[-1].endswith(f"ERROR service: {fault}")
    assert sum(line.endswith(f"service.local_backend: {fault}") for line in log) == 1


def test_a_port_that_another_service_has_is_refused(service: Service, tiny_dir: Path) -> None:
    finished = subprocess.run(command(tiny_dir, service.port), capture_output=True, text=True, timeout=60)
    assert finished.returncode == 3
    assert "another program listens on" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_without_its_default_model_the_service_ends(tmp_path: Path, tiny_dir: Path) -> None:
    folder = copied(tiny_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1")
    (folder / "model.onnx").write_bytes(b"")
    finished = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert "the default model, resnet8-cifar, could not be loaded" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_a_worker_that_cannot_start_ends_the_service(tiny_dir: Path, tmp_path: Path) -> None:
    environment = starting_with(
        tmp_path, "import os, sys\nif sys.orig_argv[1:3] == ['-m', 'service.workers.worker']: os._exit(7)\n"
    )
    finished = subprocess.run(command(tiny_dir), capture_output=True, text=True, timeout=60, env=environment)
    assert finished.returncode == 1
    # the thread that loads models may log that one is ready, behind it
    assert (
        "ended with status 7 before it listened"
        in [line for line in finished.stderr.splitlines() if " ERROR " in line][-1]
    )
