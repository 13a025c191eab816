"""The client for asyncio."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import httpx

from service.client import calls, connection
from service.client.calls import Answer, Call, Classes
from service.client.connection import CONCURRENCY, DEADLINE_S, RETRIES, Verify
from service.client.errors import ConnectionFailed, DeadlineMissed
from service.client.exchange import Broken, Deadline, Send, exchange
from service.client.images import Image, read_image, several
from service.client.results import Classification, Explanation, Model, Outcome, Preview
from service.client.streams import in_tasks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class AsyncClient:
    """Calls a service, on an asyncio loop. Everything is as in `Client`, whose methods say more."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline: float = DEADLINE_S,
        retries: int = RETRIES,
        verify: Verify = True,
    ) -> None:
        connection.check(deadline, retries)
        self._http = httpx.AsyncClient(**connection.options(url, api_key, verify))
        self._deadline = deadline
        self._retries = retries

    async def classify(
        self,
        image: Image,
        *,
        model: str | None = None,
        depth: int | None = None,
        top_k: int | None = None,
        labels: Classes | None = None,
        deadline: float | None = None,
    ) -> Classification:
        """Classifies one image."""
        limit = self._limit(deadline)
        return await self._run(calls.classify(await _read(image), model, depth, top_k, labels), limit)

    def classify_many(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        concurrency: int = CONCURRENCY,
        ordered: bool = True,
        model: str | None = None,
        depth: int | None = None,
        top_k: int | None = None,
        labels: Classes | None = None,
        deadline: float | None = None,
    ) -> AsyncGenerator[Outcome[Classification], None]:
        """Classifies any number of images, and yields what becomes of them.

        Takes images ahead of the outcomes, at most 2 * `concurrency`; outcomes do not wait for the next image. To leave
        earlier, `aclose` it: that cancels the requests that have been sent.
        """
        connection.check_concurrency(concurrency)
        self._limit(deadline)

        async def work(image: Image) -> Classification:
            return await self.classify(image, model=model, depth=depth, top_k=top_k, labels=labels, deadline=deadline)

        return in_tasks(work, several(images), concurrency, ordered)

    async def explain(
        self,
        image: Image,
        *,
        classes: Classes | None = None,
        top_k: int | None = None,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> Explanation:
        """The class activation maps of one image, as arrays."""
        limit = self._limit(deadline)
        return await self._run(calls.explain(await _read(image), model, depth, classes, top_k), limit)

    async def explain_png(
        self,
        image: Image,
        *,
        label: str | int | None = None,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """The upright image with the map of one class over it, as a PNG file."""
        limit = self._limit(deadline)
        return await self._run(calls.explain_png(await _read(image), model, depth, label), limit)

    async def embed(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        normalize: bool = False,
        concurrency: int = CONCURRENCY,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> NDArray[np.float32]:
        """The pooled features of images: float32 `(images, dimensions)`, in the order of the images."""
        import numpy as np  # here: classifying needs no arrays

        connection.check_concurrency(concurrency)
        limit = self._limit(deadline)

        async def work(image: Image) -> NDArray[np.float32]:
            return await self._run(calls.embed(await _read(image), model, depth, normalize), limit)

        async with aclosing(in_tasks(work, several(images), concurrency, ordered=True)) as outcomes:
            rows = [outcome.result() async for outcome in outcomes]
        if not rows:
            raise ValueError("there are no images to embed")
        return np.concatenate(rows)

    async def preview(
        self, image: Image, *, model: str | None = None, depth: int | None = None, deadline: float | None = None
    ) -> Preview:
        """What the network sees of an image."""
        limit = self._limit(deadline)
        return await self._run(calls.preview(await _read(image), model, depth), limit)

    async def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """The models that the service has."""
        return await self._run(calls.models(), self._limit(deadline))

    async def ready(self, *, deadline: float | None = None) -> bool:
        """Whether the service takes requests now. Does not try again."""
        try:
            return await self._run(calls.ready(), self._limit(deadline), retries=0)
        except (ConnectionFailed, DeadlineMissed):
            return False

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _limit(self, deadline: float | None) -> Deadline:
        return Deadline(self._deadline if deadline is None else deadline)

    async def _run(self, call: Call[T], deadline: Deadline, retries: int | None = None) -> T:
        steps = exchange(call, self._retries if retries is None else retries, deadline)
        came: Answer | Broken | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Send):
                came = await self._send(call, step)
            else:
                await asyncio.sleep(step.seconds)
                came = None

    async def _send(self, call: Call[T], step: Send) -> Answer | Broken:
        answered = False
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.parameters,
            headers=step.headers,
            content=call.image,
            timeout=step.timeout,
        )
        try:
            async with asyncio.timeout(None if step.seconds == math.inf else step.seconds):
                response = await self._http.send(request, stream=True)
                answered = True
                body = await response.aread()  # also closes it
        except (httpx.RequestError, TimeoutError) as error:
            return Broken(error, answered)
        return Answer(response.status_code, response.headers, body)


async def _read(image: Image) -> bytes:
    return image if isinstance(image, bytes) else await asyncio.to_thread(read_image, image)
