"""A peer's server: starts it, checks its first answer, and ends all of its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.catalogue import Peer, Place
from benchmarks.peers.model import ENGINE_VARIABLE, FOLDER_VARIABLE, EngineName
from benchmarks.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
START_S = 120.0
ANSWER_S = 30.0
PORTS = 5  # as many as TorchServe needs
GRACE_S = 5.0  # between asking a server to end and killing its processes
LOG_LINES, LOG_CHARACTERS = 5, 300  # of the log, in the message about a server that did not start


class NotServing(Exception):
    """A server did not start, or gives wrong answers; the message says why."""


class Server(NamedTuple):
    """A running server whose answer was correct."""

    url: str
    content_type: str
    headers: Mapping[str, str]  # beside it
    body: bytes
    keeper: int  # process id of the keeper above it

    def drain(self) -> None:
        """Waits until the server has no requests left, by sending one more that queues behind them.

        wrk stops while its last requests are unanswered. Many servers compute those all the same, at the expense of the
        next measurement.
        """
        with contextlib.suppress(OSError, http.client.HTTPException):  # the next measurement counts failures
            _ask(self.url, {"content-type": self.content_type, **self.headers}, self.body)


@contextlib.contextmanager
def serving(
    peer: Peer, python: Path, model: Path, engine: EngineName, jpeg: bytes, expected: Container[int]
) -> Iterator[Server]:
    """Runs a peer's server in the context.

    Args:
        expected: the classes that it may rank first for `jpeg`.

    Raises:
        NotServing: it ended, did not answer in time, gave a wrong answer, or left its port in use.
    """
    with tempfile.TemporaryDirectory(prefix=f"peer-{peer.name}-") as name:
        folder = Path(name)
        ports = free_ports(PORTS)
        url = f"http://127.0.0.1:{ports[0]}{peer.path}"
        command = [str(part) for part in peer.command(Place(python, folder, ports, model.absolute(), engine))]
        with (folder / "log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.keeper", str(GRACE_S), *command],
                cwd=folder,
                env=_variables(peer, python, model, engine),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                body = peer.encode(jpeg)
                headers = {"content-type": peer.content_type, **peer.headers}
                _check(peer, _first_answer(keeper, url, headers, body, folder / "log"), expected)
                yield Server(url, peer.content_type, peer.headers, body, keeper.pid)
            finally:
                keeper.terminate()
                keeper.wait()
        if _listening(ports[0]):
            raise NotServing(f"it has ended, but its port {ports[0]} is still in use")


def _variables(peer: Peer, python: Path, model: Path, engine: EngineName) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # keeps output and errors in order in the log
        ENGINE_VARIABLE: engine,
        FOLDER_VARIABLE: str(model.absolute()),
        **peer.variables,
    }


def _ask(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The body of one answer. Raises OSError or HTTPException."""
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
        answer: bytes = response.read()
        return answer


def _first_answer(
    keeper: subprocess.Popen[bytes], url: str, headers: Mapping[str, str], body: bytes, log: Path
) -> bytes:
    """The body of the first answer without an error status. Raises NotServing."""
    end = time.monotonic() + START_S
    last = "no answer"
    while time.monotonic() < end:
        if keeper.poll() is not None:
            raise NotServing(f"it ended: {_tail(log)}")
        try:
            return _ask(url, headers, body)
        except urllib.error.HTTPError as error:  # it is still starting, or refuses the request
            last = f"{error.code} {error.read(200)!r}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        time.sleep(0.1)
    raise NotServing(f"not ready after {START_S:.0f} s ({last}): {_tail(log)}")


def _check(peer: Peer, answer: bytes, expected: Container[int]) -> None:
    """Raises NotServing unless the answer ranks an expected class first."""
    try:
        found = peer.predicted(json.loads(answer))
    except (ValueError, LookupError, TypeError) as error:
        raise NotServing(f"unexpected answer ({error!r}): {answer[:200]!r}") from error
    if found not in expected:
        raise NotServing(f"wrong answer: class {found}, expected one of {expected}")


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]


def _listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
