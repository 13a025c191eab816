"""Whether a port can be had; and one for all workers: a socket each, among which the system divides connections."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

UNUSABLE = 3  # exit status where the port cannot be had, as uvicorn's


def check(host: str, port: int) -> None:
    """Raises OSError where nobody could listen there now."""
    for sock in bound(host, port, shared=False):
        sock.close()


def fault(host: str, port: int, error: OSError) -> str:
    """Why one cannot listen there, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"another program listens on {host} port {port}: stop it, or choose another port with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not listen on port {port}: choose one above 1023 with --port"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{host} is no address of this machine ({error.strerror}): give one with --host, 127.0.0.1 for programs on "
            "this machine or 0.0.0.0 for all"
        )
    return f"nobody can listen on {host} port {port}: {error.strerror or error}"


class Reserved(ExitStack):
    """A port that is kept for the workers of this service, without listening, until it is closed."""

    def __init__(self, host: str, port: int) -> None:
        """
        Args:
            port: 0 takes a free one; `port` says which.

        Raises:
            OSError: somebody else has it.
        """
        super().__init__()
        # Sharing a port is allowed to every process of this user, so a second service could take half of the requests:
        # a port that somebody listens on is refused by binding it alone, and one that has only been reserved by a
        # second name, which Linux gives to one socket at a time and takes back when the process ends.
        check(host, port)
        sockets = bound(host, port)
        for sock in sockets:
            self.enter_context(sock)
        self.port: int = sockets[0].getsockname()[1]
        name = self.enter_context(socket.socket(socket.AF_UNIX))
        try:
            name.bind(f"\0resnet-service {host} {self.port}")
        except OSError:
            self.close()
            raise


def bound(host: str, port: int, *, shared: bool = True) -> list[socket.socket]:
    """Sockets at every address of a host: sharing their port with other processes, or alone. Raises OSError."""
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
            port = sock.getsockname()[1]  # the same at the other addresses, where any was free
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
