"""Binding, sharing and reserving ports, with real sockets."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
import sys

import pytest

from service.sockets import ReservedPort, bind, check, explain
from tests.support.processes import free_port


def listen(host: str, port: int) -> list[socket.socket]:
    sockets = bind(host, port)
    for sock in sockets:
        sock.listen()
    return sockets


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_workers_share_the_reserved_port() -> None:
    with ReservedPort("127.0.0.1", 0) as reserved:
        assert reserved.port > 0
        first, second = listen("127.0.0.1", reserved.port), listen("127.0.0.1", reserved.port)
        socket.create_connection(("127.0.0.1", reserved.port)).close()
        close(first)
        close(second)


def test_a_reserved_port_does_not_listen() -> None:
    with ReservedPort("127.0.0.1", 0) as reserved, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserved.port))


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_in_use_is_refused(shared: bool) -> None:
    sockets = bind("127.0.0.1", 0, shared=shared)
    sockets[0].listen()
    with pytest.raises(OSError, match="in use") as refused:
        ReservedPort("127.0.0.1", sockets[0].getsockname()[1])
    assert refused.value.errno == errno.EADDRINUSE
    close(sockets)


def test_a_port_is_reserved_once_and_free_again_afterwards() -> None:
    port = free_port()
    with ReservedPort("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        ReservedPort("127.0.0.1", port)
    with ReservedPort("127.0.0.1", port) as reserved:
        assert reserved.port == port


def test_all_addresses_of_a_host_get_the_same_port() -> None:
    sockets = bind("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    close(sockets)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("nosuch.invalid", 8000, r"^nosuch\.invalid is not an address of this machine \(.+\): give one with --host"),
        ("192.0.2.1", 8000, r"^192\.0\.2\.1 is not an address of this machine \(.+\): give one with --host"),
    ],
)
def test_an_invalid_address_is_named(host: str, port: int, message: str) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the message is checked below)
        check(host, port)
    assert re.match(message, explain(host, port, caught.value))


def test_a_port_in_use_is_named_and_a_free_one_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:  # noqa: PT011
            check("127.0.0.1", port)
    assert explain("127.0.0.1", port, caught.value).startswith(
        f"another program listens on 127.0.0.1 port {port}: stop"
    )
    check("127.0.0.1", port)
    socket.create_server(("127.0.0.1", port)).close()


def test_other_faults_are_named() -> None:
    message = explain("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert message == "this user may not listen on port 80: choose one above 1023 with --port"
    assert explain("::1", 80, OSError(errno.EIO, "Input/output error")) == (
        "cannot listen on ::1 port 80: Input/output error"
    )


def test_the_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    program = """
import resource
from service import sockets
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 200))
print(sockets.raise_open_files_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
sockets.MOST_OPEN_FILES = 100
print(sockets.raise_open_files_limit())
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 200))
print(sockets.raise_open_files_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split("\n")[:3] == ["200 200 200", "200", "100 100 200"]
