"""The alternating run: every peer with every engine, one after the other, round after round."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import open_loop
from benchmarks.peers import closed_loop
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.model import EngineName, load
from benchmarks.peers.processes import cpu_seconds, memory
from benchmarks.peers.servers import NotServing, Server, serving

CONNECTIONS = (1, 8, 32)
LOADS = (0.5, 0.7, 0.85)  # of the open loop, as fractions of the capacity that the closed loop has just found
OPEN_LOOP_TIMES = 2  # as long as the closed loop: arrivals by chance need more of them for the same spread
WARM_S = 2

Figures = dict[str, float]


@dataclass
class Setting:
    """A peer with an engine, and what was measured of it.

    Attributes:
        version: of the peer's package.
        error: why it could not be installed or measured.
        rounds: figures of each round, by name; `8.p99` is of the closed loop with 8 connections, `open70.p99` of the
            open loop at 70 % of capacity.
    """

    peer: str
    engine: EngineName
    version: str = "?"
    error: str | None = None
    rounds: list[Figures] = field(default_factory=list)


class Plan(NamedTuple):
    """How long and what to measure."""

    rounds: int
    seconds: int  # of load at each number of connections
    open_loop: bool


def measure(
    peers: Sequence[Peer], engines: Sequence[EngineName], model: Path, jpeg: bytes, plan: Plan
) -> list[Setting]:
    """All rounds. A peer that fails is reported as such, and the rest goes on without it."""
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
        except (NotServing, subprocess.CalledProcessError, OSError) as error:  # its tools, or wrk when it has died
            setting.error = f"round {number + 1}: {error}"
            tqdm.write(f"{setting.peer}, engine: {setting.engine}: {error}", file=sys.stderr)
        else:
            setting.rounds.append(figures)
    return settings


def _install(peers: Sequence[Peer], engines: Sequence[EngineName]) -> tuple[list[Setting], dict[str, Path]]:
    """What there is to measure, still without figures, and the interpreters of the peers that have one."""
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
        chosen = [engine for engine in engines if engine in peer.engines] or peer.engines
        settings += [Setting(peer.name, engine, version, failure) for engine in chosen]
    return settings, pythons


def _steps(settings: Sequence[Setting], rounds: int) -> Iterator[tuple[int, Setting]]:
    with tqdm(total=rounds * len(settings), unit="server") as bar:
        for number in range(rounds):
            for setting in settings:
                bar.set_postfix_str(f"{setting.peer}, engine: {setting.engine}")
                yield number, setting
                bar.update()


def _expected(engine: EngineName, model: Path, jpeg: bytes) -> list[int]:
    """The five classes that an engine puts first, computed here; other precisions may order close ones differently."""
    loaded = load(engine, model)
    return [prediction["class_id"] for prediction in loaded.infer(loaded.decode(jpeg)[None])[0]]


def _load(server: Server, plan: Plan, seed: int) -> Figures:
    """One round of one server."""
    closed_loop.run(server, connections=8, seconds=WARM_S)
    server.drain()
    figures: Figures = {}
    for connections in CONNECTIONS:
        cpu = cpu_seconds(server.keeper)
        closed = closed_loop.run(server, connections=connections, seconds=plan.seconds)
        cpu = cpu_seconds(server.keeper) - cpu
        figures |= _named(str(connections), closed._asdict())
        server.drain()
        if closed.per_second:
            figures[f"{connections}.cpu_ms"] = 1000 * cpu / (closed.per_second * plan.seconds)
    figures |= _named("memory", memory(server.keeper)._asdict())
    capacity = max(figures[f"{connections}.per_second"] for connections in CONNECTIONS)
    if plan.open_loop and capacity:
        for share in LOADS:
            seen = open_loop.run(
                server.url,
                server.body,
                rate=share * capacity,
                seconds=OPEN_LOOP_TIMES * plan.seconds,
                content_type=server.content_type,
                seed=seed,
            )
            server.drain()
            figures |= _named(f"open{100 * share:.0f}", seen._asdict())
    return figures


def _named(prefix: str, figures: Mapping[str, float]) -> Figures:
    """Under a prefix; without those that are no number, since nothing was completed."""
    return {f"{prefix}.{name}": value for name, value in figures.items() if not math.isnan(value)}
