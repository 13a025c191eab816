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
from textwrap import indent

import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict

from benchmarks.serving import children
from service.inference import FAILURES
from tests.conftest import Service, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

JPEG = {"content-type": "image/jpeg"}
WORKERS = 2


@pytest.fixture
def service(models_dir: Path, start_service: Callable[..., Service]) -> Service:
    started = start_service(models_dir, provider="cpu", max_batch=4, workers=WORKERS, shutdown_delay=0.2)
    until_all_listen(started)
    return started


def processes(service: Service) -> list[int]:
    """The workers."""
    return children(service.process.pid)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def next_process(service: Service, before: list[int]) -> int:
    """A worker that is started after those."""
    until(lambda: not set(processes(service)) <= set(before))
    return next(pid for pid in processes(service) if pid not in before)


def until_all_listen(service: Service) -> None:
    """The first worker that listens already answers that the service is ready."""
    until(lambda: "INFO service: ready: " in service.log.read_text())


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def requests_of(pid: int) -> float:
    """How many a worker has answered, by the file in which it counts."""
    environment = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry)
    file = Path(environment["PROMETHEUS_MULTIPROC_DIR"]) / f"counter_{pid}.db"
    counts = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
    return sum(value for key, value, *_ in counts if "resnet_requests_total" in key)


def samples(service: Service) -> dict[str, float]:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (ln.rpartition(" ") for ln in lines if not ln.startswith("#"))}


