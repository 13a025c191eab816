"""Servers are used only if their answers are right, and end afterwards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import Peer, Place
from benchmarks.peers.servers import NotServing, serving

# Sends back the request body, with the engine and the model from its environment.
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


def test_a_server_with_right_answers_is_used() -> None:
    seen: list[bytes] = []
    start(peer(), b"7", seen)
    assert seen == [b"7"]


def test_its_environment_names_the_engine_and_the_model() -> None:
    def predicted(answer: dict[str, str]) -> int:
        return 7 if (answer["engine"], answer["model"]) == ("ours", str(Path("models/one/1").absolute())) else 0

    start(Peer("echo", None, peer().command, "/", predicted=predicted), b"", [])


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"8", "wrong answer: class 8, expected one of"), (b"", "unexpected answer .ValueError")],
    ids=["another class", "nonsense"],
)
def test_a_server_with_wrong_answers_is_refused(body: bytes, why: str) -> None:
    seen: list[bytes] = []
    with pytest.raises(NotServing, match=why):
        start(peer(), body, seen)
    assert not seen


def test_a_server_that_ends_is_reported_with_the_end_of_its_log() -> None:
    with pytest.raises(NotServing, match="it ended: first / no such module"):
        start(peer("print('first'); raise SystemExit('no such module')"), b"7", [])
