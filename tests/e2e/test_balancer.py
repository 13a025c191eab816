"""Two replicas behind nginx with docker/nginx.conf: no request is lost when one overloads, stops or dies."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from model_export.drawings.pictures import CLASSES, picture
from service.api.problems import document
from service.errors import RequestTooLarge
from service.settings import Settings
from tests.support.processes import JPEG, Service, free_port, request
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

DOCKER = Path(__file__).parents[2] / "docker"
LISTEN = "listen 8080;"
MODEL = "resnet8-cifar"  # so small that the balancer carries the load, not the network
REPLICA = {"models": MODEL, "provider": "cpu"}
CLASSIFY = "/classify?top_k=1"
CONNECTIONS = 32
MAX_BYTES = Settings.model_fields["max_request_bytes"].default


class Known(NamedTuple):
    """A JPEG and its most probable class, from a replica without the balancer."""

    jpeg: bytes
    class_id: int


class Answer(NamedTuple):
    """The answer to a request: its status, the class in it (None unless the status is 200), and the right class."""

    status: int
    class_id: int | None
    right: int


class Balancer(NamedTuple):
    url: str
    access_log: Path

    def get(self, path: str, **options: Any) -> httpx.Response:
        return request("GET", self.url + path, **options)

    def post(self, path: str, content: bytes, headers: Mapping[str, str] = JPEG) -> httpx.Response:
        return request("POST", self.url + path, content=content, headers=headers)

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


@pytest.fixture(scope="module")
def replicas(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two replicas, for tests that do not stop them."""
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
    """For each class that the network answers, the drawing with the clearest answer.

    Random weights mean nothing, but several classes occur, with margins that rounding in other batch sizes cannot turn.
    """
    surest: dict[int, tuple[float, bytes]] = {}
    for seed in range(3):
        for index in range(len(CLASSES)):
            jpeg = picture(seed, index)
            answer = replicas[0].classify(jpeg, "?top_k=2")
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
    """Runs the container's configuration with other addresses."""
    port = free_port()
    conf = (DOCKER / "nginx.conf").read_text()
    assert conf.count(LISTEN) == 1
    (folder / "nginx.conf").write_text(conf.replace(LISTEN, f"listen 127.0.0.1:{port};"))
    (server,) = re.findall(r"^server service:8000 resolve(.*;)$", (DOCKER / "upstream.conf").read_text(), re.M)
    servers = [f"server 127.0.0.1:{replica_port}{server}\n" for replica_port in replica_ports]
    (folder / "upstream.conf").write_text("".join(servers))
    log, errors = folder / "access.log", folder / "error.log"
    # nginx started by root runs its workers as another user, who cannot enter the test's folder.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", directives]
    with log.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        until(lambda: listens(port) or process.poll() is not None, seconds=10)
        assert process.poll() is None, errors.read_text()
        yield Balancer(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def load(
    balancer: Balancer, known: Sequence[Known], count: int, at: Mapping[int, Callable[[], object]] | None = None
) -> list[Answer]:
    """Sends `count` requests over 32 connections; calls each function of `at` before the request of that number."""
    events = at or {}
    answers = []

    async def worker(client: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:  # all workers share the iterator
            if number in events:
                events[number]()
            jpeg, right = known[number % len(known)]
            response = await client.post(CLASSIFY, content=jpeg, headers=JPEG)
            ok = response.status_code == 200
            class_id = response.json()["images"][0]["predictions"][0]["class_id"] if ok else None
            answers.append(Answer(response.status_code, class_id, right))

    async def run() -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        numbers = iter(range(count))
        async with httpx.AsyncClient(base_url=balancer.url, limits=limits, timeout=60) as client:
            await asyncio.gather(*(worker(client, numbers) for _ in range(CONNECTIONS)))

    asyncio.run(run())
    return answers


def wrong(answers: Sequence[Answer]) -> list[Answer]:
    """Answers that are an error or another class than the right one."""
    return [answer for answer in answers if answer.status != 200 or answer.class_id != answer.right]


def served(replica: Service) -> int:
    """How many requests a replica has answered with 200, by its own count."""
    text = replica.get("/metrics").text
    return int(float(re.findall(rf'^resnet_requests_total{{model="{MODEL}",status="200"}} (\S+)$', text, re.M)[0]))


def ports(replicas: Sequence[Service]) -> list[int]:
    return [replica.port for replica in replicas]


def replayed(balancer: Balancer) -> int:
    """How many requests the balancer sent to a second replica."""
    return sum("," in str(entry["upstream"]) for entry in balancer.entries())


def problem(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == response.status_code
    assert {"type", "title", "detail", "remedy"} <= document.keys()
    return document


def test_the_load_is_shared_and_every_answer_is_right(
    replicas: list[Service], known: list[Known], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    assert len(known) >= 3
    balancer = balance(ports(replicas))
    for replica in replicas:  # the first answer creates the counters
        replica.classify(known[0].jpeg).raise_for_status()
    before = [served(replica) for replica in replicas]

    answers = load(balancer, known, 2000)

    assert wrong(answers) == []
    shares = [served(replica) - count for replica, count in zip(replicas, before, strict=True)]
    assert sum(shares) == len(answers) == 2000
    assert min(shares) > 500, shares


def test_a_killed_replica_loses_no_request_and_without_replicas_the_balancer_says_so(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    pair = [start_service(models_dir, **REPLICA, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))

    answers = load(balancer, known, 600, at={200: pair[0].process.kill})

    assert pair[0].process.wait() == -signal.SIGKILL
    assert len(answers) == 600
    assert wrong(answers) == []
    assert replayed(balancer) > 0
    # One ready replica is enough.
    assert [balancer.get("/healthz/ready").status_code for _ in range(4)] == [200] * 4

    pair[1].stop(signal.SIGKILL)
    assert problem(balancer.post(CLASSIFY, known[0].jpeg))["title"] == "Bad Gateway"


def test_a_stopped_replica_loses_no_request(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    replicas: list[Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    stopping = start_service(models_dir, **REPLICA, shutdown_delay=0.3)
    balancer = balance([stopping.port, replicas[0].port])

    answers = load(balancer, known, 1000, at={200: stopping.process.terminate})

    assert stopping.process.wait(timeout=10) == 0
    assert wrong(answers) == []
    assert replayed(balancer) > 0


def test_an_overload_reaches_the_client_as_the_service_reports_it(
    models_dir: Path,
    known: list[Known],
    start_service: Callable[..., Service],
    balance: Callable[[Sequence[int]], Balancer],
) -> None:
    pair = [start_service(models_dir, **REPLICA, target_wait_ms=0.001, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))

    statuses = {answer.status for answer in load(balancer, known, 300)}
    assert statuses == {200, 503}  # no 502: nginx keeps sending to an overloaded replica

    overloaded = [entry for entry in balancer.entries() if entry["status"] == 503]
    assert {entry["upstream_status"] for entry in overloaded} == {"503, 503"}  # of both replicas


def test_a_large_upload_is_classified(replicas: list[Service], balance: Callable[[Sequence[int]], Balancer]) -> None:
    balancer = balance(ports(replicas))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    jpeg = buffer.getvalue()
    assert len(jpeg) > 3 * 2**20  # more than nginx keeps in memory

    direct, balanced = replicas[0].classify(jpeg, "?top_k=1"), balancer.post(CLASSIFY, jpeg)
    assert balanced.status_code == 200
    assert balanced.json() == direct.json()


def test_balancer_and_service_have_the_same_limits(
    replicas: list[Service], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    balancer = balance(ports(replicas))
    form = {"Content-Type": "multipart/form-data; boundary=b"}

    too_large = balancer.post("/classify", bytes(MAX_BYTES + 1), form)
    expected = document(RequestTooLarge(max_bytes=MAX_BYTES))
    assert too_large.status_code == 413
    assert problem(too_large) == expected

    # With one byte less the service decides, and its answer comes through unchanged.
    fits = balancer.post("/classify", bytes(MAX_BYTES), form)
    assert problem(fits)["type"] == "/problems/malformed-request"
    image = balancer.post("/classify", bytes(30 * 2**20))
    assert problem(image)["type"] == "/problems/image-too-large"


def test_silent_replicas_are_a_timeout(balance: Callable[[Sequence[int]], Balancer]) -> None:
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(2):
            # The backlog is full and nobody accepts: like the address of a container that is gone.
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            silent.append(listener.getsockname()[1])
            stack.enter_context(socket.create_connection(("127.0.0.1", silent[-1])))
        balancer = balance(silent)
        response = balancer.get("/", timeout=30)
    assert problem(response)["title"] == "Gateway Timeout"


def test_headers_pass_and_internal_paths_are_hidden(
    replicas: list[Service], known: list[Known], balance: Callable[[Sequence[int]], Balancer]
) -> None:
    balancer = balance(ports(replicas))
    response = balancer.post(CLASSIFY, known[0].jpeg, {**JPEG, "X-Request-ID": "order-66"})
    assert "inference;dur=" in response.headers["server-timing"]
    assert response.headers["x-request-id"] == "order-66"
    unsafe = balancer.get("/models", headers={"X-Request-ID": 'a"b'})
    assert re.fullmatch("[0-9a-f]{32}", unsafe.headers["x-request-id"])

    assert problem(balancer.get("/metrics"))["status"] == 404
    assert problem(balancer.get("/nothing-here")) == problem(replicas[0].get("/nothing-here"))
    assert [entry["id"] for entry in balancer.entries()][:1] == ["order-66"]
