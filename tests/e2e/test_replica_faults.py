"""Replicas that are killed, stopped, hung or broken behind docker/nginx.conf: no client notices."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, takewhile

import httpx
import pytest

from tests.support.balancer import CLASSIFY, Answer, Balancer, Known, load, ports, problem, wrong
from tests.support.processes import Service
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

WAIT_S = 60


class Load:
    """A load that lasts until the end of the context, from a thread of its own."""

    def __init__(self, balancer: Balancer, known: list[Known]) -> None:
        self._balancer, self._known = balancer, known
        self._ended = threading.Event()
        self._sent = 0

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(1)
        self._answers: Future[list[Answer]] = self._pool.submit(load, self._balancer, self._known, self._numbers())
        self.until_sent(100)
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._pool.shutdown()

    def _numbers(self) -> Iterator[int]:
        for number in takewhile(lambda _: not self._ended.is_set(), count()):
            self._sent = number + 1
            yield number

    def until_sent(self, more: int) -> None:
        """Waits for this many more requests."""
        target = self._sent + more
        until(lambda: self._sent >= target or self._answers.done(), WAIT_S)

    def lost_nothing(self) -> int:
        """Asserts that each request had one answer, the right one; returns their number."""
        answers = self._answers.result()
        assert wrong(answers) == []
        sent = [str(number) for number in range(self._sent)]
        assert sorted(answer.id for answer in answers) == sorted(sent)
        assert sorted(str(entry["id"]) for entry in self._balancer.entries(self._sent)) == sorted(sent)
        return self._sent


class Broken(ThreadingHTTPServer):
    """A replica that answers every request with the same status at once."""

    request_queue_size = 128

    def __init__(self, status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def broken() -> Iterator[Callable[[int], Broken]]:
    """Starts broken replicas and stops them afterwards."""
    with contextlib.ExitStack() as stack:

        def start(status: int) -> Broken:
            server = stack.enter_context(Broken(status))
            threading.Thread(target=server.serve_forever).start()
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def hung() -> Iterator[list[int]]:
    """Three ports whose owner takes connections and never answers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]


def readiness(replica: Service) -> int | None:
    """The status of a replica's own readiness; None if its port is closed."""
    try:
        return replica.get("/healthz/ready").status_code
    except (httpx.NetworkError, httpx.RemoteProtocolError):  # but not: it is late
        return None


@pytest.mark.parametrize(
    "kills", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=lambda kills: f"{kills}"
)
def test_replicas_killed_one_after_the_other_lose_nothing(
    known: list[Known], start_replica: Callable[..., Service], balance: Callable[..., Balancer], kills: int
) -> None:
    pair = [start_replica(ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))
    with Load(balancer, known) as clients:
        for kill in range(kills):
            victim = pair[kill % 2]
            victim.process.kill()
            assert victim.process.wait() == -signal.SIGKILL
            clients.until_sent(50)
            victim.start()
            victim.wait_until_ready()
            clients.until_sent(50)
    requests, replayed = clients.lost_nothing(), balancer.replayed()
    assert replayed >= kills  # each kill was noticed: by a request on its way, or by the next one
    print(f"{kills} kills, {requests} requests, {replayed} of them replayed")


@pytest.mark.slow
def test_a_rolling_restart_loses_nothing_and_readiness_goes_off_before_the_port_closes(
    known: list[Known], start_replica: Callable[..., Service], balance: Callable[..., Balancer]
) -> None:
    pair = [start_replica(shutdown_delay=5, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    seen: list[int | None] = []

    def port_is_closed(replica: Service) -> bool:
        seen.append(readiness(replica))
        return seen[-1] is None

    with Load(balance(ports(pair)), known) as clients:
        for replica in pair:
            seen.clear()
            replica.process.terminate()
            until(lambda replica=replica: port_is_closed(replica))
            assert [status for status, before in zip(seen, [200, *seen], strict=False) if status != before] == [
                503,
                None,
            ]
            assert replica.process.wait(timeout=WAIT_S) == 0
            replica.start()
            replica.wait_until_ready()
            clients.until_sent(50)
    clients.lost_nothing()


def test_a_replica_that_hangs_loses_nothing(
    known: list[Known],
    start_replica: Callable[..., Service],
    replicas: list[Service],
    balance: Callable[..., Balancer],
) -> None:
    stopped = start_replica()
    deadlines = {"proxy_read_timeout": "3s", "proxy_next_upstream_timeout": "5s"}
    balancer = balance(ports([stopped, replicas[0]]), instead=deadlines)
    with Load(balancer, known) as clients:
        stopped.process.send_signal(signal.SIGSTOP)
        until(lambda: balancer.replayed() > 0)
        stopped.process.send_signal(signal.SIGCONT)
        clients.until_sent(50)
    clients.lost_nothing()
    assert {entry["upstream_status"] for entry in balancer.entries()} == {"200", "504, 200"}


def test_without_replicas_the_balancer_says_so(known: list[Known], balance: Callable[..., Balancer]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nothing listens
        response = balance([closed.getsockname()[1]]).post(CLASSIFY, known[0].jpeg)
    assert problem(response)["status"] == 503
    assert "No replica of the service" in str(problem(response)["detail"])
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("status", [pytest.param(500, marks=pytest.mark.slow), 503])
def test_a_replica_that_always_fails_is_not_noticed(
    known: list[Known],
    replicas: list[Service],
    broken: Callable[[int], Broken],
    balance: Callable[..., Balancer],
    status: int,
) -> None:
    """Its answers are the fastest, so most requests come to it first."""
    failing = broken(status)
    balancer = balance([failing.server_port, replicas[0].port])
    answers = load(balancer, known, iter(range(400)))
    assert wrong(answers) == []
    assert {entry["upstream_status"] for entry in balancer.entries(400)} == {"200", f"{status}, 200"}


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (503, 3), (504, 1), (422, 1)])
def test_a_request_that_fails_everywhere_is_tried_three_times_at_most(
    known: list[Known], broken: Callable[[int], Broken], balance: Callable[..., Balancer], status: int, tries: int
) -> None:
    """504 is the service's word that the request's own deadline is over: it is not tried again."""
    servers = [broken(status) for _ in range(5)]
    balancer = balance([server.server_port for server in servers])
    assert balancer.post(CLASSIFY, known[0].jpeg).status_code == status
    (entry,) = balancer.entries(1)
    assert entry["upstream_status"] == ", ".join([str(status)] * tries)


def test_a_request_that_makes_replicas_hang_is_given_to_two(
    known: list[Known], hung: list[int], balance: Callable[..., Balancer]
) -> None:
    deadlines = {
        "proxy_read_timeout": "3s",
        "proxy_next_upstream_timeout": "5s",
    }  # in the proportion of the shipped ones
    balancer = balance(hung, instead=deadlines)
    assert problem(balancer.post(CLASSIFY, known[0].jpeg, timeout=WAIT_S))["title"] == "Gateway Timeout"
    (entry,) = balancer.entries(1)
    assert entry["upstream_status"] == "504, 504"
