"""Ports for the servers that benchmarks and tests start."""

from __future__ import annotations

import socket

import pytest

from benchmarks import ports
from benchmarks.ports import free_ports


def test_free_ports_differ() -> None:
    given = free_ports(5) + free_ports(5)
    assert len(set(given)) == 10


def test_free_ports_are_none_that_the_system_gives_to_others() -> None:
    assert max(free_ports(20)) < 32768  # ip_local_port_range of ip(7)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (free,) = free_ports(1)
        monkeypatch.setattr(ports, "_ports", iter((taken.getsockname()[1], free)))
        assert free_ports(1) == [free]


def test_processes_of_one_test_run_share_no_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    own = []
    for worker in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        own.append({next(ports._own_ports()) % 3 for _ in range(20)})
    assert [len(remainders) for remainders in own] == [1, 1, 1]
    assert len(set.union(*own)) == 3
