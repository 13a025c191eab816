"""One port for all workers: a socket each, and the system divides connections among those that listen."""

from __future__ import annotations

import socket
from contextlib import ExitStack


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
        for sock in bound(host, port, shared=False):
            sock.close()
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
