"""What an overload does: requests at three times the capacity, those admitted, those refused, and the time after.

The capacity is measured first, in a closed loop. Then requests arrive at random times
(`service.bench.open_loop`). Every tenth that is refused comes back once, exactly after the time of its Retry-After:
while the load goes on, or after its end. From the end of the load on, requests are sent one after another, until one is
answered as fast as those sent alone before the load.

    python -m benchmarks.overload [--workers 1 2] [--rounds 3] [--seconds 60] [--times 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import RESULTS, describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.serving import model_options, service
from benchmarks.tables import markdown_table, spread, with_range
from service.bench.open_loop import Answer, Client, Outcome, schedule, settled
from service.bench.requests import Upload, percentile
from service.settings import Settings

CONNECTIONS = 8  # of the closed loop that measures the capacity: no more than wait for less than the target
CAPACITY_S = 6
LONE = 30  # requests one after another, before the load
RETURNING = 10  # one of so many refused requests comes back
DRAIN_S = 60.0  # for answers that are missing at the end of the load
RECOVERY_S = 60.0  # then the service counts as not recovered

# Figures, and the decimals to print.
FIGURES = {
    "capacity, requests/s": 1,
    "offered ÷ capacity": 2,
    "admitted, requests": 0,
    "wait in the queue, p50 ms": 0,
    "wait in the queue, p99 ms": 0,
    "wait in the queue, longest ms": 0,
    "admitted, p50 ms": 0,
    "admitted, p99 ms": 0,
    "admitted, longest ms": 0,
    "refused, % of all": 1,
    "refusal, p50 ms": 1,
    "refusal, p99 ms": 1,
    "Retry-After, longest s": 0,
    "came back during the load": 0,
    "of them admitted, %": 1,
    "came back after the load": 0,
    "of those admitted, %": 1,
    "neither answered nor refused": 0,
    "queue empty after s": 2,
    "answer as usual after s": 2,
    "alone, p50 ms": 1,
    "alone, longest ms": 1,
}


class Observed(NamedTuple):
    """What became of one overload. Times are those of the event loop's clock, in seconds."""

    lone: Sequence[Answer]  # before the load
    ended: float  # when the last request of the load was sent
    sent: int  # without those that came back
    answers: Sequence[Answer]
    returned: Sequence[Answer]
    afterwards: Sequence[Answer]  # one after another since `ended`


async def overload(url: str, body: bytes, moments: Sequence[float]) -> Observed:
    """Sends a request at every moment of a schedule, in seconds.

    Raises:
        RuntimeError: a request sent alone before the load was not answered.
    """
    with ExitStack() as stack:
        client, returning, alone = (stack.enter_context(closing(Client(url, [Upload(body)]))) for _ in range(3))
        return await _overload(client, returning, alone, moments)


async def _overload(client: Client, returning: Client, alone: Client, moments: Sequence[float]) -> Observed:
    loop = asyncio.get_running_loop()
    lone = [await alone.send(loop.time()) for _ in range(LONE)]
    if not all(answer.ok for answer in lone):
        raise RuntimeError(f"requests sent alone got {[answer.status for answer in lone]}")
    usual = max(answer.latency for answer in lone)
    refused = 0
    returns: list[asyncio.Task[Answer]] = []

    async def come_back(pause: float) -> Answer:
        await asyncio.sleep(pause)
        return await returning.send(loop.time())

    def answered(outcome: Outcome) -> None:
        nonlocal refused
        if (pause := retry_after(outcome.result())) is not None:
            refused += 1
            if refused % RETURNING == 0:
                returns.append(loop.create_task(come_back(pause)))

    outcomes = await client.send_all(moments, on_answer=answered)
    ended = loop.time()
    afterwards: list[Answer] = []
    while loop.time() < ended + RECOVERY_S:
        afterwards.append(await alone.send(loop.time()))
        if afterwards[-1].ok and afterwards[-1].latency <= usual:
            break
        if not afterwards[-1].ok:
            await asyncio.sleep(0.01)  # refused in no time, or the connection broke
    answers = await settled(outcomes, DRAIN_S)
    returned = await settled(returns, DRAIN_S)
    return Observed(lone, ended, len(outcomes), answers, returned, afterwards)


def retry_after(answer: Answer) -> float | None:
    """The seconds after which a refused request should come back; None if it was not refused."""
    return float(answer.headers["retry-after"]) if answer.status == 503 and "retry-after" in answer.headers else None


def queued_ms(answer: Answer) -> float:
    """The wait in the queue that an answer reports: Server-Timing."""
    entries = (entry.strip().split(";dur=") for entry in answer.headers["server-timing"].split(","))
    return next(float(entry[1]) for entry in entries if entry[0] == "queue")


