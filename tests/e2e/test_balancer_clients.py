"""Clients that are slow, many or greedy, in front of docker/nginx.conf: the others are served."""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import select
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from benchmarks.balancer import DOCKER
from service.settings import Settings
from tests.support.balancer import CLASSIFY, Balancer, Known, ports, problem
from tests.support.processes import JPEG, Service
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

CUT_OFF_S = 30  # every deadline of the configuration is shorter, and nginx's own defaults are longer
QUICK = {"client_header_timeout": "1s", "client_body_timeout": "1s"}
STALLED = 2100
HEADERS = b"POST /classify HTTP/1.1\r\nHost: balancer\r\nContent-Type: image/jpeg\r\n"
GREEDY = "127.0.0.2"
MAX_IMAGE_BYTES = Settings.model_fields["max_image_bytes"].default


def limit(name: str) -> int:
    (number,) = re.findall(rf"limit_conn {name} (\d+);", (DOCKER / "nginx.conf").read_text())
    return int(number)


def announcing(length: int | None) -> bytes:
    """The headers of a request whose body has this many bytes; None for one in chunks."""
    return HEADERS + (f"Content-Length: {length}" if length else "Transfer-Encoding: chunked").encode() + b"\r\n\r\n"


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Opens connections, from an address of its own if one is given, and sends their first bytes."""
    with contextlib.ExitStack() as stack:

        def opened(balancer: Balancer, sent: bytes, address: str = "127.0.0.1") -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", balancer.port), source_address=(address, 0))
            stack.enter_context(connection)
            connection.sendall(sent)
            return connection

        yield opened


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STALLED + 500:
        pytest.skip(f"this process may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed or reset the connection, or answered a timeout."""
    try:
        connection.setblocking(False)
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    poll = select.poll()
    by_descriptor = {connection.fileno(): connection for connection in connections}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]


@pytest.mark.parametrize("instead", [QUICK, pytest.param({}, marks=pytest.mark.slow)], ids=["quick", "as configured"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="silent"),
        pytest.param(b"GET / HTTP/1.1\r\nX-Slow: ", b"x", id="headers byte by byte"),
        pytest.param(announcing(20 * 2**20) + b"x" * 1000, b"", id="20 MB announced, then silent"),
        pytest.param(announcing(None) + b"4\r\nabcd\r\n", b"", id="a chunk, then silent"),
    ],
)
def test_a_slow_client_is_cut_off(
    balance: Callable[..., Balancer],
    connect: Callable[..., socket.socket],
    first: bytes,
    then: bytes,
    instead: dict[str, str],
) -> None:
    connection = connect(balance([1], instead=instead), first)

    def closed_meanwhile() -> bool:
        with contextlib.suppress(ConnectionError):
            connection.sendall(then)
        return is_closed(connection)

    until(closed_meanwhile, CUT_OFF_S)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off(
    balance: Callable[..., Balancer], replicas: list[Service], connect: Callable[..., socket.socket]
) -> None:
    """It asks for more than the buffers of both kernels hold, and takes none of it."""
    asking = b"GET /static/swagger-ui-bundle.js HTTP/1.1\r\nHost: balancer\r\n\r\n" * 32
    connection = connect(balance(ports(replicas)), asking)

    until(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET, CUT_OFF_S)


@pytest.mark.slow
def test_2100_slow_connections_shut_nobody_out(
    balance: Callable[..., Balancer],
    replicas: list[Service],
    known: list[Known],
    connect: Callable[..., socket.socket],
    many_descriptors: None,
) -> None:
    balancer = balance(ports(replicas), instead={"client_header_timeout": "300s", "client_body_timeout": "300s"})
    slow = [connect(balancer, b"GET / HTTP/1.1\r\nX-Slow: ") for _ in range(STALLED // 2)]
    slow += [connect(balancer, announcing(1000) + b"x") for _ in range(STALLED // 2)]

    answers = [balancer.post(CLASSIFY, image.jpeg).status_code for image in known * 5]

    assert answers == [200] * len(answers)
    assert answered(slow) == []  # and all of them are still connected


@pytest.mark.parametrize(
    ("size", "length"),
    [("small", 900_000), ("medium", 9_000_000), ("large", 62 * 2**20), pytest.param("large", None, id="chunked")],
)
def test_stalled_uploads_of_one_client_leave_room_for_others(
    balance: Callable[..., Balancer],
    replicas: list[Service],
    known: list[Known],
    connect: Callable[..., socket.socket],
    size: str,
    length: int | None,
) -> None:
    balancer = balance(ports(replicas), instead={"client_body_timeout": "300s"})
    held, refused = limit(f"{size}_client"), 5
    assert held * 2 == limit(size)
    uploads = [connect(balancer, announcing(length), GREEDY) for _ in range(held + refused)]

    until(lambda: len(answered(uploads)) == refused)
    for connection in answered(uploads):
        head = connection.recv(65536)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in head

    # The client may go on with small images, and others with images of this size. What follows an image is not decoded.
    greedy = httpx.Client(transport=httpx.HTTPTransport(local_address=GREEDY, verify=False), base_url=balancer.url)
    with greedy:
        assert greedy.post(CLASSIFY, content=known[0].jpeg, headers=JPEG).status_code == 200
    padding = min(length or MAX_IMAGE_BYTES, MAX_IMAGE_BYTES - len(known[0].jpeg))
    assert balancer.post(CLASSIFY, known[0].jpeg + bytes(padding)).status_code == 200


def test_stalled_uploads_of_many_clients_are_no_more_than_fit(
    balance: Callable[..., Balancer],
    replicas: list[Service],
    known: list[Known],
    connect: Callable[..., socket.socket],
) -> None:
    balancer = balance(ports(replicas), instead={"client_body_timeout": "300s"})
    clients, each = 3, limit("large_client")
    uploads = [
        connect(balancer, announcing(62 * 2**20), f"127.0.0.{2 + i}") for i in range(clients) for _ in range(each)
    ]

    until(lambda: len(answered(uploads)) == clients * each - limit("large"))

    response = balancer.post("/classify", bytes(12_000_000))
    assert problem(response)["title"] == "Service Unavailable"
    assert response.headers["retry-after"] == "1"
    assert balancer.post(CLASSIFY, known[0].jpeg + bytes(3_000_000)).status_code == 200  # a photo of 3 MB
