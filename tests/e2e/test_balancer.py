"""Two real replicas behind a real nginx with docker/nginx.conf: nothing is lost when one overloads, stops or dies."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from model_export.drawings import CLASSES
from service.errors import RequestTooLarge
from service.settings import Settings
from tests.conftest import Service, drawing, free_port

pytestmark = pytest.mark.e2e

DOCKER = Path(__file__).parents[2] / "docker"
LISTEN = "listen 8080;"
MODEL = "resnet8-cifar"  # so small that the balancer, not the network, is what is under load
REPLICA = {"models": MODEL, "provider": "cpu"}
CLASSIFY = "/classify?top_k=1"
JPEG = {"Content-Type": "image/jpeg"}
CONNECTIONS = 32
MAX_BYTES = Settings.model_fields["max_request_bytes"].default


class Known(NamedTuple):
    """A JPEG and its most probable class, as a replica says when asked directly."""

    jpeg: bytes
    class_id: int


class Balancer(NamedTuple):
    url: str
    access_log: Path

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


@pytest.fixture(scope="module")
def replicas(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two replicas for the tests that leave them alive."""
    logs = tmp_path_factory.mktemp("replicas")
    started = [Service(models_dir, logs / f"{i}.log", **REPLICA) for i in range(2)]
    try:
        for replica in started:
            replica.wait_until_ready()
        yield started
    finally:
        for replica in started:
            replica.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def known(replicas: list[Service]) -> list[Known]:
    """Of each class that the network tells apart, the drawing it is surest of: its random weights mean nothing, but
    the answers are not all the same, and not so close that the size of a batch could change them."""
    surest: dict[int, tuple[float, bytes]] = {}
    for seed in range(3):
        for name in CLASSES:
            jpeg = drawing(name, seed)
            answer = httpx.post(f"{replicas[0].url}/classify?top_k=2", content=jpeg, headers=JPEG)
            first, second = answer.json()["images"][0]["predictions"]
            candidate = (first["probability"] - second["probability"], jpeg)
            surest[first["class_id"]] = max(candidate, surest.get(first["class_id"], candidate))
    return [Known(jpeg, class_id) for class_id, (margin, jpeg) in surest.items() if margin > 0.02]


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Callable[[Sequence[int]], Balancer]]:
    """Starts nginx with docker/nginx.conf in front of the replicas on these ports; stops it afterwards."""
    if shutil.which("nginx") is None:
        message = "nginx is not installed: run `make tools`"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    with contextlib.ExitStack() as stack:
        yield lambda ports: stack.enter_context(nginx(tmp_path, ports))


