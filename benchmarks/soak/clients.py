"""Good clients: a closed loop of requests whose answers are known."""

from __future__ import annotations

import asyncio
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import httpx
from PIL import Image

from benchmarks.soak.ledger import Ledger
from model_export.drawings.pictures import CLASSES, picture
from service.errors import DeadlineMissed

CLIENTS = 12
MOST_IMAGES = 4  # in a form
DEADLINE_MS = 3000
TIMEOUT_S = 120  # longer than the balancer lets any request take
SURE = 1.05  # the best class is at least this many times as probable as the second: rounding cannot turn them
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}


class Known(NamedTuple):
    """An image file, and the class that a model gives it."""

    content: bytes
    content_type: str
    class_id: int


def files() -> Iterator[tuple[bytes, str]]:
    """Drawings in every format: content and content type."""
    for index in range(len(CLASSES)):
        jpeg = picture(7, index)
        content_type, kind = list(FORMATS.items())[index % len(FORMATS)]
        if kind == "JPEG":
            yield jpeg, content_type
            continue
        buffer = io.BytesIO()
        Image.open(io.BytesIO(jpeg)).save(buffer, kind)
        yield buffer.getvalue(), content_type


async def learn(replica_url: str, models: Sequence[str]) -> dict[str, list[Known]]:
    """The files with a clear answer, by model, from a replica that nothing disturbs.

    Raises:
        RuntimeError: a model gives all of them one class: a mixed-up answer would look right.
    """
    known: dict[str, list[Known]] = defaultdict(list)
    async with httpx.AsyncClient(base_url=replica_url, timeout=TIMEOUT_S) as client:
        for model in models:
            for content, content_type in files():
                target = f"/classify?model={model}&top_k=2"
                response = await client.post(target, content=content, headers={"content-type": content_type})
                first, second = response.raise_for_status().json()["images"][0]["predictions"]
                if first["probability"] > SURE * second["probability"]:
                    known[model].append(Known(content, content_type, first["class_id"]))
            if len({one.class_id for one in known[model]}) < 2:
                raise RuntimeError(f"{model} answers one class only")
    return known


class GoodClients:
    """
    Args:
        known: images by model.
        versions: those that may answer; grows while the soak publishes more.
    """

    def __init__(self, url: str, known: dict[str, list[Known]], versions: set[int], ledger: Ledger) -> None:
        self._url = url
        self._known = known
        self._versions = versions
        self._ledger = ledger
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Lets `run` return once every request has its answer."""
        self._stopping.set()

    async def run(self, random: Random) -> None:
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_S, limits=limits) as client:
            await asyncio.gather(*(self._repeat(client, Random(random.random())) for _ in range(CLIENTS)))

    async def _repeat(self, client: httpx.AsyncClient, random: Random) -> None:
        loop = asyncio.get_running_loop()
        models = list(self._known)
        while not self._stopping.is_set():
            number = self._ledger.send()
            # Mostly the smallest model: more requests, more faults that meet one.
            model = models[0] if random.random() < 0.8 else random.choice(models)
            images = random.choices(self._known[model], k=random.choice([1, 1, 1, random.randint(2, MOST_IMAGES)]))
            deadline = random.random() < 0.1
            start = loop.time()
            try:
                response = await self._post(client, number, model, images, deadline=deadline)
            except httpx.HTTPError as error:
                self._ledger.settle(number, repr(error), loop.time() - start)
                continue
            self._ledger.answered.add(number)
            outcome = self._judge(response, number, images, deadline=deadline)
            self._ledger.settle(number, outcome, loop.time() - start)
            if outcome == "busy":
                await asyncio.sleep(min(5.0, float(response.headers["retry-after"])))

    async def _post(
        self, client: httpx.AsyncClient, number: int, model: str, images: Sequence[Known], *, deadline: bool
    ) -> httpx.Response:
        headers = {"x-request-id": f"good-{number}"}
        if deadline:
            headers["x-request-timeout-ms"] = str(DEADLINE_MS)
        target = f"/classify?model={model}&top_k=1"
        if len(images) == 1:
            headers["content-type"] = images[0].content_type
            return await client.post(target, content=images[0].content, headers=headers)
        parts = [("file", (f"{i}", image.content, image.content_type)) for i, image in enumerate(images)]
        return await client.post(target, files=parts, headers=headers)

    def _judge(self, response: httpx.Response, number: int, images: Sequence[Known], *, deadline: bool) -> str:
        """`right`, `busy` or `late`; or what is wrong."""
        if response.headers.get("x-request-id") != f"good-{number}":
            return f"the answer to {response.headers.get('x-request-id')}"
        if response.status_code == 503 and "retry-after" in response.headers:
            document = response.json()
            if document["type"] == "about:blank":  # of the balancer itself: no replica has taken the request
                return f"503 {document['detail']}"
            self._ledger.busy[document["title"]] += 1
            return "busy"
        if response.status_code == 504 and deadline and response.json()["title"] == DeadlineMissed.title:
            return "late"
        if response.status_code != 200:
            return f"{response.status_code} {response.text[:300]}"
        document = response.json()
        if document["version"] not in self._versions:
            return f"version {document['version']}, which should answer nobody"
        classes = [_class_id(result) for result in document["images"]]
        right = [image.class_id for image in images]
        if deadline and DeadlineMissed.title in classes:  # of a form, some images may be late
            pairs = zip(classes, right, strict=True)
            if all(found in (class_id, DeadlineMissed.title) for found, class_id in pairs):
                return "late"
        return "right" if classes == right else f"classes {classes} instead of {right}"


def _class_id(result: dict[str, Any]) -> int | str:
    """The class of one image; if it has none, the title of its fault."""
    if "predictions" in result:
        class_id: int = result["predictions"][0]["class_id"]
        return class_id
    return f"{result['error']['title']}"
