"""Servers are used only when they answer as they should, and are gone afterwards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import Peer, Place
from benchmarks.peers.servers import NotServing, free_ports, serving

# Sends back what it was sent, with the engine and the model that it was asked for.
ECHO = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        answer = {"class": body, "engine": os.environ["PEER_ENGINE"], "model": os.environ["PEER_MODEL"]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def peer(program: str = ECHO) -> Peer:
    """A peer whose predicted class is the number in the body."""

    def command(place: Place) -> Sequence[object]:
        return [place.python, "-c", program, place.ports[0]]

    return Peer("echo", None, command, "/", predicted=lambda answer: int(answer["class"]))


def start(peer: Peer, body: bytes, seen: list[bytes]) -> None:
    """Starts it with the engine "ours", expecting class 7 or 9."""
    with serving(peer, Path(sys.executable), Path("models/one/1"), "ours", body, [7, 9]) as server:
        server.drain()
        seen.append(server.body)


def test_a_server_that_answers_rightly_is_used() -> None:
    seen: list[bytes] = []
    start(peer(), b"7", seen)
    assert seen == [b"7"]


def test_it_is_told_the_engine_and_the_model() -> None:
    def predicted(answer: dict[str, str]) -> int:
        return 7 if (answer["engine"], answer["model"]) == ("ours", str(Path("models/one/1").absolute())) else 0

    start(Peer("echo", None, peer().command, "/", predicted=predicted), b"", [])


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"8", "it answers class 8, none of"), (b"", "it answers what it should not .ValueError")],
    ids=["another class", "nonsense"],
)
def test_a_server_that_answers_wrongly_is_refused(body: bytes, why: str) -> None:
    seen: list[bytes] = []
    with pytest.raises(NotServing, match=why):
        start(peer(), body, seen)
    assert not seen


def test_a_server_that_ends_is_reported_with_its_last_words() -> None:
    with pytest.raises(NotServing, match="it ended: first / no such module"):
        start(peer("print('first'); raise SystemExit('no such module')"), b"7", [])


def test_free_ports_differ() -> None:
    assert len(set(free_ports(5))) == 5
