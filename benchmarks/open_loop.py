"""The open-loop load of `service.bench`, summed up and in a process of its own.

python -m benchmarks.open_loop URL --body FILE --rate 20 --seconds 10 [--content-type image/jpeg] [--seed 0]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from service.bench.open_loop import DRAIN_S, MAX_CONNECTIONS, Client, schedule, settled
from service.bench.requests import NO_HEADERS, Upload, percentile


class OpenLoad(NamedTuple):
    """What one run measured: rates per second, latencies in milliseconds."""

    offered: float  # arrivals per second in this schedule; by chance not quite the requested rate
    completed: int
    failed: int  # answers other than 2xx, broken connections, requests not answered in time
    p50: float
    p95: float
    p99: float


def ideal_latencies(moments: Sequence[float], *, servers: int, service_s: float) -> list[float]:
    """Latencies in an ideal queue, in seconds: what remains is due to chance in the arrivals alone.

    M/D/c: first come, first served, by `servers` that each take `service_s` for every request.
    """
    free = [0.0] * servers
    latencies = []
    for moment in moments:
        ended = max(moment, heapq.heappop(free)) + service_s
        heapq.heappush(free, ended)
        latencies.append(ended - moment)
    return latencies


async def drive(
    url: str,
    body: bytes,
    *,
    rate: float,
    seconds: float,
    content_type: str = "image/jpeg",
    seed: int = 0,
    max_connections: int = MAX_CONNECTIONS,
    drain: float = DRAIN_S,
    headers: Mapping[str, str] = NO_HEADERS,
) -> OpenLoad:
    """POSTs `body` from this process, at `rate` requests per second on average, with these further headers."""
    moments = schedule(rate, seconds, seed)
    client = Client(url, [Upload(body, content_type)], max_connections, headers=headers)
    answers = await settled(await client.send_all(moments), drain)
    client.close()
    milliseconds = sorted(1000 * answer.latency for answer in answers if answer.ok)
    p50, p95, p99 = (percentile(milliseconds, percent) for percent in (50, 95, 99))
    completed = len(milliseconds)
    return OpenLoad(len(moments) / seconds, completed, len(moments) - completed, p50, p95, p99)


def run(
    url: str,
    body: bytes,
    *,
    rate: float,
    seconds: float,
    content_type: str,
    seed: int,
    headers: Mapping[str, str] = NO_HEADERS,
) -> OpenLoad:
    """As `drive`, in a process of its own: its event loop shares an interpreter with no other code."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = {"body": file.name, "rate": rate, "seconds": seconds, "content-type": content_type, "seed": seed}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments += [f"--header={name}:{value}" for name, value in headers.items()]
        command = [sys.executable, "-m", "benchmarks.open_loop", url, *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return OpenLoad(**json.loads(output))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="what to load, such as http://127.0.0.1:8000/classify")
    parser.add_argument("--body", type=Path, metavar="FILE", required=True, help="the file to POST")
    parser.add_argument("--rate", type=float, required=True, help="requests per second, on average")
    parser.add_argument("--seconds", type=float, required=True, help="how long requests are sent")
    parser.add_argument("--content-type", default="image/jpeg", help="of --body (default: %(default)s)")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="a further one, repeatable")
    args = parser.parse_args()
    driving = drive(
        args.url,
        args.body.read_bytes(),
        rate=args.rate,
        seconds=args.seconds,
        content_type=args.content_type,
        seed=args.seed,
        headers={name: value.strip() for name, _, value in (header.partition(":") for header in args.header)},
    )
    print(json.dumps(asyncio.run(driving)._asdict()))


if __name__ == "__main__":
    main()
