"""Sharing a port, with real sockets."""

from __future__ import annotations

import errno
import re
import socket

import pytest

from service.ports import Reserved, bound, check, fault
from tests.conftest import free_port


def listen(host: str, port: int) -> list[socket.socket]:
    sockets = bound(host, port)
    for sock in sockets:
        sock.listen()
    return sockets


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_workers_share_what_is_reserved_for_them() -> None:
    with Reserved("127.0.0.1", 0) as reserved:
        assert reserved.port > 0
        first, second = listen("127.0.0.1", reserved.port), listen("127.0.0.1", reserved.port)
        socket.create_connection(("127.0.0.1", reserved.port)).close()
        close(first)
        close(second)


def test_what_is_reserved_does_not_listen() -> None:
    with Reserved("127.0.0.1", 0) as reserved, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserved.port))


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_that_somebody_listens_on_is_refused(shared: bool) -> None:
    sockets = bound("127.0.0.1", 0, shared=shared)
    sockets[0].listen()
    with pytest.raises(OSError, match="in use") as refused:
        Reserved("127.0.0.1", sockets[0].getsockname()[1])
    assert refused.value.errno == errno.EADDRINUSE
    close(sockets)


def test_a_port_is_reserved_once_and_free_again_afterwards() -> None:
    port = free_port()
    with Reserved("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        Reserved("127.0.0.1", port)
    with Reserved("127.0.0.1", port) as reserved:
        assert reserved.port == port


def test_a_host_of_several_addresses_has_one_port() -> None:
    sockets = bound("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    close(sockets)


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("nosuch.invalid", 8000, r"^nosuch\.invalid is no address of this machine \(.+\): give one with --host"),
        ("192.0.2.1", 8000, r"^192\.0\.2\.1 is no address of this machine \(.+\): give one with --host"),
    ],
)
def test_an_address_that_is_none_is_named(host: str, port: int, said: str) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (what it says is the test's)
        check(host, port)
    assert re.match(said, fault(host, port, caught.value))


def test_a_port_that_is_taken_is_named_and_a_free_one_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:  # noqa: PT011
            check("127.0.0.1", port)
    assert fault("127.0.0.1", port, caught.value).startswith(f"another program listens on 127.0.0.1 port {port}: stop")
    check("127.0.0.1", port)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_of_the_system_is_named() -> None:
    said = fault("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert said == "this user may not listen on port 80: choose one above 1023 with --port"
    assert fault("::1", 80, OSError(errno.EIO, "Input/output error")) == (
        "nobody can listen on ::1 port 80: Input/output error"
    )
