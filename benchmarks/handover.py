"""How many images a second the engine process takes from its workers and answers, when computing costs nothing.

One process plays ten workers, each with as many images under way as they would have at 256 connections: it sends the
next one as soon as one is answered. The engine behind the real batcher sleeps for as long as a GPU takes for a batch,
and its logits are random. What is measured is all that the engine process does in Python.

    python -m benchmarks.handover [--rounds 5] [--seconds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import select
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvloop
from tqdm import tqdm

from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.tables import markdown_table, spread, with_range
from service.local_runner import LocalRunner
from service.metrics import Metrics
from service.model_repository import open_repository
from service.runtime.engine import Engine, EngineInfo, Images
from service.runtime.graph import Output
from service.settings import Settings
from service.tracing.traces import NO_MARK
from service.workers.engine_side import EngineSide
from service.workers.memory import Layout, SharedMemory
from service.workers.messages import SUBMIT, Outcome, Request, Unpacker, received
from service.workers.model_table import Loaded

WORKERS = 10
UNDER_WAY = 26  # images of each worker
WARM_UP = 100  # batches
BATCH_S = 0.005  # a batch of 64 images of a ResNet-50 on an H200
TOP_K = 5
REQUEST_ID = "5c0fe8b2-4a0d-4c0f-9f5e-0d5f1c2b7a90"


class Sleeping(Engine):
    """An engine that computes nothing.

    Attributes:
        batches: the size of each that it was given.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(EngineInfo("cuda", "fp16", 2, (1, 8, 32, 64), decodes=True))
        self._logits = np.random.default_rng(0).normal(size=(64, classes)).astype(np.float32)
        self.batches: list[int] = []

    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        self.batches.append(len(images))
        time.sleep(BATCH_S)
        return {"logits": self._logits[: len(images)].copy()}

    def warm_up(self) -> None:
        pass

    def prepare_thread(self) -> None:
        pass

    @property
    def seconds(self) -> None:
        return None

    def logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        return [self._logits[: len(images)]]

    def _black(self, size: int) -> np.ndarray:
        return np.zeros((size, 3, 224, 224), np.uint8)


class Measured(NamedTuple):
    """One measurement.

    Attributes:
        rate: images/s.
        cpu_us: microseconds of the processor's time an image, of all threads of the engine process.
    """

    rate: float
    cpu_us: float


def play_workers(socks: Sequence[socket.socket], slots: Sequence[range], request: Request) -> None:
    """Sends the next image for every answer, until the engine process closes its sockets."""
    ends = {sock.fileno(): (sock, Unpacker()) for sock in socks}
    poll = select.epoll()
    for sock, own in zip(socks, slots, strict=True):
        poll.register(sock, select.EPOLLIN)
        for slot in own:
            sock.send(request._replace(slot=slot).pack())
    while True:
        for number, _ in poll.poll():
            sock, unpacker = ends[number]
            for message in received(sock):
                if not message:
                    return
                answers = unpacker.unpack(message)
                assert isinstance(answers, list)
                for done in answers:
                    assert done.outcome is Outcome.ANSWERED, done
                    sock.send(request._replace(slot=done.slot).pack())


async def measure(jpeg_bytes: int, seconds: float) -> Measured:
    """This process is the engine process; another one plays the workers.

    Args:
        jpeg_bytes: of each image; 0 for pixels.
    """
    model = open_repository(Settings(models_dir=published(RESNET50).parent.parent)).get(RESNET50.name)
    classes, shape = len(model.card.labels), model.card.preprocessing.shape
    memory = SharedMemory.create(Layout(WORKERS, 1, UNDER_WAY, math.prod(shape), classes, jpeg_bytes))
    engine = Sleeping(classes)
    runner = LocalRunner(model, engine, Metrics())
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(WORKERS)]
    width, height = (500, 375) if jpeg_bytes else (0, 0)
    request = Request(SUBMIT, 0, 0, TOP_K, time.monotonic() + 3600, jpeg_bytes, width, height, 0, NO_MARK, REQUEST_ID)
    slots = [memory.slots_of(worker) for worker in range(WORKERS)]
    workers = multiprocessing.get_context("spawn").Process(
        target=play_workers, args=([theirs for _, theirs in pairs], slots, request)
    )
    workers.start()
    for _, theirs in pairs:
        theirs.close()
    sides = [
        EngineSide(ours, memory, worker, {0: Loaded(model, runner)}, *[lambda: None] * 3)
        for worker, (ours, _) in enumerate(pairs)
    ]
    while len(engine.batches) < WARM_UP:  # noqa: ASYNC110 (no event tells of it)
        await asyncio.sleep(0.1)
    cpu, started, first = time.process_time(), time.perf_counter(), len(engine.batches)
    await asyncio.sleep(seconds)
    images, took = sum(engine.batches[first:]), time.perf_counter() - started
    cpu = time.process_time() - cpu
    for side in sides:
        side.close()
    await asyncio.to_thread(runner.close)
    await asyncio.to_thread(workers.join)
    return Measured(images / took, 1e6 * cpu / images)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handover", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    machine, jpeg = describe(), photo()
    found = defaultdict(list)
    for _ in tqdm(range(args.rounds), unit="round"):
        for kind, size in (("pixels", 0), ("JPEGs", len(jpeg))):
            found[kind].append(uvloop.run(measure(size, args.seconds)))
    rows, cells = [], []
    for kind, values in found.items():
        rate, cpu_us = spread([value.rate for value in values]), spread([value.cpu_us for value in values])
        rows.append({"images": kind, "images_per_second": rate, "cpu_us": cpu_us})
        cells.append([kind, with_range(rate), with_range(cpu_us)])
    print(heading(machine))
    print(f"medians of {args.rounds} rounds (lowest–highest)\n")
    print(markdown_table(["images", "images/s", "CPU-µs per image"], cells))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
