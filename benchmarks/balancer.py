"""nginx with docker/nginx.conf in front of replicas on this machine. For tests, too."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_ports

DOCKER = Path(__file__).parents[1] / "docker"
START_S = 10
ACCESS_LOG = "access.log"  # in nginx's folder: a JSON document for each request


@contextmanager
def nginx(
    folder: Path,
    replica_ports: Sequence[int],
    *,
    tls: bool = False,
    listen: str | None = None,
    instead: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Runs the container's configuration with other addresses; the context gets nginx's port.

    Args:
        folder: for its files; with `tls`, it holds tls/certificate.pem and tls/key.pem.
        listen: in place of docker/listen.conf.
        instead: other values of directives, for deadlines that a test cannot wait for: {"proxy_read_timeout": "1s"}.

    Raises:
        RuntimeError: nginx did not start; the message is its log.
    """
    (port,) = free_ports(1)
    conf = (DOCKER / "nginx.conf").read_text()
    for directive, value in (instead or {}).items():
        conf, found = re.subn(rf"^( *{directive}) \w+;", rf"\1 {value};", conf, flags=re.M)
        assert found == 1, directive
    (folder / "nginx.conf").write_text(conf)
    if listen is None:
        listen = (DOCKER / ("listen-tls.conf" if tls else "listen.conf")).read_text()
    assert listen.count("listen 8080") == 1
    (folder / "listen.conf").write_text(listen.replace("listen 8080", f"listen 127.0.0.1:{port}"))
    (server,) = re.findall(r"^server service:8000 resolve(.*;)$", (DOCKER / "upstream.conf").read_text(), re.M)
    servers = [f"server 127.0.0.1:{replica_port}{server}\n" for replica_port in replica_ports]
    (folder / "upstream.conf").write_text("".join(servers))
    errors = folder / "error.log"
    # nginx started by root runs its workers as another user, who cannot enter a private folder.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", directives]
    with (folder / ACCESS_LOG).open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {errors.read_text()}")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
