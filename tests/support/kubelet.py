"""A container as the kubelet runs it: started from a rendered specification, probed, and ended by its hook and signals.

The process, its HTTP answers and its signals are real. Only ports and folders differ from the specification's.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import image
from tests.support.manifests import Manifest, environment
from tests.support.processes import free_port, request


class Container:
    """One container of a pod.

    Attributes:
        port: where the container's port `http` is reached.
        ready: whether the readiness probe has succeeded, and not failed too often since.
        started: seconds that the startup probe took.
        faults: what a kubelet would have ended the container for.
    """

    def __init__(
        self, specification: Manifest, grace_s: float, folders: Mapping[str, Path], log: Path, **settings: object
    ) -> None:
        """
        Args:
            grace_s: the pod's terminationGracePeriodSeconds.
            folders: for each path that the specification mounts, what is there.
            settings: of the service, beside those of the specification.
        """
        self._specification = specification
        self._grace_s = grace_s
        self._log = log
        ports = {str(port["containerPort"]): port.get("name") for port in specification["ports"]}
        given = image.environment() | environment(specification)
        self._ports = {number: free_port() for number in (*ports, given["RESNET_ADMIN_PORT"])}
        self._named = {name: number for number, name in ports.items() if name}
        self.port = self._ports[self._named["http"]]
        self.url = f"http://127.0.0.1:{self.port}"
        given |= {f"RESNET_{name.upper()}": str(value) for name, value in settings.items()}
        mounted = {mount["mountPath"] for mount in specification["volumeMounts"]}
        assert mounted <= folders.keys()
        given = {name: self._here(value, folders) for name, value in given.items()}
        command = [*specification.get("command", image.entry_point()), *specification.get("args", [])]
        command = [sys.executable if part == "python" else part for part in command]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RESNET_")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env={**ours, "TMPDIR": str(folders["/tmp"]), **given}, stdout=output, stderr=output
            )
        self.ready = False
        self.started: float | None = None
        self.faults: list[str] = []
        self._ending = threading.Event()
        self._prober = threading.Thread(target=self._probe, daemon=True)
        self._prober.start()

    def _here(self, value: str, folders: Mapping[str, Path]) -> str:
        """A setting's value with this machine's port or folder in place of the container's."""
        if re.fullmatch(r"\d{4,5}", value) and value in self._ports:
            return str(self._ports[value])
        return str(folders[value]) if value in folders else value

    def _succeeds(self, probe: Manifest) -> bool:
        asked = probe["httpGet"]
        port = self._ports[str(self._named.get(asked["port"], asked["port"]))]
        try:
            answer = request("GET", f"http://127.0.0.1:{port}{asked['path']}", timeout=probe["timeoutSeconds"])
        except Exception:
            return False
        return 200 <= answer.status_code < 400

    def _probe(self) -> None:
        """First the startup probe alone; then the others, each in its period."""
        begun = time.monotonic()
        startup = self._specification["startupProbe"]
        for _ in range(startup["failureThreshold"]):
            if self._succeeds(startup):
                break
            if self._ending.wait(startup["periodSeconds"]):
                return
        else:
            self.faults.append("not started in time")
            return
        self.started = time.monotonic() - begun
        due = dict.fromkeys(("readinessProbe", "livenessProbe"), time.monotonic())
        failed = dict.fromkeys(due, 0)
        while not self._ending.wait(0.05):
            for kind in due:
                probe = self._specification[kind]
                if time.monotonic() < due[kind]:
                    continue
                due[kind] = time.monotonic() + probe["periodSeconds"]
                failed[kind] = 0 if self._succeeds(probe) else failed[kind] + 1
                too_often = failed[kind] >= probe["failureThreshold"]
                if kind == "readinessProbe":
                    self.ready = not too_often if failed[kind] in (0, probe["failureThreshold"]) else self.ready
                elif too_often and not self._ending.is_set():
                    self.faults.append("not live")
                    return

    def terminate(self) -> tuple[int, float]:
        """Runs the preStop hook, sends SIGTERM and, once the grace period is over, SIGKILL.

        Returns:
            The exit status (negative: the signal), and the seconds of the grace period that were left.
        """
        deadline = time.monotonic() + self._grace_s
        hook: dict[str, Any] = self._specification["lifecycle"]["preStop"]
        time.sleep(hook["sleep"]["seconds"])
        self._ending.set()  # probes of a container that is asked to end mean nothing any more
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = self.kill()
        return status, deadline - time.monotonic()

    def kill(self) -> int:
        """The exit status."""
        self._ending.set()
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def listens(self) -> bool:
        """Whether the container's port `http` takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        return self._log.read_text()
