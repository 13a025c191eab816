"""Clients that leave, dawdle, are idle, or send hostile bodies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random

import httpx

from benchmarks.soak.hostile import BODIES
from benchmarks.soak.ledger import Ledger

TIMEOUT_S = 120
MOST_DAWDLING_S = 40  # every deadline for slow clients is shorter
PAUSE_S = 0.5  # between two clients of one kind, on average


class Strangers:
    """
    Args:
        balancer: its port. Hostile bodies go there.
        replicas: their ports. Clients that leave go there as well: the balancer would hide many of them.
        good: a JPEG.
        model: which they ask for.
    """

    def __init__(self, balancer: int, replicas: Sequence[int], good: bytes, model: str, ledger: Ledger) -> None:
        self._balancer = balancer
        self._ports = [balancer, *replicas]
        self._good = good
        self._target = f"/classify?model={model}"
        self._ledger = ledger

    async def run(self, random: Random) -> None:
        """Until cancelled."""
        kinds: dict[str, Callable[[Random], Awaitable[None]]] = {
            "left while uploading": self._leave_while_uploading,
            "left while queued or running": self._leave_after_upload,
            "left without reading the answer": self._do_not_read,
            "slow headers": self._send_headers_slowly,
            "slow body": self._send_body_slowly,
            "idle": self._be_idle,
        }
        tasks = [self._repeat(kind, act, Random(random.random())) for kind, act in kinds.items()]
        await asyncio.gather(*tasks, *(self._attack(Random(random.random())) for _ in range(2)))

    async def _repeat(self, kind: str, act: Callable[[Random], Awaitable[None]], random: Random) -> None:
        """Starts a client of one kind after the other, without waiting for its end."""
        async with asyncio.TaskGroup() as group:

            async def one(own: Random) -> None:
                try:
                    await act(own)
                except ConnectionRefusedError:  # the replica is down
                    return
                except OSError:  # reset, or the client's own time is over
                    pass
                self._ledger.strangers[kind] += 1

            while True:
                group.create_task(one(Random(random.random())))
                await asyncio.sleep(random.expovariate(1 / PAUSE_S))

    async def _attack(self, random: Random) -> None:
        """Sends every kind of hostile body, in random order, again and again."""
        url = f"http://127.0.0.1:{self._balancer}{self._target}"
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            while True:
                for kind in random.sample(list(BODIES), len(BODIES)):
                    body = BODIES[kind](self._good, random)
                    headers = {"content-type": body.content_type}
                    status = None
                    with contextlib.suppress(httpx.TransportError):
                        status = (await client.post(url, content=body.content, headers=headers)).status_code
                    self._ledger.hostile[kind][status] += 1
                    await asyncio.sleep(random.expovariate(1 / PAUSE_S))

    @property
    def _head(self) -> bytes:
        lines = [f"POST {self._target} HTTP/1.1", "Host: soak", "Content-Type: image/jpeg"]
        return "\r\n".join([*lines, f"Content-Length: {len(self._good)}", "", ""]).encode()

    @contextlib.asynccontextmanager
    async def _connection(self, random: Random) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the balancer or a replica; at the end it is closed, or reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", random.choice(self._ports))
        try:
            yield reader, writer
        finally:
            if random.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()

    async def _leave_while_uploading(self, random: Random) -> None:
        async with self._connection(random) as (_, writer):
            writer.write(self._head + self._good[: random.randrange(len(self._good))])
            await asyncio.sleep(random.uniform(0, 0.5))

    async def _leave_after_upload(self, random: Random) -> None:
        async with self._connection(random) as (_, writer):
            writer.write(self._head + self._good)
            await asyncio.sleep(random.expovariate(1 / 0.02))

    async def _do_not_read(self, random: Random) -> None:
        async with self._connection(random) as (_, writer):
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: soak\r\n\r\n" * 16)
            await asyncio.sleep(random.uniform(0, 2))

    async def _send_headers_slowly(self, random: Random) -> None:
        await self._dawdle(b"GET / HTTP/1.1\r\nX-Slow: ", random)

    async def _send_body_slowly(self, random: Random) -> None:
        await self._dawdle(self._head, random)

    async def _be_idle(self, random: Random) -> None:
        await self._dawdle(b"", random, each=b"")

    async def _dawdle(self, first: bytes, random: Random, each: bytes = b"x") -> None:
        """Sends a byte a second until the server has enough of it, or it is time to leave."""
        async with self._connection(random) as (reader, writer), asyncio.timeout(random.uniform(1, MOST_DAWDLING_S)):
            writer.write(first)
            reading = asyncio.create_task(reader.read())
            try:
                while not reading.done():
                    writer.write(each)
                    await asyncio.wait([reading], timeout=1)
            finally:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await reading
