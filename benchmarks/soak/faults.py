"""The faults of a soak, one after the other: at least one replica is always whole."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.small_disk import fill
from benchmarks.soak.ledger import Event, Ledger
from benchmarks.soak.replicas import Replica, until
from benchmarks.versions import publish_copy, remove

HANG_TIMEOUT_S = 6.0  # the replicas' setting; on a busy machine, an event loop has stood still for three seconds
FULL_S = 5.0  # how long the temporary folder is full

KILL_SINGLE = "kill the single process"
KILL_WORKER = "kill a worker"
KILL_ENGINE = "kill the engine process"
STOP_SINGLE = "stop the single process for a while"
STOP_WORKER = "stop a worker"
STOP_ENGINE = "stop the engine process"
ROLLING = "rolling restart"
PUBLISH = "publish a version"
PUBLISH_BROKEN = "publish a broken version"
REMOVE = "remove a version"
RELOAD = "reload"
FILL = "fill the temporary folder"

ENDING = (KILL_SINGLE, KILL_WORKER, KILL_ENGINE, STOP_WORKER, STOP_ENGINE, ROLLING)  # these end processes
LASTING = (STOP_SINGLE, PUBLISH, PUBLISH_BROKEN, REMOVE, RELOAD, FILL)  # these do not
KINDS = (*ENDING, *LASTING)


def _with_wrong_digest(card: dict[str, Any]) -> None:
    card["files"]["fp32"]["sha256"] = "0" * 64


class Versions:
    """The versions of one model, which come and go.

    Attributes:
        good: the numbers of all that were ever whole. No other may answer.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.good = {1}
        self._root = root
        self._name = name
        self._number = 1
        self._there: list[Path] = []  # those after the first

    def publish(self) -> int:
        """Returns the number of the new version."""
        self._number += 1
        self.good.add(self._number)
        self._there.append(publish_copy(self._root, self._name, self._number, self._name))
        return self._number

    def publish_broken(self) -> Path:
        """A version whose file is not the one that its card describes; returns its folder."""
        self._number += 1
        return publish_copy(self._root, self._name, self._number, self._name, _with_wrong_digest)

    def remove_newest(self) -> int:
        """Returns the number of the version that is left to answer."""
        if not self._there:
            self.publish()
        remove(self._there.pop())
        return int(self._there[-1].name) if self._there else 1


