"""The replicas of a soak: processes of the service that are ended and started again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.ports import free_ports
from benchmarks.processes import children, descendants

LONGEST_S = 120  # for anything that should happen: a start, an end
KEY = "soak"


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for a condition. Raises TimeoutError, which names it."""
    try:
        async with asyncio.timeout(LONGEST_S):
            while not await condition():  # noqa: ASYNC110 (no event tells of it)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"not within {LONGEST_S} s: {what}") from None


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def write_keys(path: Path) -> None:
    """Writes a file of API keys with one that may reload the models."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(f'[soak]\nsha256 = "{digest}"\nscopes = ["admin"]\n')


class Replica:
    """One replica on ports that stay its own.

    Attributes:
        may_end: whether a fault is about to end it. Otherwise its end is a defect.
        may_lose: workers that faults have killed, or will have made the replica kill.
    """

    def __init__(self, name: str, folder: Path, options: Mapping[str, object], temporary: Path) -> None:
        """
        Args:
            folder: for its log.
            temporary: its temporary folder.
        """
        self.name = name
        self.port, self.admin_port = free_ports(2)
        self.may_end = False
        self.may_lose = 0
        self._log = folder / f"{name}.log"
        ports = {"port": self.port, "admin-port": self.admin_port}
        arguments = [f"--{option}={value}" for option, value in {**options, **ports}.items()]
        self._command = [sys.executable, "-m", "service", *arguments]
        self._environment = {**os.environ, "TMPDIR": str(temporary)}
        self.start()

    def start(self) -> None:
        self.may_end = False
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, env=self._environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        """All of its processes."""
        return [self.pid, *descendants(self.pid)]

    @property
    def workers(self) -> list[int]:
        return children(self.pid)

    def logged(self, text: str) -> int:
        """How often a text is in its log."""
        return self._log.read_text().count(text)

    def last_words(self) -> str:
        return self._log.read_text()[-2000:]

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(timeout=LONGEST_S) as client:
            return (await client.get(self.url + path)).raise_for_status().json()

    async def reload(self) -> int:
        """Has it look at the model folder; returns the status of the answer."""
        async with httpx.AsyncClient(timeout=LONGEST_S) as client:
            url = f"http://127.0.0.1:{self.admin_port}/models/reload"
            return (await client.post(url, headers={"x-api-key": KEY})).status_code

    async def until_ready(self) -> None:
        """Raises TimeoutError; RuntimeError if it ends instead."""
        async with httpx.AsyncClient(timeout=LONGEST_S) as client:

            async def ready() -> bool:
                if self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended instead of getting ready: {self.last_words()}")
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get(f"http://127.0.0.1:{self.admin_port}/healthz/ready")
                    return answer.status_code == 200
                return False

            await until(ready, f"{self.name} is ready")

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal that ends it; returns its exit status once all of its processes have ended."""
        self.may_end = True
        pids = self.pids
        self.process.send_signal(number)
        return await self.ended(pids)

    async def ended(self, pids: list[int]) -> int:
        async def gone() -> bool:
            return self.process.poll() is not None and not any(exists(pid) for pid in pids)

        await until(gone, f"{self.name} and its processes end")
        status: int = self.process.returncode
        return status

    def destroy(self) -> None:
        """Kills all of its processes."""
        self.may_end = True
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
