"""A real S3 server (nanio), whose buckets are folders, and connections to it that break."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import free_port
from tests.support.waiting import until

KEY, SECRET = "models-reader", "correct horse battery"


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """A server whose buckets are the folders in `folder`. Yields its address."""
    port = free_port()
    environment = {**os.environ, "NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
    command = [sys.executable, "-m", "nanio.cli", "serve", f"--data-dir={folder}", "--host=127.0.0.1", f"--port={port}"]
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Breaking:
    """A proxy that breaks connections, or stalls them, after so many bytes of answers.

    Attributes:
        address: of the proxy.
        passed: bytes of answers that went through.
    """

    def __init__(self, upstream: str, after: int, *, times: int, stalls: bool = False) -> None:
        """
        Args:
            upstream: `http://HOST:PORT`.
            times: how many connections break; later ones hold.
        """
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self._after, self._left, self._stalls = after, times, stalls
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for connections
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    @staticmethod
    def _copy(client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while data := client.recv(2**16):
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        allowed = self._after
        with suppress(OSError):
            while data := server.recv(2**16):
                if self._left > 0 and len(data) > allowed:
                    self._left -= 1
                    client.sendall(data[:allowed])
                    self.passed += allowed
                    if self._stalls:
                        return  # the connection stays open, and nothing more comes
                    break
                allowed -= len(data)
                client.sendall(data)
                self.passed += len(data)
        for connection in (server, client):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # also ends the other direction, whose thread closes them
