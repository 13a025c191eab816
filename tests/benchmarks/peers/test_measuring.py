"""A run goes on without the peers that fail, and reports why they did."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.peers import measuring
from benchmarks.peers.catalogue import OURS, Peer, Place
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.measuring import Figures, Plan, measure
from benchmarks.peers.servers import Server

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"7")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Uninstallable(Peer):
    def python(self) -> Path:
        raise EnvironmentFailed("pip: no such version")


def command(place: Place) -> Sequence[object]:
    return [place.python, "-c", SERVER, place.ports[0]]


def broken(place: Place) -> Sequence[object]:
    return [place.python, "-c", "raise SystemExit('out of order')"]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replaces model and load. The list gets the URL's path and the seed of each load."""
    loads: list[tuple[str, int]] = []

    def load(server: Server, plan: Plan, seed: int) -> Figures:
        loads.append((server.url.rpartition("/")[2], seed))
        return {"1.per_second": 3.0}

    monkeypatch.setattr(measuring, "_expected", lambda engine, model, jpeg: [7])
    monkeypatch.setattr(measuring, "_load", load)
    return loads


def test_servers_alternate_and_failures_are_reported(no_model: list[tuple[str, int]]) -> None:
    peers = [
        Peer("one", None, command, "/one", predicted=int),
        Peer("two", None, broken, "/two", predicted=int),
        Uninstallable("three", None, command, "/three", predicted=int),
        Peer(OURS, None, command, "/four", predicted=int),
    ]
    found = measure(peers, ["ours"], Path(sys.prefix), b"", Plan(rounds=2, seconds=1, open_loop=False))
    assert no_model == [("one", 0), ("four", 0), ("one", 1), ("four", 1)]
    assert [(one.peer, one.engine, len(one.rounds)) for one in found] == [
        ("one", "ours", 2),
        ("two", "ours", 0),
        ("three", "ours", 0),
        (OURS, "int8", 2),
    ]
    assert [one.error for one in found] == [None, "round 1: it ended: out of order", "pip: no such version", None]
