"""One soak, from the first process to the last."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.balancer import ACCESS_LOG, nginx
from benchmarks.small_disk import small_file_system
from benchmarks.soak.clients import GoodClients, learn
from benchmarks.soak.faults import ENDING, HANG_TIMEOUT_S, KINDS, Faults, Versions
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.replicas import Replica, until, write_keys
from benchmarks.soak.sampling import AccessLog, Sample, Sampler, Tree, measure
from benchmarks.soak.strangers import Strangers
from model_export.drawings.pictures import picture

MEMORY_BUDGET = 5 * 2**28  # the replicas' setting, in bytes; two workers need 1.15e9 at least
TARGET_WAIT_MS = 10_000  # also a setting: while one replica is down, the other is not overloaded, only slow
DESCRIPTORS_MORE = 10  # that a replica may hold at the end: what it opens when it first needs it
SETTLE_S = 30.0  # for connections to end, when all clients have left; the replicas' own deadlines are shorter
SMALL_DISK = 64 * 2**20  # bytes; the file system of a temporary folder
PAUSE_S = 5.0  # between two faults, on average; less in a short soak
ENDING_SHARE = 0.6  # of the time in which processes are ended; then the two that are there stay, so that leaks show


class Plan(NamedTuple):
    """
    Attributes:
        seconds: how long, at least: every kind of fault is injected once.
        models_dir: a folder of published models. It is copied.
        models: their names; the first is the smallest, and the default.
        kinds: of faults.
        instead: other values of the balancer's directives, as in `nginx`.
    """

    seconds: float
    seed: int
    models_dir: Path
    models: Sequence[str]
    kinds: Sequence[str] = KINDS
    instead: Mapping[str, str] | None = None


class Outcome(NamedTuple):
    """
    Attributes:
        seconds: how long it took.
        start, end: the replicas without load, by name.
        impossible: kinds of faults that this machine does not allow.
    """

    plan: Plan
    seconds: float
    ledger: Ledger
    samples: list[Sample]
    access_log: AccessLog
    start: dict[str, Tree]
    end: dict[str, Tree]
    impossible: list[str]


def copy_models(plan: Plan, root: Path) -> None:
    """Copies version 1 of each model, without modes: it may be read-only."""
    for name in plan.models:
        shutil.copytree(plan.models_dir / name / "1", root / name / "1", copy_function=shutil.copyfile)


def soak(plan: Plan, progress: Callable[[Sample, Ledger], object]) -> Outcome:
    """Runs it.

    Args:
        progress: called every second.

    Raises:
        RuntimeError: a replica or nginx did not start.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        small, ordinary, balancer = folder / "small", folder / "ordinary", folder / "nginx"
        for path in (small, ordinary, balancer):
            path.mkdir()
        mounted = stack.enter_context(small_file_system(small, SMALL_DISK)) is None
        copy_models(plan, folder / "models")
        write_keys(folder / "keys.toml")
        options = {
            "models-dir": folder / "models",
            "default-model": plan.models[0],
            "cache-dir": folder / "cache",
            "provider": "cpu",
            "precision": "fp32",
            "max-batch": 4,
            "hang-timeout": HANG_TIMEOUT_S,
            "poll-interval": 2,
            "target-wait-ms": TARGET_WAIT_MS,
            "memory-budget": MEMORY_BUDGET,
            "api-keys-file": folder / "keys.toml",
            "anonymous-classify": True,
        }
        single = Replica("single process", folder, options, ordinary)
        stack.callback(single.destroy)
        multiple = Replica("two workers", folder, {**options, "workers": 2}, small)
        stack.callback(multiple.destroy)
        port = stack.enter_context(nginx(balancer, [single.port, multiple.port], instead=plan.instead))
        return asyncio.run(_soak(plan, progress, single, multiple, port, folder, small if mounted else None))


async def _soak(
    plan: Plan,
    progress: Callable[[Sample, Ledger], object],
    single: Replica,
    multiple: Replica,
    port: int,
    folder: Path,
    small: Path | None,
) -> Outcome:
    replicas = (single, multiple)
    for replica in replicas:
        await replica.until_ready()
    known = await learn(single.url, plan.models)
    await learn(multiple.url, plan.models)  # as much work for this one before both are measured
    start = {replica.name: measure(replica, 0) for replica in replicas}

    ledger = Ledger()
    access_log = AccessLog(folder / "nginx" / ACCESS_LOG)
    versions = Versions(folder / "models", plan.models[0])
    sampler = Sampler(replicas, access_log, ledger, lambda sample: progress(sample, ledger))
    clients = GoodClients(f"http://127.0.0.1:{port}", known, versions.good, ledger)
    strangers = Strangers(port, [replica.port for replica in replicas], picture(7, 0), plan.models[0], ledger)
    faults = Faults(single, multiple, versions, plan.models[0], small, ledger)
    random = Random(plan.seed)
    pause = min(PAUSE_S, plan.seconds / 60)
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(sampler.run())
        good = group.create_task(clients.run(Random(random.random())))
        bad = group.create_task(strangers.run(Random(random.random())))
        order = Random(random.random())
        await faults.run(order, plan.kinds, pause, ENDING_SHARE * plan.seconds)
        lasting = [kind for kind in plan.kinds if kind not in ENDING]
        if lasting:
            await faults.run(order, lasting, pause, plan.seconds)
        bad.cancel()
        clients.stop()
        await good
        seconds = ledger.now
        with contextlib.suppress(TimeoutError):  # the judgement is in `report`
            async with asyncio.timeout(SETTLE_S):
                await until(lambda: _closed(replicas, start), "all connections end")
        await asyncio.sleep(1)  # one more sample, and the rest of the balancer's log
        sampling.cancel()
    await asyncio.to_thread(access_log.read)
    replaced = multiple.logged("starting another")
    if replaced != multiple.may_lose:
        ledger.complain(f"{replaced} workers were replaced, {multiple.may_lose} had been killed or stopped")
    end = {replica.name: measure(replica, access_log.answered[replica.port]) for replica in replicas}
    impossible = [kind for kind in plan.kinds if kind not in {event.kind for event in ledger.faults}]
    return Outcome(plan, seconds, ledger, sampler.samples, access_log, start, end, impossible)


async def _closed(replicas: Sequence[Replica], start: Mapping[str, Tree]) -> bool:
    """Whether the replicas hold no more descriptors than at the start."""
    return all(measure(replica, 0).descriptors <= start[replica.name].descriptors for replica in replicas)