@contextlib.contextmanager
def nginx(folder: Path, replica_ports: Sequence[int]) -> Iterator[Balancer]:
    """The container's configuration, but for the addresses."""
    port = free_port()
    conf = (DOCKER / "nginx.conf").read_text()
    assert conf.count(LISTEN) == 1
    (folder / "nginx.conf").write_text(conf.replace(LISTEN, f"listen 127.0.0.1:{port};"))
    (server,) = re.findall(r"^server service:8000 resolve(.*;)$", (DOCKER / "upstream.conf").read_text(), re.M)
    servers = [f"server 127.0.0.1:{replica_port}{server}\n" for replica_port in replica_ports]
    (folder / "upstream.conf").write_text("".join(servers))
    log, errors = folder / "access.log", folder / "error.log"
    # The test's folder is private to its user, and nginx run by root would give its workers to another one.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", directives]
    with log.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        wait_for_port(port, process, errors)
        yield Balancer(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_for_port(port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, errors.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(errors.read_text())


def load(
    url: str, known: Sequence[Known], count: int, at: Mapping[int, Callable[[], object]] | None = None
) -> list[tuple[int, int | None, int]]:
    """Sends `count` requests over 32 connections, and does something when the `at`-th is sent.

    Returns:
        Of each: its status, the class answered (None if it is no 200), and the class that is right.
    """
    events = at or {}
    answers = []

    async def worker(client: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:  # shared by all workers
            if number in events:
                events[number]()
            jpeg, right = known[number % len(known)]
            response = await client.post(url, content=jpeg, headers=JPEG)
            predictions = response.json()["images"][0]["predictions"] if response.status_code == 200 else []
            answers.append((response.status_code, predictions[0]["class_id"] if predictions else None, right))

    async def run() -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        numbers = iter(range(count))
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            await asyncio.gather(*(worker(client, numbers) for _ in range(CONNECTIONS)))

    asyncio.run(run())
    return answers


def served(replica: Service) -> int:
    """How many requests it has answered with 200, by its own count."""
    text = httpx.get(f"{replica.url}/metrics").text
    return int(float(re.findall(rf'^resnet_requests_total{{model="{MODEL}",status="200"}} (\S+)$', text, re.M)[0]))


def ports(replicas: Sequence[Service]) -> list[int]:
    return [replica.port for replica in replicas]


def replayed(balancer: Balancer) -> int:
    """How many requests went to a second replica."""
    return sum("," in str(entry["upstream"]) for entry in balancer.entries())


def problem(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == response.status_code
    assert {"type", "title", "detail", "remedy"} <= document.keys()
    return document


def test_load_is_shared_and_every_answer_is_the_right_one(
    replicas: list[Service], known: list[Known], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    assert len(known) >= 3
    balancer = balance(ports(replicas))
    # both have answered before, so that the counters exist
    for replica in replicas:
        httpx.post(replica.url + CLASSIFY, content=known[0].jpeg, headers=JPEG).raise_for_status()
    before = [served(replica) for replica in replicas]

    answers = load(balancer.url + CLASSIFY, known, 2000)

    assert [answer for answer in answers if answer[0] != 200 or answer[1] != answer[2]] == []
    shares = [served(replica) - count for replica, count in zip(replicas, before, strict=True)]
    assert sum(shares) == len(answers) == 2000
    assert min(shares) > 500, shares


def test_killed_replica_loses_no_request_and_without_any_it_says_so(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    pair = [start_service(models_dir, **REPLICA, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))

    answers = load(balancer.url + CLASSIFY, known, 600, at={200: pair[0].process.kill})

    assert pair[0].process.wait() == -signal.SIGKILL
    assert len(answers) == 600
    assert [answer for answer in answers if answer[0] != 200 or answer[1] != answer[2]] == []
    assert replayed(balancer) > 0
    # The readiness of the whole is on as long as one is ready.
    assert [httpx.get(f"{balancer.url}/healthz/ready").status_code for _ in range(4)] == [200] * 4

    pair[1].stop(signal.SIGKILL)
    response = httpx.post(balancer.url + CLASSIFY, content=known[0].jpeg, headers=JPEG)
    assert problem(response)["title"] == "Bad Gateway"


def test_stopped_replica_loses_no_request(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    replicas: list[Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    stopping = start_service(models_dir, **REPLICA, shutdown_delay=0.3)
    balancer = balance([stopping.port, replicas[0].port])

    answers = load(balancer.url + CLASSIFY, known, 1000, at={200: stopping.process.terminate})

    assert stopping.process.wait(timeout=10) == 0
    assert [answer for answer in answers if answer[0] != 200 or answer[1] != answer[2]] == []
    assert replayed(balancer) > 0


def test_overload_reaches_the_client_as_the_service_says_it(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    pair = [start_service(models_dir, **REPLICA, max_queue=1, max_images=1, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))

    statuses = {status for status, _, _ in load(balancer.url + CLASSIFY, known, 300)}
    assert statuses == {200, 503}  # never 502: an overloaded replica is not struck off

    overloaded = [entry for entry in balancer.entries() if entry["status"] == 503]
    assert {entry["upstream_status"] for entry in overloaded} == {"503, 503"}  # both were asked


def test_large_upload_is_classified(replicas: list[Service], balance: Callable[[Sequence[int]], Balancer]) -> None:
    balancer = balance(ports(replicas))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    jpeg = buffer.getvalue()
    assert len(jpeg) > 3 * 2**20  # beyond what nginx keeps in memory

    direct, balanced = (httpx.post(at + CLASSIFY, content=jpeg, headers=JPEG) for at in (replicas[0].url, balancer.url))
    assert balanced.status_code == 200
    assert balanced.json() == direct.json()


def test_limits_of_balancer_and_service_are_one(
    replicas: list[Service], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    balancer = balance(ports(replicas))
    form = {"Content-Type": "multipart/form-data; boundary=b"}

    too_large = httpx.post(f"{balancer.url}/classify", content=bytes(MAX_BYTES + 1), headers=form)
    expected = RequestTooLarge(max_bytes=MAX_BYTES).document()
    assert too_large.status_code == 413
    assert problem(too_large) == expected

    # One byte less is the service's to judge, and what it says comes through untouched.
    fits = httpx.post(f"{balancer.url}/classify", content=bytes(MAX_BYTES), headers=form)
    assert problem(fits)["type"] == "/problems/malformed-request"
    image = httpx.post(f"{balancer.url}/classify", content=bytes(30 * 2**20), headers=JPEG)
    assert problem(image)["type"] == "/problems/image-too-large"


def test_silent_replicas_are_a_timeout(balance: Callable[[Sequence[int]], Balancer]) -> None:
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(2):
            # Nobody accepts, and the queue is full: like the address of a container that is gone.
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            silent.append(listener.getsockname()[1])
            stack.enter_context(socket.create_connection(("127.0.0.1", silent[-1])))
        balancer = balance(silent)
        response = httpx.get(balancer.url, timeout=30)
    assert problem(response)["title"] == "Gateway Timeout"


def test_headers_and_what_is_not_for_outside(
    replicas: list[Service], known: list[Known], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    balancer = balance(ports(replicas))
    headers = {**JPEG, "X-Request-ID": "order-66"}
    response = httpx.post(balancer.url + CLASSIFY, content=known[0].jpeg, headers=headers)
    assert "inference;dur=" in response.headers["server-timing"]
    assert response.headers["x-request-id"] == "order-66"
    unsafe = httpx.get(f"{balancer.url}/models", headers={"X-Request-ID": 'a"b'})
    assert re.fullmatch("[0-9a-f]{32}", unsafe.headers["x-request-id"])

    assert problem(httpx.get(f"{balancer.url}/metrics"))["status"] == 404
    assert (
        problem(httpx.get(f"{balancer.url}/nothing-here"))["detail"] == "/nothing-here is not a path of this service."
    )
    assert [entry["id"] for entry in balancer.entries()][:1] == ["order-66"]
