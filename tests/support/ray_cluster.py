"""A Ray cluster on this machine: nodes are processes, which listen on 127.0.0.1 only."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.support.processes import free_port
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
START_S = 240
STARTED = "Ray runtime started"  # in what a node prints
MEMORY = 200 * 2**20  # of each node's object store
PORTS = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port")

# For the nodes, and for programs that connect to them.
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # not what Ray has left in the home folder
    "PYTHONPATH": str(ROOT),  # this source tree, wherever the package is installed from
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray use the loopback address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "240000",
}

# The command `ray`, for a busy machine: it gives a node half a minute to start, and the agents in it a quarter to name
# their ports. No options change that. So it waits longer, and each agent is given a port, which is named beforehand.
NODE = f"""
import time
from inspect import signature
from pathlib import Path
from ray._private import ray_constants, services, utils
from ray.scripts.scripts import main

once, begin, last = services.get_node, services.start_raylet, time.monotonic() + {START_S}

def patiently(*arguments):
    while True:
        try:
            return once(*arguments)
        except RuntimeError:
            if time.monotonic() > last:
                raise
            time.sleep(0.1)

def named(*arguments, **options):
    given = signature(begin).bind(*arguments, **options).arguments
    name = f"dashboard_agent_listen_port_{{given['node_id']}}"
    Path(given["session_dir"], name).write_text(str(given["dashboard_agent_listen_port"]))
    return begin(*arguments, **options)

services.get_node, services.start_raylet = patiently, named
ray_constants.ENABLE_RAY_CLUSTER = True  # a second node, in spite of the loopback address
services.get_node_ip_address = lambda *arguments: "127.0.0.1"
utils.get_dashboard_dependency_error = lambda: ImportError("left out: it takes long to start")
main()
"""


class Cluster:
    """A head and further nodes. A context manager: leaving it kills all of them.

    Attributes:
        address: HOST:PORT of the head.
    """

    def __init__(self, cpus: int, gpus: int = 0) -> None:
        """
        Args:
            cpus, gpus: that each node says it has.
        """
        self._size = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={MEMORY}"]
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: paths of sockets are limited
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.head = self._start(
            "--head", f"--port={port}", f"--temp-dir={self._folder / 'head'}", "--include-dashboard=false"
        )

    def add(self) -> subprocess.Popen[bytes]:
        """Another node."""
        return self._start(f"--address={self.address}")

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Ends all processes of a node at once, as a power failure does."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"node-{len(self._nodes)}.log"
        ports = ["--min-worker-port=0", "--max-worker-port=0", *(f"--{name}={free_port()}" for name in PORTS)]
        command = [sys.executable, "-c", NODE, "start", "--block", *options, *ports, *self._size]
        with log.open("wb") as output:
            node = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True)
        self._nodes.append(node)
        try:
            until(lambda: STARTED in log.read_text() or node.poll() is not None, START_S)
            assert node.poll() is None, log.read_text()
        except BaseException:
            self.__exit__()
            raise
        return node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for node in reversed(self._nodes):
            if node.poll() is None:
                self.kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)
