"""Measures levels of load, one after the other, from this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.bench.closed_loop import drive
from service.bench.levels import Level
from service.bench.open_loop import DRAIN_S, Client, schedule, settled
from service.bench.requests import NO_ANSWER, Upload

WARM_UP_S = 1.0  # of each level, not measured


class Target(NamedTuple):
    """What to load, and with what.

    Attributes:
        url: of the operation.
        uploads: take turns.
        headers: further ones of each request.
    """

    url: str
    uploads: Sequence[Upload]
    headers: Mapping[str, str]


def closed(target: Target, connections: int, seconds: float) -> Level:
    """Every connection sends the next request when it has been answered. Raises OSError if nothing listens."""
    drive(target.url, target.uploads, connections, min(WARM_UP_S, seconds), target.headers)
    found = drive(target.url, target.uploads, connections, seconds, target.headers)
    latencies = sorted(1000 * latency for latency in found.latencies)
    return Level(connections, None, found.elapsed, latencies, found.refusals, found.cpu)


def opened(target: Target, rate: float, seconds: float, seed: int = 0) -> Level:
    """Requests are sent at random times, whatever has become of those before."""
    asyncio.run(_opened(target, rate, min(WARM_UP_S, seconds), seed + 1))
    return asyncio.run(_opened(target, rate, seconds, seed))


async def _opened(target: Target, rate: float, seconds: float, seed: int) -> Level:
    client = Client(target.url, target.uploads, headers=target.headers)
    cpu, start = time.process_time(), asyncio.get_running_loop().time()
    outcomes = await client.send_all(schedule(rate, seconds, seed))
    answers = await settled(outcomes, DRAIN_S)
    cpu = time.process_time() - cpu
    client.close()
    latencies = sorted(1000 * answer.latency for answer in answers if answer.ok)
    refusals = Counter(answer.refusal for answer in answers if not answer.ok)
    if late := len(outcomes) - len(answers):
        refusals[NO_ANSWER] += late
    ended = max((answer.due + answer.latency - start for answer in answers), default=0.0)
    return Level(None, rate, max(seconds, ended), latencies, refusals, cpu)
