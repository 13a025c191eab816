"""Versions come and go while the service runs: nothing is lost, and a bad version changes nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import children
from benchmarks.versions import damage, publish_copy, remove
from model_export.versions import promote
from tests.support.folders import copied
from tests.support.processes import Service, starting_with
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

NAME = "resnet8-cifar"
SETTINGS = {"provider": "cpu", "max_batch": 2, "default_model": NAME, "poll_interval": 0.1}


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    return copied(tiny_dir, tmp_path / "models")


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def service(root: Path, start_service: Callable[..., Service], request: pytest.FixtureRequest) -> Service:
    return start_service(root, **SETTINGS, workers=request.param)


def version(service: Service, photo: bytes) -> int:
    response = service.classify(photo)
    assert response.status_code == 200, response.text
    number: int = response.json()["version"]
    return number


def until_version(service: Service, photo: bytes, number: int) -> None:
    """Waits until all workers answer with a version: one connection reaches one worker."""
    until(lambda: {version(service, photo) for _ in range(10)} == {number})


@contextmanager
def load(service: Service, photo: bytes) -> Iterator[Counter[tuple[int, int | None]]]:
    """Posts photos over four connections; counts status and version of the answers."""
    found: Counter[tuple[int, int | None]] = Counter()
    stop = threading.Event()

    def post() -> None:
        while not stop.is_set():
            response = service.classify(photo)
            found[response.status_code, response.json().get("version")] += 1

    with ThreadPoolExecutor(4) as pool:
        posting = [pool.submit(post) for _ in range(4)]
        try:
            yield found
        finally:
            stop.set()
        for one in posting:
            one.result()


def listed(service: Service) -> dict[str, Any]:
    models: dict[str, Any] = service.get("/models").json()
    return models


def test_a_new_version_takes_over_under_load_and_a_removed_one_hands_back(
    service: Service, root: Path, photo: bytes
) -> None:
    with load(service, photo) as found:
        until(lambda: found[200, 1] > 20)
        second = publish_copy(root, NAME, 2)
        until_version(service, photo, 2)
        until(lambda: f"{NAME} 1 is unloaded" in service.log.read_text())
        before = found[200, 2]
        until(lambda: found[200, 2] > before + 20)
        remove(second)
        until_version(service, photo, 1)
        until(lambda: f"{NAME} 2 is unloaded" in service.log.read_text())
    assert found.keys() == {(200, 1), (200, 2)}
    assert f"{NAME}: version 2 answers instead of 1" in service.log.read_text()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: damage(folder), "SHA-256"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"short"), "SHA-256"),
        (lambda folder: (folder / "self_test.npz").unlink(), "self_test.npz"),
    ],
    ids=["a flipped bit", "a short file", "a missing file"],
)
def test_a_bad_version_is_shown_with_its_reason_and_tried_once(
    service: Service, root: Path, photo: bytes, spoil: Callable[[Path], object], reason: str
) -> None:
    staged = publish_copy(root, "hidden")
    spoil(staged)
    card = (staged / "card.json").read_text().replace('"name": "hidden"', f'"name": "{NAME}"')
    (staged / "card.json").write_text(card.replace('"version": 1,', '"version": 2,'))
    staged.rename(root / NAME / "2")
    until(lambda: [one["state"] for one in listed(service)["candidates"]] == ["failed"])
    (candidate,) = listed(service)["candidates"]
    assert (candidate["name"], candidate["version"]) == (NAME, 2)
    assert reason in candidate["reason"]
    publish_copy(root, "another8")  # by the time that this one answers, the folder has been looked at again
    until(lambda: service.classify(photo, "?model=another8").status_code == 200)
    assert service.log.read_text().count(f"{NAME} 2 is not served") == 1
    assert version(service, photo) == 1
    assert service.get("/healthz/ready").status_code == 200


def test_a_model_comes_and_goes(service: Service, root: Path, photo: bytes) -> None:
    def statuses() -> set[int]:
        return {service.classify(photo, "?model=another8").status_code for _ in range(10)}

    assert statuses() == {404}
    folder = publish_copy(root, "another8")
    until(lambda: statuses() == {200})
    assert [model["name"] for model in listed(service)["models"]] == ["another8", "resnet18", NAME]
    remove(folder)
    until(lambda: statuses() == {404})
    until(lambda: "another8 1 is unloaded" in service.log.read_text())
    assert version(service, photo) == 1


def test_a_model_folder_that_vanishes_changes_nothing(service: Service, root: Path, photo: bytes) -> None:
    root.rename(root.with_name("elsewhere"))
    until(lambda: "the model folder cannot be followed" in service.log.read_text())
    assert version(service, photo) == 1
    assert service.classify(photo, "?model=resnet18").status_code == 200
    root.with_name("elsewhere").rename(root)
    publish_copy(root, NAME, 2)
    until_version(service, photo, 2)
    assert service.log.read_text().count("the model folder cannot be followed") == 1


def test_a_call_looks_at_once_and_tries_again_what_failed(
    root: Path, start_service: Callable[..., Service], photo: bytes, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[deployer]\nsha256 = "{hashlib.sha256(b"token").hexdigest()}"\nscopes = ["admin"]\n')
    settings = {"poll_interval": 0, "api_keys_file": keys, "anonymous_classify": True, "workers": 2}
    service = start_service(root, **{**SETTINGS, **settings})

    def reload() -> int:
        return service.post("/models/reload", headers={"x-api-key": "token"}).status_code

    assert service.post("/models/reload").status_code == 401
    folder = publish_copy(root, NAME, 2)
    damage(folder)
    for tries in (1, 2):
        assert reload() == 202
        until(lambda: service.log.read_text().count(f"{NAME} 2 is not served") == tries)  # noqa: B023
    damage(folder)  # the same bit again: it is whole
    assert reload() == 202
    until_version(service, photo, 2)


@pytest.mark.slow
def test_a_worker_that_starts_later_knows_the_newest_version(
    root: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(root, **SETTINGS, workers=2)
    service.wait_until_all_listen()
    publish_copy(root, NAME, 2)
    until_version(service, photo, 2)
    for pid in children(service.process.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: service.log.read_text().count("listens in its place") == 2)
    until_version(service, photo, 2)
    assert service.stop() == 0


@pytest.mark.slow
def test_a_worker_that_starts_while_a_version_loads_answers_as_the_others(
    root: Path, start_service: Callable[..., Service], photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    program = f"""import os, time
