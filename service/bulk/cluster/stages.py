"""The two stages of a run on a cluster, each on one machine: reading and decoding, and computing."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow

from service import logs
from service.bulk.cluster import places
from service.bulk.cluster.alone import Alone, Died
from service.bulk.local import opened
from service.bulk.rows import Answer, Problem
from service.bulk.stream import READERS, Source, Unreadable, Unusable
from service.errors import ComputationFailed, InternalError
from service.runtime.faults import ImageFault
from service.runtime.images.decoding import Decoded, decode
from service.runtime.images.headers import read_header
from service.runtime.preprocessing import Preprocessing
from service.settings import Settings
from service.upload_faults import ImageTooLarge, TooMuchMemory

log = logging.getLogger(__name__)

T = TypeVar("T")

DECODED = pyarrow.schema(
    {
        "name": pyarrow.string(),
        "problem": pyarrow.string(),  # in the place of the others
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "pixels": pyarrow.large_binary(),
    }
)
ROWS = pyarrow.schema(
    {"name": pyarrow.string(), "model": pyarrow.string(), "version": pyarrow.int32(), "entry": pyarrow.string()}
)
KILLED = Problem(
    "decoding-killed",
    "Decoding the image kills the process",
    "The processes that decoded this image died, the last of which did nothing else.",
    "Look whether other programs can open it; if they can, give the machines more memory, or report the fault.",
)


class Decoding(NamedTuple):
    """Reads and decodes a block of places, as the service does: reads several at once, and decodes one after the other,
    since the task has one CPU.

    Attributes:
        column: as for `places.blocks`.
        max_memory: bytes that decoding one image may take.
    """

    preprocessing: Preprocessing
    column: str | None
    max_image_bytes: int
    max_pixels: int
    scaled: bool
    max_memory: int

    def __call__(self, block: pyarrow.Table, *, alone: bool = False) -> Iterator[pyarrow.Table]:
        """Tables of the schema DECODED, with a row for each place.

        Args:
            alone: whether another process decodes. Slower, but an image that kills it becomes a row with a problem.
        """
        sources = places.sources(block, self.column, self.max_image_bytes)
        with ExitStack() as stack:
            readers = stack.enter_context(ThreadPoolExecutor(READERS, thread_name_prefix="reading"))
            decode = stack.enter_context(closing(Alone(self.decoded))) if alone else self.decoded
            decoded = (_record(name, reading, decode) for name, reading in _ahead(readers, sources))
            while records := list(itertools.islice(decoded, places.IN_A_BLOCK)):
                yield pyarrow.Table.from_pylist(records, DECODED)

    def decoded(self, data: bytes) -> Decoded | Problem:
        try:
            return self._decoded(data)
        except ImageFault as fault:
            return Problem.of(fault)

    def _decoded(self, data: bytes) -> Decoded:
        """Raises ImageFault."""
        if len(data) > self.max_image_bytes:
            raise ImageTooLarge(bytes=len(data), max_bytes=self.max_image_bytes)
        header = read_header(data, self.preprocessing, max_pixels=self.max_pixels, scaled=self.scaled)
        if header.decode_bytes > self.max_memory:
            raise TooMuchMemory(bytes=header.decode_bytes, max_bytes=self.max_memory)
        return decode(data, self.preprocessing, max_pixels=self.max_pixels, scaled=self.scaled, header=header)


def _record(name: str, reading: Future[bytes], decode: Callable[[bytes], Decoded | Problem]) -> dict[str, Any]:
    """The row of an image, by the names of DECODED."""
    try:
        found = decode(reading.result())
    except Unreadable as error:
        found = error.problem
    except Died:
        found = KILLED
    except Exception as error:
        log.exception("%s could not be decoded", name)
        found = Problem.of(ComputationFailed() if isinstance(error, MemoryError) else InternalError())
    if isinstance(found, Problem):
        return {"name": name, "problem": json.dumps(found.entry())}
    return {"name": name, "width": found.width, "height": found.height, "pixels": found.pixels.tobytes()}


def _ahead(readers: ThreadPoolExecutor, sources: Iterable[Source]) -> Iterator[tuple[str, Future[bytes]]]:
    """Names and bytes, in order. Reads on the readers' threads, a few sources ahead: storage on a network is slow."""
    started: deque[tuple[str, Future[bytes]]] = deque()
    for source in sources:
        started.append((source.name, readers.submit(source.read)))
        if len(started) > READERS:
            yield started.popleft()
    while started:
        yield started.popleft()


class Engine:
    """A loaded model, in a process of its own. Called from several threads at once."""

    def __init__(
        self, given: Mapping[str, Any], threads: int, model: str, labels: str | None, top_k: int | None, shape: Any
    ) -> None:
        """
        Args:
            given: the settings that the run was given; others are this machine's.
            threads: cores that a batch may use, unless it was given.
            model, labels, top_k: as of `opened`.
            shape: of the pixels: channels, height, width.
        """
        logs.configure("warning", "text", access=False)
        self._shape = shape
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        settings = Settings(**{"engine_threads": threads, "decode_threads": 1, **given})
        self._opened = opened(settings, model, None, labels, top_k)  # held: closing it would unload the model
        self._failure: Unusable | None = None
        try:
            self._classifier = self._run(self._opened.__aenter__())
        except Unusable as error:  # raised by a call: what is raised here, Ray prints among the rows
            self._failure = error

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """A table of the schema ROWS for one of the schema DECODED.

        Raises:
            Unusable: this machine cannot load the model.
            Ended
        """
        if self._failure:
            raise self._failure
        answers = self._run(self._answers(batch))
        names = batch["name"].to_pylist()
        return pyarrow.Table.from_pylist(
            [
                {"name": name, "model": answer.model, "version": answer.version, "entry": json.dumps(answer.entry)}
                for name, answer in zip(names, answers, strict=True)
            ],
            ROWS,
        )

    async def _answers(self, batch: pyarrow.Table) -> list[Answer]:
        columns = (batch[name] for name in ("problem", "width", "height", "pixels"))
        return await asyncio.gather(*(self._answer(*cells) for cells in zip(*columns, strict=True)))

    async def _answer(
        self, problem: pyarrow.Scalar, width: pyarrow.Scalar, height: pyarrow.Scalar, pixels: pyarrow.Scalar
    ) -> Answer:
        if problem.is_valid:
            return Answer(self._classifier.model, self._classifier.version, json.loads(problem.as_py()))
        seen = np.frombuffer(pixels.as_buffer(), np.uint8).reshape(self._shape)
        return await self._classifier.classify_decoded(Decoded(seen, width.as_py(), height.as_py()))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
