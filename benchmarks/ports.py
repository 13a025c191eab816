"""Ports for the servers that benchmarks and tests start."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from itertools import cycle, islice

# Below the ports that Linux gives to outgoing connections and to servers that ask for any: a server that starts a
# second later still finds its port free.
FIRST, END = 20_000, 32_768


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that no server listens on, other ones each time."""
    return list(islice(filter(_is_free, _ports), count))


def _own_ports() -> Iterator[int]:
    """The ports of this process, for ever. The processes of pytest-xdist share none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(FIRST + worker, END, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return cycle(random.Random().sample(own, len(own)))  # in an order of its own, as other runs are unknown


_ports = _own_ports()


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
