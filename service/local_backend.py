"""The backend that computes in this process: engines behind batchers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from service.backend import BatchItem, Failed, Pending, Ready, Work
from service.batch_sizes import ExactSizes, PaddedSizes
from service.batching import Batcher
from service.metrics import Metrics
from service.model_repository import Model
from service.runtime.engine import Engine
from service.runtime.loading import load_engine
from service.runtime.machine import return_freed_memory
from service.runtime.model_folder import CardError, verify_digests
from service.runtime.providers import ProviderUnavailable
from service.runtime.scores import TopK, top_k
from service.runtime.self_test import SelfTestFailed
from service.runtime.tuning import Cache
from service.settings import Settings

log = logging.getLogger(__name__)

# Consecutive failed runs after which the process gives up: after some CUDA errors no batch ever succeeds again, and
# only a new process helps.
FAILURES = 3


class EngineBroken(Exception):
    """The engine has failed several times in a row; the message says why."""


class NotFinite(Exception):
    """A logit is infinite or NaN: float16 has overflowed, or the hardware is faulty."""


def open_engine(model: Model, settings: Settings) -> Engine:
    """Loads a published model as the settings say. Raises as `load_engine` does."""
    return load_engine(
        model.path,
        model.card,
        provider=settings.provider,
        precision=settings.precision,
        threads=settings.engine_threads,
        lanes=settings.engine_threads,
        max_batch=settings.max_batch,
        cache=Cache(settings.cache_dir),
        gpu=settings.gpu,
    )


class LocalRunner:
    """An engine behind a batcher; adds softmax and top-k. A `Runner`."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        metrics: Metrics,
        *,
        max_wait: float = 0.0,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
    ) -> None:
        """
        Args:
            max_wait: seconds that a batch that is not full waits for more images.
            on_broken: called once, on a thread, when the engine has failed `FAILURES` times in a row.
        """
        self._name = model.name
        self._engine = engine
        self._on_broken = on_broken
        self._failures = 0  # consecutive, over all lanes
        self._broken = False
        self._counting = threading.Lock()
        calibration = model.card.calibration
        self._temperature = calibration.temperature if calibration else 1.0
        self._batcher: Batcher[BatchItem, TopK] = Batcher(
            self._run,
            sizes=PaddedSizes(seconds) if (seconds := engine.seconds) else ExactSizes(engine.info.batch_sizes),
            lanes=engine.info.lanes,
            prepare=engine.prepare_thread,
            max_wait=max_wait,
            expected_rate=engine.info.tuned.tuning.best.peak if engine.info.tuned else 0.0,
            on_batch=metrics.batch_size.labels(model=model.name).observe,
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
        return Work(f"the engine of {self._name}", self._batcher.oldest, self._batcher.longest)

    @property
    def queued(self) -> int:
        """Images that wait for the engine; for tests."""
        return len(self._batcher)

    def pending(self) -> Pending:
        """The batcher drops cancelled futures before it computes."""
        return asyncio.get_running_loop().create_future()

    def submit(self, item: BatchItem, pending: Pending) -> None:
        """Raises Closed after `close`."""
        self._batcher.submit(item, pending, item.deadline)

    def close(self) -> None:
        """Finishes what is queued. Blocks."""
        self._batcher.close()

    def _run(self, items: Sequence[BatchItem], alone: bool) -> list[TopK | Exception]:
        """Computes a batch. If the engine fails, computes each item once more by itself: only the guilty one fails."""
        try:
            return self._answers(items, alone)
        except Exception as error:
            if len(items) == 1:
                raise
            log.warning("%s: a batch of %d failed, so each image runs by itself: %s", self._name, len(items), error)
        results: list[TopK | Exception] = []
        for item in items:
            if self._broken:
                results.append(EngineBroken(f"{self._name}: the engine has failed {FAILURES} times in a row"))
                continue
            try:
                results += self._answers([item], alone)
            except Exception as error:
                log.exception("%s: an image failed by itself, too", self._name)
                results.append(error)
        return results

    def _answers(self, items: Sequence[BatchItem], alone: bool) -> list[TopK | Exception]:
        """The answers to a batch; NotFinite for an image whose logits are not. Raises what the engine raises."""
        logits = self._logits(items, alone)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            log.error("%s: the logits of %d of %d images are not finite", self._name, (~finite).sum(), len(items))
        best = iter(top_k(logits[finite], max(item.top_k for item in items), self._temperature))
        results: list[TopK | Exception] = []
        for item, is_finite in zip(items, finite, strict=True):
            if is_finite:
                ids, probabilities = next(best)
                results.append(TopK(ids[: item.top_k], probabilities[: item.top_k]))
            else:
                results.append(NotFinite("the network's logits for this image are not finite"))
        return results

    def _logits(self, items: Sequence[BatchItem], alone: bool) -> np.ndarray:
        """float32 `(N, classes)`. Counts and re-raises the engine's exceptions."""
        try:
            logits = self._engine.infer([item.pixels for item in items], alone=alone)["logits"]
        except Exception as error:
            with self._counting:
                self._failures += 1
                breaks = self._failures >= FAILURES and not self._broken
                self._broken |= breaks
            if breaks:
                self._on_broken(EngineBroken(f"{self._name}: the engine has failed {FAILURES} times in a row: {error}"))
            raise
        with self._counting:
            self._failures = 0
        return logits


def _log_error(job: Future[Ready | Failed]) -> None:
    if not job.cancelled() and (error := job.exception()):
        log.error("loading ended unexpectedly during the shutdown", exc_info=error)


class LocalBackend:
    """Loads models one after the other and computes them in this process. A `Backend`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
        open_engine: Callable[[Model, Settings], Engine] = open_engine,
    ) -> None:
        """
        Args:
            on_broken: called on a thread, once for each model whose engine fails again and again.
            open_engine: called on a thread to load a model.
        """
        self._open_engine = open_engine
        self._settings = settings
        self._metrics = metrics
        self._on_broken = on_broken
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._runners: list[LocalRunner] = []

    async def load(self, models: Iterable[Model]) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        for model in models:
            job = self._loader.submit(self._load, model)
            try:
                outcome = await asyncio.wrap_future(job)
            except asyncio.CancelledError:
                job.add_done_callback(_log_error)  # the thread goes on, and nobody waits for its outcome
                raise
            yield model, outcome

    def work(self) -> list[Work]:
        return [runner.work for runner in list(self._runners)]

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._loader.shutdown()  # a model that is being loaded is finished first
        for runner in self._runners:
            runner.close()

    def _load(self, model: Model) -> Ready | Failed:
        try:
            verify_digests(model.path, model.card)
            engine = self._open_engine(model, self._settings)
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            return self._failed(model, str(error))
        finally:
            return_freed_memory()
        try:
            runner = LocalRunner(
                model,
                engine,
                self._metrics,
                max_wait=self._settings.max_wait_ms / 1000,
                on_broken=self._break,
            )
        except Exception as error:  # a lane that does not warm up: no memory left on the GPU, say
            return self._failed(model, f"its engine does not run on the threads of its lanes: {error}")
        self._runners.append(runner)
        self._metrics.model_is_ready(
            model=model.name,
            version=str(model.card.version),
            depth=str(model.depth),
            variant=model.card.architecture.variant,
            provider=engine.info.provider,
            compute=engine.info.precision,
        )
        return Ready(engine.info, runner)

    def _failed(self, model: Model, reason: str) -> Failed:
        log.error("%s %d is not served: %s", model.name, model.card.version, reason)
        return Failed(reason)

    def _break(self, error: EngineBroken) -> None:
        log.error("%s", error)
        self._on_broken(error)
