"""nginx with docker/nginx.conf in front of real replicas, and clients that load it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.processes import JPEG, Service, free_port, request
from tests.support.waiting import until

DOCKER = Path(__file__).parents[2] / "docker"
CLASSIFY = "/classify?top_k=1"
CONNECTIONS = 32
MODEL = "resnet8-cifar"  # so small that the balancer carries the load, not the network
REPLICA = {"models": MODEL, "provider": "cpu"}
START_NGINX_S = 10


class Known(NamedTuple):
    """A JPEG and its most probable class, from a replica without the balancer."""

    jpeg: bytes
    class_id: int


class Answer(NamedTuple):
    """The answer to a request: the request's id, the status, the class (None unless it is 200), and the right class."""

    id: str
    status: int
    class_id: int | None
    right: int


class Balancer(NamedTuple):
    port: int
    access_log: Path
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return request("GET", self.url + path, **options)

    def post(self, path: str, content: bytes, headers: Mapping[str, str] = JPEG, **options: Any) -> httpx.Response:
        return request("POST", self.url + path, content=content, headers=headers, **options)

    def entries(self, count: int = 0) -> list[dict[str, object]]:
        """The entries of the log. Waits until there are `count`: nginx writes an entry after the answer."""
        until(lambda: self.access_log.read_text().count("\n") >= count)
        whole, _, _ = self.access_log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def replayed(self) -> int:
        """How many requests went to a second replica."""
        return sum("," in str(entry["upstream"]) for entry in self.entries())


def require_nginx() -> None:
    """Skips the test where nginx is not installed; fails it in CI."""
    if shutil.which("nginx") is None:
        message = "nginx is not installed: run `make tools`"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)


@contextlib.contextmanager
def nginx(
    folder: Path, replica_ports: Sequence[int], *, tls: bool = False, instead: Mapping[str, str] | None = None
) -> Iterator[Balancer]:
    """Runs the container's configuration with other addresses.

    Args:
        folder: for its files; with `tls`, it holds tls/certificate.pem and tls/key.pem.
        instead: other values of directives, for deadlines that a test cannot wait for: {"proxy_read_timeout": "1s"}.
    """
    port = free_port()
    conf = (DOCKER / "nginx.conf").read_text()
    for directive, value in (instead or {}).items():
        conf, found = re.subn(rf"^( *{directive}) \w+;", rf"\1 {value};", conf, flags=re.M)
        assert found == 1, directive
    (folder / "nginx.conf").write_text(conf)
    listen = (DOCKER / ("listen-tls.conf" if tls else "listen.conf")).read_text()
    assert listen.count("listen 8080") == 1
    (folder / "listen.conf").write_text(listen.replace("listen 8080", f"listen 127.0.0.1:{port}"))
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
        until(lambda: listens(port) or process.poll() is not None, START_NGINX_S)
        assert process.poll() is None, errors.read_text()
        yield Balancer(port, log, "https" if tls else "http")
    finally:
        process.terminate()
        process.wait(timeout=10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def load(balancer: Balancer, known: Sequence[Known], numbers: Iterator[int]) -> list[Answer]:
    """Sends a request for each number, over 32 connections. The number is the request's id.

    Numbers are taken one by one: a generator can decide when the load ends.
    """
    answers = []

    async def worker(client: httpx.AsyncClient) -> None:
        for number in numbers:  # all workers share the iterator
            jpeg, right = known[number % len(known)]
            response = await client.post(CLASSIFY, content=jpeg, headers={**JPEG, "X-Request-ID": str(number)})
            ok = response.status_code == 200
            class_id = response.json()["images"][0]["predictions"][0]["class_id"] if ok else None
            answers.append(Answer(response.headers["X-Request-ID"], response.status_code, class_id, right))

    async def run() -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url=balancer.url, limits=limits, timeout=60, verify=False) as client:
            await asyncio.gather(*(worker(client) for _ in range(CONNECTIONS)))

    asyncio.run(run())
    return answers


def wrong(answers: Sequence[Answer]) -> list[Answer]:
    """Answers that are an error or another class than the right one."""
    return [answer for answer in answers if answer.status != 200 or answer.class_id != answer.right]


def ports(replicas: Sequence[Service]) -> list[int]:
    return [replica.port for replica in replicas]


def problem(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == response.status_code
    assert {"type", "title", "detail", "remedy"} <= document.keys()
    return document
