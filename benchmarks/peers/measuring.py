"""A run of the benchmark: every server with every engine, one after the other, round after round.

wrk counts the answers that come before its time is up. A server that batches may then have a batch unanswered, which
lowers its measured rate: with batches of 8 and 35 requests/s, by at most 6 % in 4 s.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import open_loop, wrk
from benchmarks.peers.catalogue import OURS, Peer
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.keeper import cpu_seconds_below, memory_below
from benchmarks.peers.model import ENGINES, OURS_BESIDE, EngineName, load
from benchmarks.peers.servers import NotServing, Server, serving

CONNECTIONS = (1, 8, 32)
LOADS = (0.5, 0.7, 0.85)  # rates of the open loop, as fractions of the highest rate in the closed loop
OPEN_LOOP_TIMES = 2  # as long as the closed loop: random arrivals need more requests for the same spread
WARM_UP_S = 2

Figures = dict[str, float]


@dataclass
class Setting:
    """A peer with an engine, and its figures.

    Attributes:
        version: the version of the peer's package.
        error: why the peer could not be installed or measured.
        rounds: figures of each round, by name: `8.p99` is from the closed loop with 8 connections, `open70.p99` from
            the open loop at 70 % of capacity.
    """

    peer: str
    engine: EngineName
    version: str = "?"
    error: str | None = None
    rounds: list[Figures] = field(default_factory=list)


class Plan(NamedTuple):
    """What to measure, and for how long."""

    rounds: int
    seconds: int  # of load at each number of connections
    open_loop: bool


def measure(
    peers: Sequence[Peer], engines: Sequence[EngineName], model: Path, jpeg: bytes, plan: Plan
) -> list[Setting]:
    """Runs all rounds. A peer that fails is left out from then on; its setting has the error."""
    settings, pythons = _install(peers, engines)
    by_name = {peer.name: peer for peer in peers}
    expected = {engine: _expected(engine, model, jpeg) for engine in {setting.engine for setting in settings}}
    for number, setting in _steps(settings, plan.rounds):
        if setting.error is not None:
            continue
        peer, python = by_name[setting.peer], pythons[setting.peer]
        try:
            with serving(peer, python, model, setting.engine, jpeg, expected[setting.engine]) as server:
                figures = _load(server, plan, seed=number)
        except (NotServing, subprocess.CalledProcessError, OSError) as error:  # also of its tools, or of wrk
            setting.error = f"round {number + 1}: {error}"
            tqdm.write(f"{setting.peer}, engine: {setting.engine}: {error}", file=sys.stderr)
        else:
            setting.rounds.append(figures)
    return settings


def _install(peers: Sequence[Peer], engines: Sequence[EngineName]) -> tuple[list[Setting], dict[str, Path]]:
    """All settings, still without figures, and the interpreters of the peers that could be installed."""
    settings: list[Setting] = []
    pythons: dict[str, Path] = {}
    for peer in peers:
        version, failure = "?", None
        try:
            pythons[peer.name] = peer.python()
            version = peer.version(pythons[peer.name])
        except EnvironmentFailed as error:
            failure = str(error)
            print(f"{peer.name}: {failure}", file=sys.stderr)
        chosen = {OURS_BESIDE[engine] for engine in engines} if peer.name == OURS else set(engines)
        settings += [Setting(peer.name, engine, version, failure) for engine in ENGINES if engine in chosen]
    return settings, pythons


def _steps(settings: Sequence[Setting], rounds: int) -> Iterator[tuple[int, Setting]]:
    with tqdm(total=rounds * len(settings), unit="server") as bar:
        for number in range(rounds):
            for setting in settings:
                bar.set_postfix_str(f"{setting.peer}, engine: {setting.engine}")
                yield number, setting
                bar.update()


def _expected(engine: EngineName, model: Path, jpeg: bytes) -> list[int]:
    """The five top classes, computed here. Not one, since other precisions may rank close classes differently."""
    loaded = load(engine, model)
    return [prediction["class_id"] for prediction in loaded.infer(loaded.decode(jpeg)[None])[0]]


def _load(server: Server, plan: Plan, seed: int) -> Figures:
    """The figures of one server in one round."""
    _closed_loop(server, connections=8, seconds=WARM_UP_S)
    server.drain()
    figures: Figures = {}
    for connections in CONNECTIONS:
        cpu = cpu_seconds_below(server.keeper)
        closed = _closed_loop(server, connections=connections, seconds=plan.seconds)
        cpu = cpu_seconds_below(server.keeper) - cpu
        figures |= _named(str(connections), closed)
        server.drain()
        if closed["per_second"]:
            figures[f"{connections}.cpu_ms"] = 1000 * cpu / (closed["per_second"] * plan.seconds)
    figures |= _named("memory", memory_below(server.keeper)._asdict())
    capacity = max(figures[f"{connections}.per_second"] for connections in CONNECTIONS)
    if plan.open_loop and capacity:
        for share in LOADS:
            open_load = open_loop.run(
                server.url,
                server.body,
                rate=share * capacity,
                seconds=OPEN_LOOP_TIMES * plan.seconds,
                content_type=server.content_type,
                seed=seed,
                headers=server.headers,
            )
            server.drain()
            figures |= _named(f"open{100 * share:.0f}", open_load._asdict())
    return figures


def _closed_loop(server: Server, *, connections: int, seconds: int) -> Figures:
    """Good answers per second, failures, and latencies of all answers in milliseconds (none without answers)."""
    found = wrk.summary(
        server.url,
        server.body,
        content_type=server.content_type,
        connections=connections,
        seconds=seconds,
        headers=server.headers,
    )
    figures: Figures = {
        "per_second": max(0, found.requests - found.failed) / found.seconds,
        "failed": found.failed,
    }
    return figures | ({"p50": found.p50, "p95": found.p95, "p99": found.p99} if found.requests else {})


def _named(prefix: str, figures: Mapping[str, float]) -> Figures:
    """Figures under a prefix, without those that are NaN because no request was answered."""
    return {f"{prefix}.{name}": value for name, value in figures.items() if not math.isnan(value)}
