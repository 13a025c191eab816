"""What a soak measures every second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import kib
from benchmarks.soak.ledger import MOST_DETAILS, Ledger
from benchmarks.soak.replicas import Replica
from service.bench.requests import percentile

GOOD_ID = re.compile(r"good-(\d+)")
ADDRESS = re.compile(r":(\d+)")  # the ports of the replicas; a name without one means that none was left to try
TRIES = ("upstream_status", "upstream_seconds")


class Tree(NamedTuple):
    """A replica's processes together. Memory in MB (10^6 bytes).

    Attributes:
        pids: of its processes; with others begins another stretch.
        pss: a page that several processes share is split among them.
        rss: it counts in full for each.
        answered: requests that the balancer has had from the replica since the start of the soak.
    """

    pids: tuple[int, ...]
    pss: float
    rss: float
    descriptors: int
    threads: int
    answered: int


class Sample(NamedTuple):
    """
    Attributes:
        at: seconds since the start.
        right, busy, late, lost: the good clients' requests since the sample before.
        p50, p99: milliseconds of the right ones; NaN without any.
        trees: by the replica's name.
    """

    at: float
    right: int
    busy: int
    late: int
    lost: int
    p50: float
    p99: float
    trees: dict[str, Tree]


def measure(replica: Replica, answered: int) -> Tree:
    """Leaves out processes that end meanwhile."""
    pids = replica.pids
    pss = rss = descriptors = threads = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            folder = Path(f"/proc/{pid}")
            sizes = kib(folder / "smaps_rollup")
            pss += sizes.get("Pss", 0)
            rss += sizes.get("Rss", 0)
            descriptors += sum(1 for _ in (folder / "fd").iterdir())
            threads += sum(1 for _ in (folder / "task").iterdir())
    return Tree(tuple(pids), pss * 1024 / 1e6, rss * 1024 / 1e6, descriptors, threads, answered)


class AccessLog:
    """The balancer's log, read as it grows.

    Attributes:
        good: how often each good client's request is in it.
        answered: requests by the port of the replica that answered.
        replayed: requests that went to more than one replica.
        failed: the first entries with status 500 or 502.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.good: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.replayed = 0
        self.failed: list[dict[str, object]] = []

    def read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + newline)
        for line in whole.splitlines():
            entry = json.loads(line)
            if found := GOOD_ID.fullmatch(entry["id"]):
                self.good[int(found[1])] += 1
            if ports := ADDRESS.findall(entry["upstream"]):
                self.answered[int(ports[-1])] += 1
            self.replayed += len(ports) > 1
            if entry["status"] in (500, 502) and len(self.failed) < MOST_DETAILS:
                self.failed.append({name: entry[name] for name in ("time", "id", "status", "upstream", *TRIES)})


class Sampler:
    """
    Args:
        progress: called with every sample.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        access_log: AccessLog,
        ledger: Ledger,
        progress: Callable[[Sample], object],
    ) -> None:
        self.samples: list[Sample] = []
        self._replicas = replicas
        self._access_log = access_log
        self._ledger = ledger
        self._progress = progress
        self._before = Counter(ledger.outcomes)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(1 - self._ledger.now % 1)
            for replica in self._replicas:
                await self._check(replica)
            sample = await self.sample()
            self.samples.append(sample)
            self._progress(sample)

    async def sample(self) -> Sample:
        await asyncio.to_thread(self._access_log.read)
        trees = {
            replica.name: await asyncio.to_thread(measure, replica, self._access_log.answered[replica.port])
            for replica in self._replicas
        }
        outcomes, before, self._before = self._ledger.outcomes, self._before, Counter(self._ledger.outcomes)
        milliseconds = sorted(1000 * latency for latency in self._ledger.latencies)
        self._ledger.latencies.clear()
        p50, p99 = (percentile(milliseconds, percent) for percent in (50, 99))
        since = {name: outcomes[name] - before[name] for name in ("right", "busy", "late", "lost")}
        return Sample(at=self._ledger.now, **since, p50=p50, p99=p99, trees=trees)

    async def _check(self, replica: Replica) -> None:
        """Reports and restarts a replica that ended though nothing was done to it."""
        if replica.may_end or replica.process.poll() is None:
            return
        self._ledger.complain(
            f"{replica.name} ended by itself, status {replica.process.returncode}: {replica.last_words()}"
        )
        replica.start()
