"""Ports for the servers that benchmarks start."""

from __future__ import annotations

from benchmarks.serving import free_ports


def test_free_ports_differ() -> None:
    assert len(set(free_ports(5))) == 5