def figures(observed: Observed, capacity: float, seconds: float) -> dict[str, float]:
    """The `FIGURES` of one overload, without those of which there was nothing to measure."""
    admitted = [answer for answer in observed.answers if answer.ok]
    refused = [answer for answer in observed.answers if retry_after(answer) is not None]
    waits = sorted(queued_ms(answer) for answer in admitted)
    totals, refusals, lone = (
        sorted(1000 * answer.latency for answer in answers) for answers in (admitted, refused, observed.lone)
    )
    during = [answer for answer in observed.returned if answer.due <= observed.ended]
    after = [answer for answer in observed.returned if answer.due > observed.ended]
    usual = max(answer.latency for answer in observed.lone)
    last_of_load = [answer for answer in [*admitted, *observed.returned] if answer.ok]
    first_as_usual = [answer for answer in observed.afterwards if answer.ok and answer.latency <= usual]
    found = {
        "capacity, requests/s": capacity,
        "offered ÷ capacity": observed.sent / seconds / capacity,
        "admitted, requests": len(admitted),
        "wait in the queue, p50 ms": percentile(waits, 50),
        "wait in the queue, p99 ms": percentile(waits, 99),
        "wait in the queue, longest ms": percentile(waits, 100),
        "admitted, p50 ms": percentile(totals, 50),
        "admitted, p99 ms": percentile(totals, 99),
        "admitted, longest ms": percentile(totals, 100),
        "refused, % of all": percent(len(refused), observed.sent),
        "refusal, p50 ms": percentile(refusals, 50),
        "refusal, p99 ms": percentile(refusals, 99),
        "Retry-After, longest s": max((retry_after(answer) or 0 for answer in refused), default=math.nan),
        "came back during the load": len(during),
        "of them admitted, %": percent(sum(answer.ok for answer in during), len(during)),
        "came back after the load": len(after),
        "of those admitted, %": percent(sum(answer.ok for answer in after), len(after)),
        "neither answered nor refused": observed.sent - len(admitted) - len(refused),
        "queue empty after s": max((ended(answer) - observed.ended for answer in last_of_load), default=math.nan),
        "answer as usual after s": min((ended(answer) - observed.ended for answer in first_as_usual), default=math.nan),
        "alone, p50 ms": percentile(lone, 50),
        "alone, longest ms": 1000 * usual,
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def ended(answer: Answer) -> float:
    """When a request had been answered, on the event loop's clock."""
    return answer.due + answer.latency


def percent(part: int, whole: int) -> float:
    """NaN of nothing."""
    return 100 * part / whole if whole else math.nan


def table(found: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """A row for every figure and a column for every number of workers, over all rounds."""
    rows = []
    for name, digits in FIGURES.items():
        measured = [[figures[name] for figures in rounds if name in figures] for rounds in found.values()]
        rows.append([name, *(with_range(spread(values), digits) if values else "–" for values in measured)])
    return markdown_table(["", *(f"workers: {workers}" for workers in found)], rows)


def measure(model: Path, workers: int, seconds: float, times: float, seed: int) -> dict[str, float]:
    """One service, freshly started, and one overload."""
    with service(model_options(model) | {"workers": workers}) as running:
        capacity = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=CAPACITY_S).images_per_second
        moments = schedule(times * capacity, seconds, seed)
        return figures(asyncio.run(overload(running.url, photo(), moments)), capacity, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers to measure (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seconds", type=float, default=60, help="of overload (default: 60)")
    parser.add_argument("--times", type=float, default=3, help="the load, in capacities (default: 3)")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=RESULTS / "overload.json",
        help="save the figures and the machine here (default: benchmarks/results/overload.json)",
    )
    args = parser.parse_args()
    machine, target = describe(), Settings.model_fields["target_wait_ms"].default
    model = published(RESNET50, "int8")
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in args.workers}
    for number in tqdm(range(args.rounds), unit="round"):
        for workers in args.workers:
            found[workers].append(measure(model, workers, args.seconds, args.times, seed=number))
    print(heading(machine))
    print(f"ResNet-50, target_wait_ms {target:g}")
    print(f"medians of {args.rounds} rounds of {args.seconds:g} s (lowest–highest)\n")
    print(table(found))
    plan = {name: getattr(args, name) for name in ("rounds", "seconds", "times")}
    rows = [{"workers": workers, "rounds": rounds} for workers, rounds in found.items()]
    save(args.json, machine=machine, plan=plan | {"target_wait_ms": target}, rows=rows)


if __name__ == "__main__":
    main()
