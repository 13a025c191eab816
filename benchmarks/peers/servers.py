"""Starting a peer's server, waiting until it answers as it should, and ending all of it."""

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
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.catalogue import Peer, Place
from benchmarks.peers.model import ENGINE_VARIABLE, FOLDER_VARIABLE, EngineName

ROOT = Path(__file__).parent.parent.parent
START_S = 120.0
ANSWER_S = 30.0
PORTS = 5  # TorchServe listens on that many
GRACE_S = 5.0  # between asking a server to end and killing what is left of it
LOG_LINES, LOG_CHARACTERS = 5, 300  # of a server that did not start, to say why


class NotServing(Exception):
    """A server did not start, or answers wrongly; the message says why."""


class Server(NamedTuple):
    """A server that is running and answers correctly."""

    url: str
    content_type: str
    body: bytes
    keeper: int  # the process above all of its processes

    def drain(self) -> None:
        """Returns when it has worked off what it was sent: it answers once more, queued behind the rest.

        wrk leaves while its last requests are being answered. Many servers compute those all the same, and the next
        measurement would wait for them.
        """
        with contextlib.suppress(OSError, http.client.HTTPException):  # a failure is for the next measurement to count
            _ask(self.url, self.content_type, self.body)


@contextlib.contextmanager
def serving(
    peer: Peer, python: Path, model: Path, engine: EngineName, jpeg: bytes, expected: Container[int]
) -> Iterator[Server]:
    """A peer's server, for as long as the context lasts.

    Args:
        expected: the classes that it may put first for `jpeg`.

    Raises:
        NotServing: it ended, did not answer in time, answered wrongly, or left its port taken.
    """
    with tempfile.TemporaryDirectory(prefix=f"peer-{peer.name}-") as name:
        folder = Path(name)
        ports = free_ports(PORTS)
        url = f"http://127.0.0.1:{ports[0]}{peer.path}"
        command = [str(part) for part in peer.command(Place(python, folder, ports, model.absolute()))]
        with (folder / "log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.processes", str(GRACE_S), *command],
                cwd=folder,
                env=_variables(peer, python, model, engine),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                body = peer.encode(jpeg)
                answer = _first_answer(keeper, url, peer.content_type, body, folder / "log")
                _check(peer, answer, expected)
                yield Server(url, peer.content_type, body, keeper.pid)
            finally:
                keeper.terminate()
                keeper.wait()
        if _listening(ports[0]):
            raise NotServing(f"port {ports[0]} is still taken after it has ended")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _variables(peer: Peer, python: Path, model: Path, engine: EngineName) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # what it prints and what it dies of are one log, in the order in which they happened
        ENGINE_VARIABLE: engine,
        FOLDER_VARIABLE: str(model.absolute()),
        **peer.variables,
    }


def _ask(url: str, content_type: str, body: bytes) -> bytes:
    """The body of one answer. Raises OSError or HTTPException."""
    request = urllib.request.Request(url, data=body, headers={"content-type": content_type})
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
        answer: bytes = response.read()
        return answer


def _first_answer(keeper: subprocess.Popen[bytes], url: str, content_type: str, body: bytes, log: Path) -> bytes:
    """The body of the first answer that is no error. Raises NotServing."""
    end = time.monotonic() + START_S
    said = "no answer"
    while time.monotonic() < end:
        if keeper.poll() is not None:
            raise NotServing(f"it ended: {_tail(log)}")
        try:
            return _ask(url, content_type, body)
        except urllib.error.HTTPError as error:  # while it starts; or it cannot take the request
            said = f"{error.code} {error.read(200)!r}"
        except (OSError, http.client.HTTPException) as error:
            said = str(error)
        time.sleep(0.1)
    raise NotServing(f"not ready after {START_S:.0f} s ({said}): {_tail(log)}")


def _check(peer: Peer, answer: bytes, expected: Container[int]) -> None:
    """Raises NotServing unless the answer puts an expected class first."""
    try:
        found = peer.predicted(json.loads(answer))
    except (ValueError, LookupError, TypeError) as error:
        raise NotServing(f"it answers what it should not ({error!r}): {answer[:200]!r}") from error
    if found not in expected:
        raise NotServing(f"it answers class {found}, none of {expected}")


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]


def _listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
