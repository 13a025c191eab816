"""nginx with docker/nginx.conf in front of real replicas, and clients that load it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from benchmarks import balancer
from tests.support.processes import JPEG, Service, request
from tests.support.waiting import until

CLASSIFY = "/classify?top_k=1"
CONNECTIONS = 32
MODEL = "resnet8-cifar"  # so small that the balancer carries the load, not the network
# On a busy machine, a replica that is alone becomes slow rather than overloaded: nobody else would take its requests.
REPLICA = {"models": MODEL, "provider": "cpu", "target_wait_ms": 30_000}


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
def nginx(folder: Path, replica_ports: Sequence[int], *, tls: bool = False, **options: Any) -> Iterator[Balancer]:
    """Arguments as of `benchmarks.balancer.nginx`."""
    with balancer.nginx(folder, replica_ports, tls=tls, **options) as port:
        yield Balancer(port, folder / balancer.ACCESS_LOG, "https" if tls else "http")


def load(balanced: Balancer, known: Sequence[Known], numbers: Iterator[int]) -> list[Answer]:
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
        async with httpx.AsyncClient(base_url=balanced.url, limits=limits, timeout=60, verify=False) as client:
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