from service import local_backend
real = local_backend.load_engine
def load(folder, *args, **options):
    if folder.name == "3":
        open({str(begun)!r}, "w").close()
        while not os.path.exists({str(go_on)!r}): time.sleep(0.02)
    return real(folder, *args, **options)
local_backend.load_engine = load
"""
    monkeypatch.setenv("PYTHONPATH", starting_with(tmp_path, program)["PYTHONPATH"])
    for number in (2, 3):
        publish_copy(root, NAME, number)
    promote(root, NAME, 1)
    promote(root, NAME, 2, "canary")
    service = start_service(root, **SETTINGS | {"default_model": f"{NAME}@canary"}, workers=2)
    service.wait_until_all_listen()
    promote(root, NAME, 3, "canary")
    until(begun.exists)
    os.kill(children(service.process.pid)[0], signal.SIGKILL)
    until(lambda: "listens in its place" in service.log.read_text())
    assert {version(service, photo) for _ in range(20)} == {2}
    assert {service.get("/healthz/ready").status_code for _ in range(20)} == {200}
    go_on.touch()
    until_version(service, photo, 3)


def test_a_slow_upload_keeps_no_old_version_loaded(
    root: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    service = start_service(root, **SETTINGS)
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: {len(photo)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head.encode() + photo[:-1])
        until(lambda: "resnet_request_bytes 0.0" not in service.get("/metrics").text)
        publish_copy(root, NAME, 2)
        until(lambda: f"{NAME} 1 is unloaded" in service.log.read_text())
        connection.sendall(photo[-1:])
        answer = connection.recv(65536)
        while b'"version"' not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"version":2' in answer


@pytest.mark.slow
def test_a_model_that_must_answer_can_be_published_again_after_the_start(
    root: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    damage(root / "resnet18" / "1")
    service = start_service(root, ready=False, **SETTINGS, models=f"{NAME},resnet18", workers=2)
    until(lambda: "2 workers on" in service.log.read_text())
    publish_copy(root, NAME, 2)  # by the time that this one answers, loading has ended
    until(lambda: f"{NAME}: version 2 answers instead of 1" in service.log.read_text())
    assert service.get("/healthz/ready").status_code == 503
    damage(root / "resnet18" / "1")  # the same bit again: it is whole
    publish_copy(root, "resnet18", 2, source="resnet18")
    service.wait_until_all_listen()
    for _ in range(10):  # whichever worker is asked
        assert service.get("/healthz/ready").status_code == 200
        assert service.classify(photo, "?model=resnet18").json()["version"] == 2
