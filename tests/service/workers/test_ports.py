"""Sharing a port, with real sockets."""

from __future__ import annotations

import errno
import socket

import pytest

from service.workers.ports import Reserved, bound
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