def test_answers_are_those_of_one_process(
    service: Service, models_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    alone = start_service(models_dir, provider="cpu", max_batch=4)
    listed, expected = (httpx.get(f"{one.url}/models").json() for one in (service, alone))
    for model in (*listed["models"], *expected["models"]):
        for measured in ("tuning", "lanes"):  # each service measures for itself
            assert model.pop(measured)
    assert listed == expected
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
    counts = [requests_of(pid) for pid in processes(service)]
    assert min(counts) > 0
    assert sum(counts) == 64
    for _ in range(8):  # whichever worker answers
        found = samples(service)
        assert found['resnet_requests_total{model="resnet8-cifar",status="200"}'] == 64
        assert found['resnet_images_total{model="resnet8-cifar",outcome="ok"}'] == 64
        assert found['resnet_batch_size_sum{model="resnet8-cifar"}'] == 64
        assert found['resnet_queue_images{model="resnet8-cifar"}'] == 0
        (info,) = [name for name in found if name.startswith("resnet_model_info") and 'depth="8"' in name]
        assert found[info] == 1


def test_once_one_worker_is_ready_all_are(
    models_dir: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(models_dir, provider="cpu", max_batch=1, workers=4, models="resnet8-cifar")
    with ThreadPoolExecutor(16) as pool:
        posts = [pool.submit(httpx.post, f"{service.url}/classify", content=photo, headers=JPEG) for _ in range(32)]
    assert {post.result().status_code for post in posts} == {200}


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
    new = next_process(service, before)
    until(lambda: f"worker 0 (process {new}) listens in its place" in service.log.read_text())
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


def test_a_replacement_that_dies_is_tried_again_while_the_others_serve(service: Service, photo: bytes) -> None:
    before = processes(service)
    os.kill(before[0], signal.SIGKILL)
    replacement = next_process(service, before)
    os.kill(replacement, signal.SIGKILL)
    until(lambda: f"(process {replacement}) ended with status -9: starting another in 1 s" in service.log.read_text())
    assert httpx.post(f"{service.url}/classify", content=photo, headers=JPEG).status_code == 200
    until(lambda: "listens in its place" in service.log.read_text())


def test_a_signal_to_the_workers_themselves_changes_nothing(service: Service, photo: bytes) -> None:
    before = processes(service)
    for pid in before:
        os.kill(pid, signal.SIGTERM)  # as systemd does, besides the engine's process
    time.sleep(0.5)
    assert processes(service) == before
    assert httpx.post(f"{service.url}/classify", content=photo, headers=JPEG).status_code == 200


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


def test_when_the_engines_process_dies_so_do_its_workers_and_no_answer_is_made_up(
    service: Service, photo: bytes
) -> None:
    workers = processes(service)
    files = [("file", ("a.jpg", photo, "image/jpeg"))] * 16

    def classify(_: int) -> int | None:
        try:
            return httpx.post(f"{service.url}/classify?depth=18", files=files, timeout=60).status_code
        except httpx.TransportError:  # a balancer would ask another replica
            return None

    with ThreadPoolExecutor(8) as pool:
        waiting = pool.map(classify, range(8))
        until(lambda: samples(service)['resnet_queue_images{model="resnet18"}'] >= 64)
        os.kill(service.process.pid, signal.SIGKILL)
        assert set(waiting) <= {200, None}
    until(lambda: not any(map(alive, workers)))
    log = service.log.read_text()
    assert log.count("the engine's process has gone") == WORKERS
    assert "Traceback" not in log


def test_a_worker_that_hangs_does_not_keep_the_service_from_ending(
    models_dir: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(models_dir, provider="cpu", max_batch=1, workers=2, shutdown_delay=0, shutdown_timeout=1)
    until_all_listen(service)
    hanging = processes(service)[0]
    os.kill(hanging, signal.SIGSTOP)
    assert service.stop() == 1
    assert f"worker 0 (process {hanging}) does not end: killing it" in service.log.read_text()
    assert not alive(hanging)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_it_without_a_word_too_many(
    models_dir: Path, start_service: Callable[..., Service], number: signal.Signals
) -> None:
    service = start_service(models_dir, ready=False, workers=2)
    until(lambda: len(processes(service)) == WORKERS)
    assert service.stop(number) == 0
    log = service.log.read_text()
    assert log.splitlines()[-1].endswith("INFO service: stopped")
    assert "Traceback" not in log


def test_two_services_that_start_together_do_not_share_a_port(models_dir: Path) -> None:
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", f"--port={free_port()}", "--workers=2"]
    pair = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: any(process.poll() is not None for process in pair))
    (refused,) = (process for process in pair if process.poll() is not None)
    (serving,) = (process for process in pair if process is not refused)
    serving.terminate()
    for process in pair:
        process.communicate(timeout=60)
    assert (refused.returncode, serving.returncode) == (3, 0)


def test_a_worker_that_cannot_load_is_tried_again(service: Service, tmp_path: Path) -> None:
    """Of all that can go wrong: the folder of the counters has been cleaned away."""
    before = processes(service)
    environment = Path(f"/proc/{before[0]}/environ").read_text().split("\0")
    (folder,) = (entry.partition("=")[2] for entry in environment if entry.startswith("PROMETHEUS_MULTIPROC_DIR="))
    Path(folder).rename(tmp_path / "away")
    os.kill(before[0], signal.SIGKILL)
    until(lambda: "ended with status 1: starting another in 1 s" in service.log.read_text())
    (tmp_path / "away").rename(folder)
    until(lambda: "listens in its place" in service.log.read_text())


def with_load(folder: Path, load: str) -> dict[str, str]:
    """The environment of a service in which `Model.load` does that instead."""
    (folder / "sitecustomize.py").write_text(
        f"def load(self, *args, **options):\n{indent(load, '    ')}\n"
        "from service.repository import Model\nModel.load = load\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_accident_while_loading_is_told_whatever_it_is(models_dir: Path, tmp_path: Path, workers: int) -> None:
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", "--port=0", f"--workers={workers}"]
    environment = with_load(tmp_path, "raise MemoryError")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr
    assert "MemoryError()" in finished.stderr.splitlines()[-1]


def test_an_accident_while_loading_does_not_hasten_a_shutdown(models_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", "--port=0", "--workers=2"]
    go_on = tmp_path / "go-on"
    load = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.02)\nraise MemoryError"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=with_load(tmp_path, load))
    assert process.stderr is not None
    for line in process.stderr:
        if "2 workers on" in line:
            break
    workers = children(process.pid)
    assert len(workers) == WORKERS
    process.send_signal(signal.SIGINT)
    until(lambda: not any(map(alive, workers)))
    go_on.touch()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert log.splitlines()[-1].endswith("INFO service: stopped")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_engine_that_fails_batch_after_batch_ends_the_service(
    models_dir: Path,
    photo: bytes,
    tmp_path: Path,
    start_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """As CUDA does after some errors, until its process ends."""
    broken = tmp_path / "broken"
    (tmp_path / "sitecustomize.py").write_text(
        f"""import os
from service.engine import DynamicEngine
real = DynamicEngine.infer
def infer(self, *args, **options):
    if os.path.exists({str(broken)!r}):
        raise RuntimeError("CUDA failure 700")
    return real(self, *args, **options)
DynamicEngine.infer = infer
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = start_service(models_dir, provider="cpu", max_batch=1, workers=workers)

    def status() -> int:
        return httpx.post(f"{service.url}/classify", content=photo, headers=JPEG).status_code

    assert status() == 200
    broken.touch()
    assert [status() for _ in range(FAILURES)] == [500] * FAILURES
    assert service.process.wait(timeout=60) == 1
    fault = f"resnet8-cifar: {FAILURES} batches in a row have failed: CUDA failure 700"
    log = service.log.read_text().splitlines()
    assert log[-1].endswith(f"ERROR service: {fault}")
    assert sum(line.endswith(f"service.inference: {fault}") for line in log) == 1


def test_a_port_that_another_service_has_is_refused(service: Service, models_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", f"--port={service.port}", "--workers=2"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 3
    assert "another program listens on" in finished.stderr
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
    assert "Traceback" not in finished.stderr


def test_a_worker_that_cannot_start_ends_everything(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif sys.orig_argv[1:3] == ['-m', 'service.workers.worker']: os._exit(7)\n"
    )
    command = [sys.executable, "-m", "service", f"--models-dir={models_dir}", "--port=0", "--workers=2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert finished.returncode == 1
    assert "ended with status 7 before it listened" in finished.stderr.splitlines()[-1]
