"""One ready model, computed in this process: its engine behind a batcher, then its head and top-k."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from service.backend import Answer, BatchItem, EngineFailed, NotDecoded, Pending, Work
from service.batch_sizes import ExactSizes, PaddedSizes
from service.batching import Batcher, Ran
from service.metrics import Metrics
from service.model_repository import Model
from service.runtime.engine import Engine
from service.runtime.graph import OUTPUTS, Output
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.scores import TopK, top_k
from service.tracing.traces import NO_MARK, ids_of

if TYPE_CHECKING:
    from service.tracing.spans import Spans

log = logging.getLogger(__name__)

# Consecutive images, each computed by itself, on which the engine fails before the process gives up: after some CUDA
# errors nothing ever succeeds again, and only a new process helps.
FAILURES = 3


class EngineBroken(EngineFailed):
    """The engine has failed several times in a row; the message says why."""


class LaneFailed(Exception):
    """The engine cannot compute on the thread of a lane; the message says why."""


class LocalRunner:
    """An engine behind a batcher; adds the head (softmax or sigmoid) and top-k. A `Runner`."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        metrics: Metrics,
        *,
        max_wait: float = 0.0,
        spans: Spans | None = None,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
    ) -> None:
        """
        Args:
            max_wait: seconds that a batch that is not full waits for more images.
            spans: where batches are traced.
            on_broken: called once, on a thread, when the engine has failed `FAILURES` times in a row.

        Raises:
            LaneFailed
        """
        self.info = engine.info
        self.decodes = engine.info.decodes
        self._name = model.name
        self._engine = engine
        self._on_broken = on_broken
        self._failures = 0  # consecutive, over all lanes
        self._broken = False
        self._counting = threading.Lock()
        self._temperature = model.card.temperature
        self._head = model.card.head.kind
        self._spans = spans
        self._described: dict[str, str | int] = {
            "resnet.model": model.reference,
            "resnet.provider": engine.info.provider,
            "resnet.precision": engine.info.precision,
        }
        best = engine.info.tuned.tuning.best if engine.info.tuned else None
        self._running = metrics.running.labels(model=model.name)
        self._sizes = metrics.batch_size.labels(model=model.name)
        self._batcher: Batcher[BatchItem, Answer] = Batcher(
            self._run,
            sizes=PaddedSizes(seconds) if (seconds := engine.seconds) else ExactSizes(engine.info.batch_sizes),
            lanes=engine.info.lanes,
            prepare=self._prepare,
            max_wait=max_wait,
            expected_rate=best.peak if best else 0.0,
            shortest=best.lone_ms / 1000 if best else 0.0,
            on_batch=self._count,
            name=f"engine-{model.name}",
        )

    @property
    def unanswered(self) -> int:
        return self._batcher.unanswered

    @property
    def per_second(self) -> float:
        return self._batcher.drain_rate.per_second

    @property
    def work(self) -> Work:
        """The batch that has run longest."""
        # While versions change, two runners have the same name.
        return Work(f"the engine of {self._name}", self._batcher.oldest, lasts=True, owner=id(self))

    def pending(self) -> Pending:
        """The batcher drops cancelled futures before it computes."""
        return asyncio.get_running_loop().create_future()

    def submit(self, item: BatchItem, pending: Pending) -> None:
        """Raises Closed after `close`."""
        self._batcher.submit(item, pending, item.deadline)

    def close(self) -> None:
        """Finishes what is queued. Blocks."""
        self._batcher.close()

    def _prepare(self) -> None:
        try:
            self._engine.prepare_thread()
        except Exception as error:
            raise LaneFailed(str(error) or repr(error)) from error

    def _count(self, batch: Ran[BatchItem]) -> bytes:
        """Counts a batch, and traces it; returns the mark of its span."""
        size, mark = len(batch.items), NO_MARK
        if self._spans:
            marks = [item.mark for item in batch.items]
            attributes = {**self._described, "resnet.batch_size": size}
            mark = self._spans.batch(marks, batch.started, batch.seconds, attributes, failed=batch.failed)
        if not batch.failed:
            self._sizes.observe(size, None if mark == NO_MARK else ids_of(mark))
        return mark

    def _run(self, items: Sequence[BatchItem], alone: bool) -> list[Answer | Exception]:
        self._running.inc(len(items))
        try:
            return self._results(items, alone)
        finally:
            self._running.dec(len(items))

    def _results(self, items: Sequence[BatchItem], alone: bool) -> list[Answer | Exception]:
        """Computes a batch. If the engine fails, computes each item once more by itself: only the guilty one fails."""
        try:
            return self._answers(items, alone)
        except Exception as error:
            if len(items) == 1:
                raise self._failed(items[0], error) from error
            message = "%s: a batch of %d failed, so each image runs by itself: %s"
            log.warning(message, self._name, len(items), error, extra=_requests_of(items))
        results: list[Answer | Exception] = []
        for item in items:
            if self._broken:
                results.append(EngineBroken(f"{self._name}: the engine has failed {FAILURES} times in a row"))
                continue
            try:
                results += self._answers([item], alone)
            except Exception as error:
                results.append(self._failed(item, error))
        return results

    def _failed(self, item: BatchItem, error: Exception) -> EngineFailed:
        """Logs why an image has no answer: the only record of it, in whichever process the engine is."""
        log.error("%s: the engine failed on an image", self._name, exc_info=error, extra=_requests_of([item]))
        return EngineFailed(str(error))

    def _answers(self, items: Sequence[BatchItem], alone: bool) -> list[Answer | Exception]:
        """The answers to a batch. Raises what the engine raises.

        NotDecoded for a JPEG whose logits are not finite, EngineFailed for any other image: float16 has overflowed, or
        the hardware is faulty.
        """
        outputs = self._infer(items, alone)
        logits = outputs["logits"]
        finite = np.isfinite(logits).all(axis=1)
        best = iter(top_k(logits[finite], max(item.top_k for item in items), self._temperature, self._head))
        results: list[Answer | Exception] = []
        for row, (item, is_finite) in enumerate(zip(items, finite, strict=True)):
            if is_finite:
                ids, probabilities = next(best)
                # Copies: a view would hold the whole batch's memory.
                own: dict[Output, np.ndarray] = {name: outputs[name][row].copy() for name in item.outputs}
                results.append(Answer(TopK(ids[: item.top_k], probabilities[: item.top_k]), own))
            elif isinstance(item.image, EncodedJpeg):
                results.append(NotDecoded())
            else:
                log.error("%s: the logits of an image are not finite", self._name, extra=_requests_of([item]))
                results.append(EngineFailed("the network's logits for this image are not finite"))
        return results

    def _infer(self, items: Sequence[BatchItem], alone: bool) -> dict[Output, np.ndarray]:
        """The logits, and what else some of the items ask for, by name; float32 `(N, ...)`.

        Re-raises the engine's exceptions; counts those on a single image.
        """
        asked = {name for item in items for name in item.outputs}
        wanted = tuple(name for name in OUTPUTS if name == "logits" or name in asked)
        try:
            outputs = self._engine.infer([item.image for item in items], outputs=wanted, alone=alone)
        except Exception as error:
            if len(items) > 1:  # each of them runs again by itself: a batch may only be too large for the memory
                raise
            with self._counting:
                self._failures += 1
                breaks = self._failures >= FAILURES and not self._broken
                self._broken |= breaks
            if breaks:
                self._on_broken(EngineBroken(f"{self._name}: the engine has failed {FAILURES} times in a row: {error}"))
            raise
        with self._counting:
            self._failures = 0
        return outputs


def _requests_of(items: Sequence[BatchItem]) -> dict[str, object]:
    """For the log: whose images these are. A record can name several requests, but only one trace."""
    marks = {item.mark for item in items}
    mark = marks.pop() if len(marks) == 1 else NO_MARK
    return {"request_id": " ".join(dict.fromkeys(item.request_id for item in items)), "trace": mark}