class Faults:
    """
    Args:
        single, multiple: the replicas: of one process, and of workers around an engine process.
        model: the model whose versions change.
        small_folder: the temporary folder of `multiple`, on a file system of its own; None if there is none.
    """

    def __init__(
        self,
        single: Replica,
        multiple: Replica,
        versions: Versions,
        model: str,
        small_folder: Path | None,
        ledger: Ledger,
    ) -> None:
        self._single = single
        self._multiple = multiple
        self._versions = versions
        self._model = model
        self._small_folder = small_folder
        self._ledger = ledger
        self._acts: dict[str, Callable[[Random], Awaitable[None]]] = {
            KILL_SINGLE: self._kill_single,
            KILL_WORKER: self._kill_worker,
            KILL_ENGINE: self._kill_engine,
            STOP_SINGLE: self._stop_single,
            STOP_WORKER: self._stop_worker,
            STOP_ENGINE: self._stop_engine,
            ROLLING: self._restart_both,
            PUBLISH: self._publish,
            PUBLISH_BROKEN: self._publish_broken,
            REMOVE: self._remove,
            RELOAD: self._reload,
            FILL: self._fill,
        }

    async def run(self, random: Random, kinds: Sequence[str], pause: float, until_at: float) -> None:
        """Injects every kind in random order, and all of them again, until the time is over; at least once.

        Args:
            pause: seconds between two faults, on average.
            until_at: seconds on the ledger's clock.
        """
        ready = [kind for kind in kinds if kind != FILL or self._small_folder]
        first = True
        while first or self._ledger.now < until_at:
            for kind in random.sample(ready, len(ready)):
                if first or self._ledger.now < until_at:
                    await asyncio.sleep(random.expovariate(1 / pause))
                    await self._inject(kind, random)
            first = False

    async def _inject(self, kind: str, random: Random) -> None:
        self._ledger.faults.append(Event(self._ledger.now, kind))
        try:
            await self._acts[kind](random)
            await self._until_answered()
        except (TimeoutError, RuntimeError, httpx.HTTPError) as error:
            self._ledger.complain(f"{kind}: {error!r}")
            await self._repair()
        self._ledger.ended.append(self._ledger.now)

    async def _until_answered(self) -> None:
        """Waits for the requests that may have met a fault: two replicas are too few for those that meet two."""
        met = set(self._ledger.waiting)

        async def answered() -> bool:
            return met.isdisjoint(self._ledger.waiting)

        await until(answered, "the requests that met a fault are answered")

    async def _repair(self) -> None:
        """Starts a replica anew that is down or does not get ready, so that one failure is reported once."""
        for replica in (self._single, self._multiple):
            try:
                await replica.until_ready()
            except (TimeoutError, RuntimeError):
                await asyncio.to_thread(replica.destroy)
                await self._start(replica)

    async def _start(self, replica: Replica) -> None:
        replica.start()
        self._ledger.restarts[replica.name] += 1
        await replica.until_ready()

    async def _kill_single(self, random: Random) -> None:
        await self._single.end(signal.SIGKILL)
        await self._start(self._single)

    async def _kill_engine(self, random: Random) -> None:
        await self._multiple.end(signal.SIGKILL)
        await self._start(self._multiple)

    async def _stop_engine(self, random: Random) -> None:
        """The workers kill it."""
        status = await self._multiple.end(signal.SIGSTOP)
        if status != -signal.SIGKILL:
            self._ledger.complain(f"{STOP_ENGINE}: it ended with status {status}")
        await self._start(self._multiple)

    async def _stop_single(self, random: Random) -> None:
        """For longer than counts as hung; it must go on where it was."""
        self._single.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(HANG_TIMEOUT_S + random.uniform(0.5, 2))
        self._single.process.send_signal(signal.SIGCONT)
        await self._single.until_ready()

    async def _kill_worker(self, random: Random) -> None:
        await self._replaced(random, signal.SIGKILL)

    async def _stop_worker(self, random: Random) -> None:
        """The engine process kills it."""
        await self._replaced(random, signal.SIGSTOP)

    async def _replaced(self, random: Random, number: signal.Signals) -> None:
        replica = self._multiple
        before = replica.logged("listens in its place")
        replica.may_lose += 1
        os.kill(random.choice(replica.workers), number)

        async def replaced() -> bool:
            return replica.logged("listens in its place") > before

        await until(replaced, "another worker in its place")
        self._ledger.restarts["worker"] += 1

    async def _restart_both(self, random: Random) -> None:
        for replica in random.sample([self._single, self._multiple], 2):
            status = await replica.end(signal.SIGTERM)
            if status:
                self._ledger.complain(f"{ROLLING}: {replica.name} ended with status {status}: {replica.last_words()}")
            await self._start(replica)
            await self._until_answered()

    async def _publish(self, random: Random) -> None:
        await self._until_answers(self._versions.publish())

    async def _remove(self, random: Random) -> None:
        await self._until_answers(self._versions.remove_newest())

    async def _publish_broken(self, random: Random) -> None:
        """It is taken away before another fault: a replica that started with it would have nothing else to serve."""
        folder = self._versions.publish_broken()
        for replica in (self._single, self._multiple):
            await self._until_listed(replica, int(folder.name), failed=True)
        remove(folder)
        # Workers list it until another version takes its place: only the engine process looks at the folder.
        await self._until_listed(self._single, int(folder.name), failed=False)

    async def _until_listed(self, replica: Replica, version: int, *, failed: bool) -> None:
        """Waits until a version is among the failed ones, or is not any more."""

        async def listed() -> bool:
            candidates = (await replica.get("/models"))["candidates"]
            states = {one["state"] for one in candidates if one["version"] == version}
            return states == ({"failed"} if failed else set())

        await until(listed, f"{replica.name} lists version {version} as {'failed' if failed else 'gone'}")

    async def _until_answers(self, version: int) -> None:
        for replica in (self._single, self._multiple):

            async def answers(replica: Replica = replica) -> bool:
                return bool((await replica.get(f"/models/{self._model}"))["version"] == version)

            await until(answers, f"{replica.name} answers with version {version}")

    async def _reload(self, random: Random) -> None:
        for replica in (self._single, self._multiple):
            status = await replica.reload()
            if status != 202:
                self._ledger.complain(f"{RELOAD}: {replica.name} answered {status}")

    async def _fill(self, random: Random) -> None:
        assert self._small_folder
        path = fill(self._small_folder)
        try:
            await asyncio.sleep(FULL_S)
        finally:
            path.unlink()
        await self._multiple.until_ready()
