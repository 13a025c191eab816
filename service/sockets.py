"""Binding the port: whether it can be used, and sharing it between the workers."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import ExitStack, suppress

MOST_OPEN_FILES = 65536  # not raised further: some programs close every possible descriptor
EXIT_UNUSABLE = 3  # exit status if the port cannot be used, as uvicorn's


def check(host: str, port: int) -> None:
    """Raises OSError if no server could listen there now."""
    for sock in bind(host, port, shared=False):
        sock.close()


def raise_open_files_limit() -> int:
    """Raises the number of files that this process may have open, as far as the system lets it. Returns the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft == resource.RLIM_INFINITY:
        return most
    if soft < most:
        with suppress(OSError, ValueError):  # macOS has a further limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def explain(host: str, port: int, error: OSError, *, option: str = "--port") -> str:
    """Explains why no server can listen there, and what to do. `option` sets this port."""
    if error.errno == errno.EADDRINUSE:
        return f"another program listens on {host} port {port}: stop it, or choose another port with {option}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not listen on port {port}: choose one above 1023 with {option}"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{host} is not an address of this machine ({error.strerror}): give one with --host, 127.0.0.1 for "
            "programs on this machine or 0.0.0.0 for all"
        )
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


class ReservedPort(ExitStack):
    """A port reserved for the workers of this service. It stays bound, without listening, until it is closed."""

    def __init__(self, host: str, port: int) -> None:
        """
        Args:
            port: 0 reserves any free port; the attribute `port` has its number.

        Raises:
            OSError: the port is in use.
        """
        super().__init__()
        # Every process of this user may share a port, so a second service could take half of the requests. Binding the
        # port without sharing finds a service that listens. The name below finds one that has only reserved the port:
        # Linux gives an abstract socket name to one socket at a time, and releases it when the process ends.
        check(host, port)
        sockets = bind(host, port)
        for sock in sockets:
            self.enter_context(sock)
        self.port: int = sockets[0].getsockname()[1]
        name = self.enter_context(socket.socket(socket.AF_UNIX))
        try:
            name.bind(f"\0resnet-service {host} {self.port}")
        except OSError:
            self.close()
            raise


def bind(host: str, port: int, *, shared: bool = True) -> list[socket.socket]:
    """Binds a socket to each address of a host, all with the same port.

    Among shared sockets of several processes, the system distributes the connections.

    Raises:
        OSError: the port cannot be used.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]  # if it was 0, the other addresses get the same one
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
